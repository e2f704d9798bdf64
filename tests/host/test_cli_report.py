"""What the commands say about a program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emberline.arch.program import Program
from emberline.cli import report
from emberline.cli.networks import find_architecture, load_network

BENCH_KEYS = ["network", "arch", "macs", "multipliers", "cycles", "predicted_cycles", "cycles_after_input",
              "utilisation", "activation_bytes", "weight_bytes", "m9k", "weights", "weight_megabytes_per_second",
              "stored_bytes", "fetched_bytes", "fetched_megabytes_per_second", "weight_cycles", "preset_mhz",
              "preset_frames_per_second", "clock_mhz", "milliseconds", "frames_per_second",
              "frames_per_second_per_multiplier"]  # fmt: skip


@pytest.fixture(scope="module")
def program() -> Program:
    return load_network("ember_cifar10").compile(find_architecture("ulx3s-85f"))


def test_memory_use_counts_activations_weights_and_instructions(program: Program) -> None:
    use = report.memory_use(program)
    ends = [region.end * program.architecture.lanes_out for region in program.memory]
    assert use["activation_bytes"] == max(ends) <= program.architecture.activation_bytes
    assert use["weight_bytes"] == len(program.weights) <= program.architecture.weight_bytes
    # On 16x8 lanes: 256 x 36 or, for the activations' two ports, 512 x 18 bits a block; 128, 32 and 128 bits a word.
    assert use["m9k"] == (
        8 * -(-use["activation_bytes"] // (512 * 16))
        + 8 * 4 * -(-use["weight_bytes"] // (256 * 128))
        + -(-len(program.instructions) // 256)
    )


def test_utilisation_follows_its_definition(program: Program) -> None:
    architecture = program.architecture
    assert report.utilisation(1280, 20, architecture) == 1280 / (20 * architecture.multipliers)
    assert report.utilisation(0, 0, architecture) == 0


def test_bench_report_measures_the_cycles_it_was_given(program: Program) -> None:
    document = report.bench_report(program, 200_000)
    assert list(document) == BENCH_KEYS
    assert document["cycles"] == 200_000
    assert document["predicted_cycles"] == program.predicted_cycles
    assert document["utilisation"] == program.macs / (200_000 * 128)
    assert document["clock_mhz"] == report.built_clock_mhz(program.architecture)


def test_clock_is_the_committed_build_s_or_unknown(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report.built_clock_mhz(program.architecture, tmp_path) is None
    (tmp_path / "ulx3s-85f.json").write_text('{"clock_mhz": 80}')
    assert report.built_clock_mhz(program.architecture, tmp_path) == 80
    monkeypatch.setattr(report, "built_clock_mhz", lambda _: 80.0)
    document = report.bench_report(program, 200_000)
    assert document["milliseconds"] == 2.5
    assert document["frames_per_second"] == 400
    assert document["frames_per_second_per_multiplier"] == 400 / 128
    monkeypatch.setattr(report, "built_clock_mhz", lambda _: None)
    document = report.bench_report(program, 200_000)
    assert document["milliseconds"] is document["frames_per_second"] is None


def test_milliseconds_use_the_board_s_clock(program: Program) -> None:
    assert report.milliseconds(100_000, replace(program.architecture, clock_hz=50_000_000)) == 2


def test_compile_report_has_every_layer_and_region(program: Program) -> None:
    document = report.compile_report(program, None)
    assert document["file"] is None
    assert sum(layer["macs"] for layer in document["layers"]) == document["macs"] == program.macs
    assert 0 < sum(layer["cycles"] for layer in document["layers"]) <= document["predicted_cycles"]
    assert sum(layer["weight_bytes"] for layer in document["layers"]) == document["weight_bytes"]
    for region in document["memory"]:
        assert 0 <= region["start_bytes"] < region["end_bytes"] <= document["activation_bytes"]
        assert 0 <= region["first_layer"] <= region["last_layer"] < len(document["layers"])
