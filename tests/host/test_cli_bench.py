"""`emberline bench` with the emulator in the simulator's place: its documents and its refusals."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from command_line import invoke

from emberline.arch.presets import PRESETS
from emberline.cli import engines, toolchain
from emberline.zoo import ZOO

KEYS = ["network", "arch", "macs", "multipliers", "cycles", "predicted_cycles", "cycles_after_input",
        "utilisation", "activation_bytes", "weight_bytes", "m9k", "stored_bytes", "fetched_bytes", "weight_cycles",
        "preset_mhz", "clock_mhz", "milliseconds", "frames_per_second", "frames_per_second_per_multiplier", "frames",
        "flash_rates", "built_flash_rates"]  # fmt: skip


@pytest.fixture
def emulated_rtl(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_engine(on: str, network: Any, architecture: Any) -> Iterator[engines.Engine]:
        assert on == "rtl"
        yield engines.EmulatorEngine(network.compile(architecture))

    monkeypatch.setattr(engines, "open_engine", open_engine)
    monkeypatch.setattr(engines, "check_simulation", lambda: None)


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


@pytest.mark.usefixtures("emulated_rtl")
def test_fetched_weights_are_reported_with_what_other_flashes_would_give(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped = replace(PRESETS["ulx3s-85f-flash"], name="cramped", weight_depth_words=256, weight_word_cycles=16)
    monkeypatch.setitem(PRESETS, "cramped", cramped)
    (report,) = invoke(capfd, "bench", "ember_cifar10", "--arch", "cramped", "--frames", 2, "--json").json()
    assert report["frames"] == 2
    assert report["cycles"] == report["predicted_cycles"]
    assert 0 < report["stored_bytes"] <= report["fetched_bytes"]
    walked, slow, fast = report["flash_rates"]
    assert walked["cycles"] == report["cycles"] - report["weight_cycles"]
    assert (slow["megabytes_per_second"], fast["megabytes_per_second"]) == (25, 50)
    assert slow["cycles"] > report["cycles"] > fast["cycles"]
    assert slow["frames_per_second"] == cramped.clock_hz / slow["cycles"]
    monkeypatch.setattr("emberline.cli.report.built_clock_mhz", lambda _: 125.0)
    finished = invoke(capfd, "bench", "ember_cifar10", "--arch", "cramped")
    assert f"{report['fetched_bytes']:,} bytes fetched a frame" in finished.out
    assert f"comes {report['cycles_after_input']:,} cycles after" in finished.out
    for clock in (report["preset_mhz"], 125):
        assert f"predicted at {clock:g} MHz" in finished.out


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
