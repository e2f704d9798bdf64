"""Every map that a schedule stores, as the RTL writes it, against the emulator and the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from graph_cases import Network, same
from random_graphs import Limits, random_frames, random_graph

from emberline.arch.architecture import Architecture
from emberline.arch.presets import preset
from emberline.cli.stored_maps import MapChecker, StoredMaps, run_checked, stored_map
from emberline.compiler.compile import compile_plan
from emberline.compiler.network_plan import WeightPlace, plan_network
from emberline.driver.device import Device
from emberline.driver.protocol import LinkSettings
from emberline.driver.targets import Target
from emberline.errors import SimulationError, VerificationError
from emberline.model import network
from emberline.model.graph import Graph
from emberline.model.recorder import Recorder, RowWrites, split_writes
from emberline.simulation.board import SimulatedBoard, simulate_architecture

ARCHITECTURE = Architecture("maps-test", 8, 4, 2048, 1024, 1024, 1)
STREAMED = replace(ARCHITECTURE, name="streamed-maps-test", weight_word_cycles=16)
LIMITS = Limits(max_size=8, max_blocks=3, max_channels=12)
SETTINGS = LinkSettings(timeout_s=0.0005, byte_s=2e-8)
FRAMES = 2


@pytest.fixture(scope="module")
def board() -> Iterator[SimulatedBoard]:
    with simulate_architecture(ARCHITECTURE, tap="writes") as board:
        yield board


def run(board: SimulatedBoard, seed: int) -> tuple[Graph, np.ndarray, RowWrites]:
    """A random network, its frames, and what the RTL writes for them."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, LIMITS)
    frames = random_frames(rng, graph, FRAMES)
    device = Device(Target("rtl", board, ARCHITECTURE, SETTINGS))
    device.load(compile_plan(graph, plan_network(graph, ARCHITECTURE), ARCHITECTURE))
    board.take_tapped()
    for _ in device.stream(frames):
        pass
    return graph, frames, split_writes(board.take_tapped(), ARCHITECTURE)


def checker(graph: Graph) -> MapChecker:
    plan = plan_network(graph, ARCHITECTURE)
    return MapChecker(plan, compile_plan(graph, plan, ARCHITECTURE), StoredMaps())


@pytest.mark.parametrize("seed", range(8))
def test_all_maps_are_the_models(board: SimulatedBoard, seed: int) -> None:
    graph, frames, (addresses, groups) = run(board, seed)
    compared, first = checker(graph), 0
    for frame in frames:
        first += compared.check(frame, addresses[first:], groups[first:])
    assert first == len(addresses) == compared.found.writes
    outputs = [graph.feature_maps[name] for name in graph.accelerator_outputs]
    assert compared.found.values >= FRAMES * sum(np.prod(each.shape) for each in outputs)


def test_a_wrong_byte_is_named(board: SimulatedBoard) -> None:
    graph, frames, (addresses, groups) = run(board, 1)
    wrong = groups.copy()
    wrong[5, 1] ^= 1
    with pytest.raises(VerificationError, match=r"layer '.*', ROW .*: .*row \d+, column \d+, channel \d+: .* emulator"):
        checker(graph).check(frames[0], addresses, wrong)
    with pytest.raises(VerificationError, match="group .* was written instead of"):
        checker(graph).check(frames[0], addresses ^ 1, groups)
    with pytest.raises(VerificationError, match=r"\d groups were written instead of"):
        checker(graph).check(frames[0], addresses[:2], groups[:2])


def test_a_stored_value_that_is_not_the_models_is_named(board: SimulatedBoard) -> None:
    """Another frame's writes, which the emulator confirms, are not this frame's maps."""
    graph, frames, (addresses, groups) = run(board, 2)
    compared = checker(graph)
    record = compared._recorder.record
    compared._recorder.record = lambda _: record(frames[0])  # type: ignore[method-assign]
    with pytest.raises(VerificationError, match=r"map '.*', row \d+, column \d+, channel \d+: .*the model computes"):
        compared.check(frames[1], addresses, groups)


@pytest.mark.parametrize(("architecture", "weights"), [(ARCHITECTURE, WeightPlace.AUTO), (STREAMED, WeightPlace.FLASH)])
def test_a_network_is_run_and_checked_frame_by_frame(architecture: Architecture, weights: WeightPlace) -> None:
    rng = np.random.default_rng(3)
    graph = random_graph(rng, LIMITS)
    frames, found = random_frames(rng, graph, FRAMES), StoredMaps()
    plan = plan_network(graph, architecture, weights)
    program = compile_plan(graph, plan, architecture)
    assert bool(program.stream) == (weights is WeightPlace.FLASH)
    results = list(run_checked(plan, program, frames, found))
    expected = network.run(graph, frames, keep=True)
    for index, result in enumerate(results):
        for name, output in zip(graph.outputs, result.outputs, strict=True):
            np.testing.assert_array_equal(output, expected[name][index])
    stored = {name: stored_map(plan, found, name) for name in expected}
    assert sum(codes is not None for codes in stored.values()) > 1
    for name, codes in stored.items():
        if codes is not None:
            np.testing.assert_array_equal(codes, expected[name][-1], err_msg=name)


def test_rows_of_a_pair_are_both_checked() -> None:
    """By the emulator's own writes, of which one of the second row is changed then."""
    pairing = replace(ARCHITECTURE, name="pairing-maps-test", lanes_out=8, requantisers=8)
    net = Network(6, 7, 12)
    net.convolution(net.convolution("input", 12, groups=12, padding=same(3)), 8, (1, 1))
    graph = net.graph()
    frame = random_frames(np.random.default_rng(4), graph, 1)[0]
    plan = plan_network(graph, pairing)
    program = compile_plan(graph, plan, pairing)
    rows = Recorder(program).record(frame)
    addresses, groups = (np.concatenate([row[part] for row in rows]) for part in range(2))
    compared = MapChecker(plan, program, StoredMaps())
    assert compared.check(frame, addresses, groups) == len(addresses)
    assert compared.found.maps["conv0"] == 6 * 7 * 12
    operations = plan.schedule.operations
    pair = next(index for index, operation in enumerate(operations) if operation.computes_pair)
    first = sum(len(row[0]) for row in rows[:pair])
    groups[first + len(rows[pair][0]) - 1, 0] ^= 1
    with pytest.raises(
        VerificationError, match=r"ROW 1 \(row 1\): map 'conv0', row 2, column 6, channel 8: .* emulator"
    ):
        MapChecker(plan, program, StoredMaps()).check(frame, addresses, groups)


def test_a_compact_machine_is_refused() -> None:
    with pytest.raises(SimulationError, match="'up5k-4x4' is a compact machine"):
        simulate_architecture(preset("up5k-4x4"), tap="writes")
