"""`emberline bench` with the emulator in the simulator's place: its documents and its refusals."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from fetched import chain

from emberline.arch.presets import PRESETS
from emberline.arch.program import Program
from emberline.cli import engines, pace, toolchain
from emberline.cli.networks import Network
from emberline.cli.pace import Pace, find_pace
from emberline.simulation.frame_events import FrameEvent
from emberline.zoo import ZOO

KEYS = ["network", "arch", "macs", "multipliers", "cycles", "predicted_cycles", "cycles_after_input",
        "utilisation", "activation_bytes", "weight_bytes", "m9k", "weights", "weight_megabytes_per_second",
        "stored_bytes", "fetched_bytes", "fetched_megabytes_per_second", "weight_cycles", "preset_mhz",
        "preset_frames_per_second", "clock_mhz", "milliseconds", "frames_per_second",
        "frames_per_second_per_multiplier", "frames", "back_to_back_cycles", "back_to_back_waiting_cycles",
        "back_to_back_frames_per_second", "latency_cycles", "back_to_back_latency_cycles", "resident_cycles",
        "flash_rates", "built_flash_rates", "preset", "why_not"]  # fmt: skip
PACE = Pace([50, 400, 900], [1000, 61000, 121001])
"""Of three frames."""


@pytest.fixture
def emulated_rtl(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_engine(on: str, network: Any, architecture: Any) -> Iterator[engines.Engine]:
        assert on == "rtl"
        yield engines.EmulatorEngine(network.compile(architecture))

    def run_back_to_back(program: Program, frames: engines.Codes) -> tuple[list[engines.FrameResult], Pace]:
        return list(engines.EmulatorEngine(program).run(frames)), PACE

    monkeypatch.setattr(engines, "open_engine", open_engine)
    monkeypatch.setattr(pace, "run_back_to_back", run_back_to_back)
    monkeypatch.setattr(engines, "check_simulation", lambda: None)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a network called ``chain``: ``roomy`` holds its weights, ``narrow`` does not, and ``narrow-flash`` fetches
    them; ``lean`` neither holds nor fetches them."""
    network = Network("chain", Path("chain"), replace(chain(3), name="chain"))
    monkeypatch.setattr("emberline.cli.float_network.load_quantised", lambda *_: network)
    roomy = replace(PRESETS["max10-10m50"], name="roomy")
    narrow = replace(roomy, name="narrow", weight_depth_words=128)
    fetching = replace(narrow, name="narrow-flash", activation_depth_words=8192, weight_word_cycles=8)
    for each in (roomy, narrow, fetching, replace(narrow, name="lean")):
        monkeypatch.setitem(PRESETS, each.name, each)


@pytest.mark.usefixtures("emulated_rtl")
def test_json_is_a_list_with_an_object_per_network_and_architecture(capfd: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capfd, "bench", "ember_cifar10", "--arch", "ulx3s-85f", "--arch", "small-8x8", "--json")
    assert finished.status == 0
    reports = finished.json()
    assert [(each["network"], each["arch"]) for each in reports] == [
        ("ember_cifar10", "ulx3s-85f"),
        ("ember_cifar10", "small-8x8"),
    ]
    for each in reports:
        assert list(each) == KEYS
        assert each["cycles"] == each["predicted_cycles"]
        assert each["utilisation"] == each["macs"] / (each["cycles"] * each["multipliers"])


@pytest.mark.usefixtures("emulated_rtl", "machines")
def test_fetched_weights_are_reported_with_what_other_flashes_would_give(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped = replace(PRESETS["ulx3s-85f-flash"], name="cramped", weight_depth_words=128, weight_word_cycles=16)
    monkeypatch.setitem(PRESETS, "cramped", cramped)
    (report,) = invoke(capfd, "bench", "chain", "--arch", "cramped", "--frames", 2, "--json").json()
    assert report["frames"] == 2
    assert report["cycles"] == report["predicted_cycles"]
    assert 0 < report["stored_bytes"] <= report["fetched_bytes"]
    walked, slow, fast = report["flash_rates"]
    assert walked["cycles"] == report["cycles"] - report["weight_cycles"]
    assert (slow["megabytes_per_second"], fast["megabytes_per_second"]) == (25, 50)
    assert slow["cycles"] > report["cycles"] > fast["cycles"]
    assert slow["frames_per_second"] == cramped.clock_hz / slow["cycles"]
    assert slow["fetched_megabytes_per_second"] == slow["fetched_bytes"] * slow["frames_per_second"] / 1e6
    assert report["resident_cycles"] <= walked["cycles"]
    assert report["weights"] == "flash"
    assert report["weight_megabytes_per_second"] == 4 * cramped.clock_hz / 16 / 1e6
    frames_per_second = cramped.clock_hz / report["cycles"]
    assert report["preset_frames_per_second"] == frames_per_second
    assert report["fetched_megabytes_per_second"] == report["fetched_bytes"] * frames_per_second / 1e6
    monkeypatch.setattr("emberline.cli.report.built_clock_mhz", lambda _: 125.0)
    finished = invoke(capfd, "bench", "chain", "--arch", "cramped")
    rows = [line for line in finished.out.splitlines() if "at 25 MB/s" in line]
    assert [f"{clock:.1f}" in row for clock, row in zip((report["preset_mhz"], 125), rows, strict=True)] == [True] * 2
    assert f"{report['fetched_bytes']:,}" in rows[0]
    assert f"comes {report['cycles_after_input']:,} cycles after" in finished.out
    for text in ("resident, with memory for all", "if no row waited", "at 32.5 MB/s"):
        assert text in finished.out


@pytest.mark.usefixtures("emulated_rtl", "machines")
def test_weights_that_do_not_fit_are_fetched_on_the_preset_with_a_flash(capfd: pytest.CaptureFixture[str]) -> None:
    command = ("bench", "chain", "--arch", "roomy", "--arch", "narrow", "--arch", "lean", "--json")
    finished = invoke(capfd, *command)
    assert finished.status == 0
    fits, moved, refused = finished.json()
    assert [list(each) for each in (fits, moved, refused)] == [KEYS] * 3
    assert (fits["preset"], fits["arch"], fits["weights"], fits["fetched_bytes"]) == ("roomy", "roomy", "resident", 0)
    assert (moved["preset"], moved["arch"], moved["weights"]) == ("narrow", "narrow-flash", "flash")
    assert "on 'narrow-flash' they are fetched from the flash" in finished.err
    assert (refused["preset"], refused["cycles"], refused["weights"]) == ("lean", None, None)
    assert "weights" in refused["why_not"]
    table = invoke(capfd, *command[:-1]).out
    assert f"does not run on lean: {refused['why_not']}" in table
    alone = invoke(capfd, "bench", "chain", "--arch", "lean", "--json")
    assert alone.status == 1 and alone.out == "" and refused["why_not"] in alone.err


@pytest.mark.usefixtures("emulated_rtl", "machines")
def test_every_flash_rate_is_a_row(capfd: pytest.CaptureFixture[str]) -> None:
    rates = ("--flash-rate", "12.5", "--flash-rate", "30", "--flash-rate", "50")
    finished = invoke(capfd, "bench", "chain", "--arch", "narrow", *rates, "--json")
    slow, odd, fast = finished.json()
    assert [each["weight_megabytes_per_second"] for each in (slow, odd, fast)] == pytest.approx([12.5, 400 / 14, 50])
    assert slow["cycles"] > odd["cycles"] > fast["cycles"]
    assert [each["frames"] for each in (slow, odd, fast)] == [1, 0, 1]
    assert "cycles of chain are predicted" in finished.err
    assert [each["flash_rates"] for each in (slow, odd, fast)] == [[]] * 3
    (resident,) = invoke(capfd, "bench", "chain", "--arch", "roomy", *rates, "--json").json()
    assert resident["weights"] == "resident"
    forced = invoke(capfd, "bench", "chain", "--arch", "narrow", "--weights", "flash", *rates, "--json").json()
    assert [each["arch"] for each in forced] == ["narrow-flash"] * 3


@pytest.mark.usefixtures("emulated_rtl", "machines")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--weights", "resident"), "weights"),
        (("--weights", "nowhere"), "--weights is one of auto, resident, flash, link"),
        (("--flash-rate", "0"), "--flash-rate of 0 MB/s is impossible"),
        (("--weights", "link", "--flash-rate", "25"), "--weights link takes no --flash-rate"),
    ],
)
def test_weights_that_cannot_be_there_are_refused(
    capfd: pytest.CaptureFixture[str], options: tuple[str, ...], reason: str
) -> None:
    finished = invoke(capfd, "bench", "chain", "--arch", "narrow", *options)
    assert finished.status == 1 and reason in finished.err


@pytest.mark.usefixtures("emulated_rtl", "machines")
def test_several_frames_are_measured_back_to_back(capfd: pytest.CaptureFixture[str]) -> None:
    (report,) = invoke(capfd, "bench", "chain", "--arch", "roomy", "--frames", 3, "--json").json()
    assert report["frames"] == 3
    assert report["back_to_back_cycles"] == 60000
    assert report["back_to_back_waiting_cycles"] == 60000 - report["cycles"]
    assert report["back_to_back_frames_per_second"] == 100e6 / 60000
    assert (report["latency_cycles"], report["back_to_back_latency_cycles"]) == (950, 120101)
    assert "frames back to back" in invoke(capfd, "bench", "chain", "--arch", "roomy", "--frames", 3).out
    assert "frames back to back" not in invoke(capfd, "bench", "chain", "--arch", "roomy").out


def test_pace_is_found_in_what_happened_to_frames() -> None:
    events = [(10, 0, 1), (20, 0, 1), (90, 1, 0), (95, 1, 1), (97, 1, 1), (130, 2, 1), (140, 2, 1), (170, 3, 0)]
    found = find_pace((FrameEvent(*each) for each in events), 2)
    assert found == Pace([20, 97, 140], [90, 130, 170])
    assert found.cycles == 40
    assert found.latencies == [70, 33, 30]


@pytest.mark.usefixtures("emulated_rtl")
def test_default_is_every_network_that_is_here(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    finished = invoke(capfd, "bench", "--json")
    assert [each["network"] for each in finished.json()] == ["ember_cifar10"]
    for name in set(ZOO) - {"ember_cifar10"}:
        assert f"left out: network '{name}'" in finished.err


@pytest.mark.usefixtures("emulated_rtl")
def test_table_for_people_has_the_network(capfd: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capfd, "bench", "ember_cifar10")
    assert "ember_cifar10" in finished.out
    assert "frames/s" in finished.out


@pytest.mark.usefixtures("emulated_rtl")
def test_wrong_result_has_no_speed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = engines.EmulatorEngine.run

    def wrong(self: engines.EmulatorEngine, frames: engines.Codes) -> Iterator[engines.FrameResult]:
        for result in run(self, frames):
            yield engines.FrameResult(tuple(output ^ 1 for output in result.outputs), result.cycles)

    monkeypatch.setattr(engines.EmulatorEngine, "run", wrong)
    finished = invoke(capfd, "bench", "ember_cifar10", "--json")
    assert finished.status == 1
    assert finished.out == ""
    assert "10 of 10 outputs of the RTL differ" in finished.err


def test_missing_tools_are_named(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "missing_for_simulation", lambda: "RTL simulation is missing g++")
    finished = invoke(capfd, "bench", "ember_cifar10", "--json")
    assert finished.status == 1
    assert "missing g++" in finished.err


@pytest.mark.usefixtures("emulated_rtl")
def test_chart_shows_every_layer(capfd: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    path = tmp_path / "chart.svg"
    assert invoke(capfd, "bench", "synthetic-squeezenet", "--chart", str(path)).status == 0
    text = path.read_text()
    for name in ("conv1", "fire2/squeeze1x1", "pool10", "synthetic-squeezenet", "waiting for writes"):
        assert name in text
    again = tmp_path / "again.svg"
    assert invoke(capfd, "bench", "synthetic-squeezenet", "--chart", str(again)).status == 0
    assert again.read_text() == text


@pytest.mark.usefixtures("emulated_rtl")
def test_chart_without_matplotlib_says_how_to_install_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finished = invoke(capfd, "bench", "synthetic-1x1", "--chart", str(tmp_path / "chart.svg"))
    assert finished.status == 1
    assert "emberline[plot]" in finished.err
