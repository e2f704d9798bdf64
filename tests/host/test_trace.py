"""A program's ROWs over time: the trace reads and writes what the machine does, and the picture shows it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke
from graph_cases import Network, same
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import BLOCKS, Limits, graphs, random_frames

from emberline.arch.architecture import Architecture
from emberline.arch.presets import preset
from emberline.cli.plot import lane_shares, stored_rows
from emberline.compiler.compile import compile_graph
from emberline.errors import CompileError
from emberline.model.graph import Graph
from emberline.model.machine import Machine
from emberline.model.outputs import pack_frame
from emberline.model.trace import cycles_after_input, trace
from emberline.zoo.synthetic import squeezenet_style

SMALL = Architecture("test", 8, 4, activation_depth_words=256, weight_depth_words=4096, program_depth_words=16384)
LIMITS = Limits(max_size=14, max_blocks=4, dilation=True, depthwise=True, blocks=BLOCKS)
PAIRING = replace(SMALL, lanes_out=8, requantisers=8, activation_depth_words=512)
SEPARABLE = replace(LIMITS, blocks=("separable", "separable", "convolution"))


class Watched(Machine):
    """Notes the groups that each ROW changes, and those that change what it writes when they do."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.changed: list[tuple[int, np.ndarray]] = []

    def _row(self, instruction: Any, ring: Any) -> None:
        before = self._groups.copy()
        super()._row(instruction, ring)
        self.changed.append((instruction.address, np.flatnonzero((before != self._groups).any(axis=1))))


@given(
    st.one_of(st.tuples(graphs(LIMITS), st.just(SMALL)), st.tuples(graphs(SEPARABLE), st.just(PAIRING))),
)
@settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_write_only_what_the_trace_says_in_all_predicted_cycles(case: tuple[Graph, Architecture]) -> None:
    graph, architecture = case
    try:
        program = compile_graph(graph, architecture)
    except CompileError:
        assume(False)
    rows = list(trace(program.instructions, architecture))
    machine = Watched(architecture)
    machine.load_weights(program.weights)
    machine.load_program(list(program.instructions))
    machine.run_frame(pack_frame(program, random_frames(np.random.default_rng(1), graph, 1)[0]))
    assert [row.address for row in rows] == [address for address, _ in machine.changed]
    for row, (_, changed) in zip(rows, machine.changed, strict=True):
        assert np.isin(changed, row.writes).all()
    assert [row.begin for row in rows[1:]] == [row.end for row in rows[:-1]]
    spent = sum(row.spent.total for row in rows)
    assert program.predicted_cycles - 200 < spent == rows[-1].end <= program.predicted_cycles


def test_a_row_is_stored_until_its_last_reader() -> None:
    """Two convolutions, 3x3 and 1x1, layer by layer: all of the first map is there when the second begins."""
    network = Network(6, 6, 4)
    network.convolution(network.convolution("input", 4, padding=same(3)), 4, (1, 1))
    program = compile_graph(network.graph(), preset("tiny-4x4"))
    rows = list(trace(program.instructions, program.architecture))
    stored = stored_rows(program, rows)
    first = [row for row in stored if row.layer == 0]
    readers = [row for row, where in zip(rows, stored, strict=True) if where.layer == 1]
    assert len(first) == 6 and len(readers) == 2  # of three rows each
    assert [row.until for row in first] == [reader.end for reader in readers for _ in range(3)]
    assert all(row.until == program.predicted_cycles for row in stored if row.layer == 1)
    shares = lane_shares(rows, program.predicted_cycles, 10)
    np.testing.assert_allclose(sum(shares.values()), 1)
    taps = sum(layer.spent.taps for layer in program.layers)
    assert shares["taps"].sum() * program.predicted_cycles / 10 == pytest.approx(taps)


def test_layer_by_layer_the_last_row_of_the_frame_comes_early_and_fused_late() -> None:
    graph = squeezenet_style("both")
    shares = []
    for words in (16384, 2048):
        machine = Architecture("test", 16, 8, words, 4096, 8192, requantisers=8)
        program = compile_graph(graph, machine)
        after = cycles_after_input(program.instructions, machine, program.input.map.height)
        assert 0 < after < program.predicted_cycles
        shares.append(after / program.predicted_cycles)
    assert shares[1] < shares[0]


def test_inspect_plots_models_and_programs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    picture, again, program = tmp_path / "picture.svg", tmp_path / "again.svg", tmp_path / "network.ember"
    assert invoke(capfd, "inspect", "synthetic-squeezenet", "--plot", str(picture)).status == 0
    text = picture.read_text()
    for shown in ("fire2/squeeze1x1", "frame: rows of the input", "multiplying", "activation memory, KiB"):
        assert shown in text
    assert invoke(capfd, "compile", "synthetic-squeezenet", "-o", str(program)).status == 0
    assert invoke(capfd, "inspect", str(program), "--plot", str(again)).status == 0
    assert again.read_text() == text
    refused = invoke(capfd, "inspect", str(program))
    assert refused.status == 1 and "needs the model itself" in refused.err
    refused = invoke(capfd, "inspect", "synthetic-1x1", "--plot", str(tmp_path / "picture.nonsense"))
    assert refused.status == 1 and "picture.nonsense" in refused.err


def test_plot_without_matplotlib_says_how_to_install_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finished = invoke(capfd, "inspect", "synthetic-1x1", "--plot", str(tmp_path / "picture.svg"))
    assert finished.status == 1 and "emberline[plot]" in finished.err


def test_fused_maps_lie_in_few_rows() -> None:
    """Depth first, a map of the fire modules is never stored whole."""
    program = compile_graph(squeezenet_style("fused"), Architecture("fused", 16, 8, 2048, 4096, 8192, requantisers=8))
    stored = stored_rows(program, list(trace(program.instructions, program.architecture)))
    for place, layer in enumerate(program.layers):
        if layer.name.endswith("fire2/expand3x3"):
            rows = [row for row in stored if row.layer == place]
            at_once = max(sum(row.since <= now < row.until for row in rows) for now in (row.since for row in rows))
            assert at_once < len(rows) / 2
            return
    pytest.fail("no layer fire2/expand3x3")
