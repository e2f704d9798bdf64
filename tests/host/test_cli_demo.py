"""The demo's parts: its photographs, its choice of engines and what it calls a problem."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import invoke

from emberline.cli import demo, photographs, toolchain
from emberline.cli.engines import FrameResult
from emberline.cli.photographs import PHOTOGRAPHS, Photograph
from emberline.errors import ImageError
from emberline.model import litert
from emberline.zoo import CIFAR10_LABELS


def result(*values: int, cycles: int | None = None) -> FrameResult:
    return FrameResult((np.array(values, np.int8),), cycles)


def test_photographs_are_in_their_packages() -> None:
    pytest.importorskip("skimage", reason="the demo's packages are not installed")
    for photograph in PHOTOGRAPHS:
        assert photograph.path().is_file()
        assert photograph.label is None or photograph.label in CIFAR10_LABELS


def test_photographs_show_most_classes() -> None:
    assert {photograph.label for photograph in PHOTOGRAPHS} >= set(CIFAR10_LABELS) - {"deer"}


def test_missing_photograph_names_its_package() -> None:
    with pytest.raises(ImageError, match="'moon'.*no_such_package"):
        Photograph("moon", None, "no_such_package", "moon.png").path()
    with pytest.raises(ImageError, match="'moon'.*no such.png in the Python package numpy"):
        Photograph("moon", None, "numpy", "no such.png").path()


def test_missing_packages_are_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", (Photograph("moon", None, "no_such_package", "moon.png"),))
    with pytest.raises(ImageError, match=r"emberline\[demo\]"):
        photographs.available_photographs()


def test_without_a_compiler_the_demo_says_so_and_emulates(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(toolchain, "missing_for_simulation", lambda: "RTL simulation is missing g++")
    monkeypatch.setattr(litert, "available", lambda: False)
    assert demo.choose_engines(None) == ["emulator", "model"]
    remarks = capfd.readouterr().err
    assert "missing g++" in remarks
    assert "LiteRT is not installed" in remarks


def test_with_a_compiler_the_demo_simulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "missing_for_simulation", lambda: None)
    monkeypatch.setattr(litert, "available", lambda: True)
    assert demo.choose_engines(None) == ["rtl", "emulator", "model", "litert"]
    assert demo.choose_engines("emulator") == ["emulator", "model", "litert"]
    assert demo.choose_engines("/dev/ttyUSB0") == ["/dev/ttyUSB0", "emulator", "model", "litert"]


def test_agreement_marks_who_differs_from_the_machine() -> None:
    results = {"rtl": result(1, 2), "emulator": result(1, 2), "model": result(1, 3), "litert": result(1, 2)}
    assert demo.agreement(results) == "RTL = emulator ≠ numpy = LiteRT"


def test_problems_are_differing_outputs_and_unpredicted_cycles() -> None:
    right = demo.Row(PHOTOGRAPHS[0], {"rtl": result(1, cycles=7), "model": result(1)}, 7)
    slow = demo.Row(PHOTOGRAPHS[1], {"rtl": result(1, cycles=8), "model": result(1)}, 7)
    wrong = demo.Row(PHOTOGRAPHS[2], {"rtl": result(1, cycles=7), "model": result(2)}, 7)
    assert demo.find_problems([right], "rtl") == []
    first, second = demo.find_problems([right, slow, wrong], "rtl")
    assert "8 cycles, 7 predicted" in first
    assert "RTL ≠ numpy" in second


def test_demo_on_the_emulator_ends_well(capfd: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capfd, "demo", "--on", "emulator", "--limit", 3)
    assert finished.status == 0
    assert "3 photographs on emulator" in finished.out
    assert "Chelsea the cat" in finished.out
    assert "are equal" in finished.out


def test_demo_fails_when_a_way_differs(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run_everywhere(
        network: object, arch: str, names: list[str], frames: np.ndarray
    ) -> dict[str, list[FrameResult]]:
        scores = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
        return {
            "emulator": [result(*scores, cycles=1) for _ in frames],
            "model": [result(*reversed(scores)) for _ in frames],
        }

    monkeypatch.setattr(demo, "run_everywhere", run_everywhere)
    finished = invoke(capfd, "demo", "--limit", 1)
    assert finished.status == 1
    assert "DIFFERENT: Chelsea the cat: emulator ≠ numpy" in finished.out
