"""Bad input to the commands: one message that names what and where, status 1, nothing on standard output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Finished, invoke

from emberline.arch.program import Program
from emberline.cli.networks import find_architecture, load_network
from emberline.zoo import ZOO


def refused(finished: Finished, *parts: str) -> None:
    assert finished.status == 1
    assert finished.out == ""
    assert "Traceback" not in finished.err
    lines = finished.err.strip().splitlines()
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("emberline: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    path = tmp_path / "frame.dat"
    path.write_bytes(bytes(32 * 32 * 3))
    return path


def model_bytes() -> bytes:
    return ZOO["ember_cifar10"].path().read_bytes()


def test_unknown_network_lists_the_zoo(capfd: pytest.CaptureFixture[str]) -> None:
    refused(invoke(capfd, "compile", "resnet9"), "'resnet9'", "resnet8", "ember_cifar10")


def test_folder_is_no_network(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused(invoke(capfd, "compile", tmp_path), str(tmp_path), "is a folder")


def test_unknown_architecture_lists_the_presets(capfd: pytest.CaptureFixture[str]) -> None:
    refused(invoke(capfd, "compile", "ember_cifar10", "--arch", "huge"), "'huge'", "ulx3s-85f", "max10-10m50")


@pytest.mark.parametrize("length", [0, 7, 100, 50_000])
def test_truncated_model_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path, length: int) -> None:
    path = tmp_path / "truncated.tflite"
    path.write_bytes(model_bytes()[:length])
    refused(invoke(capfd, "compile", path), str(path))


def test_random_bytes_are_no_model(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "random.tflite"
    path.write_bytes(np.random.default_rng(1).bytes(5000))
    refused(invoke(capfd, "run", path, "x.png", "--on", "model"), str(path))


def test_model_too_large_names_a_layer_and_the_architecture(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from emberline.arch.presets import PRESETS

    monkeypatch.setitem(PRESETS, "cramped", replace(PRESETS["ulx3s-85f"], name="cramped", weight_depth_words=64))
    refused(invoke(capfd, "compile", "ember_cifar10", "--arch", "cramped"), "layer '", "cramped")


def test_missing_image_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    refused(invoke(capfd, "run", "ember_cifar10", "nowhere.png", "--on", "model"), "nowhere.png")


def test_wrong_frame_size_names_both(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "small.dat"
    path.write_bytes(bytes(100))
    refused(invoke(capfd, "run", "ember_cifar10", path, "--on", "model"), str(path), "100 bytes", "32, 32, 3")


def test_wrong_array_size_names_both(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "frames.npz"
    np.savez(path, x=np.zeros((2, 28, 28, 3), np.uint8))
    refused(invoke(capfd, "verify", "ember_cifar10", "--on", "model", "--images", path), str(path), "28", "32, 32, 3")


def test_damaged_program_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path, frame: Path) -> None:
    path = tmp_path / "damaged.ember"
    program = load_network("ember_cifar10").compile(find_architecture("ulx3s-85f"))
    data = bytearray(program.to_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(invoke(capfd, "run", path, frame, "--on", "emulator"), str(path), "checksum")
    path.write_bytes(data[:1000])
    refused(invoke(capfd, "run", path, frame, "--on", "emulator"), str(path), "truncated")


def test_program_for_another_architecture_is_refused_by_name(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, frame: Path
) -> None:
    path = tmp_path / "other.ember"
    load_network("ember_cifar10").compile(find_architecture("ulx3s-85f")).save(path)
    finished = invoke(capfd, "run", path, frame, "--on", "emulator", "--arch", "small-8x8")
    refused(finished, "ulx3s-85f", "small-8x8", "lanes_in 16 instead of 8")


def test_program_has_no_model_to_verify_or_to_run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, frame: Path
) -> None:
    path = tmp_path / "network.ember"
    load_network("ember_cifar10").compile(find_architecture("ulx3s-85f")).save(path)
    for arguments in (
        ("verify", path, "--images", frame),
        ("run", path, frame, "--on", "model"),
        ("compile", path),
    ):
        refused(invoke(capfd, *arguments), str(path), "needs the model itself")


def test_unwritable_output_is_named(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused(
        invoke(capfd, "compile", "ember_cifar10", "-o", tmp_path / "nowhere" / "x.ember"), "nowhere", "No such file"
    )


def test_zoo_network_of_others_names_its_origin(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    refused(invoke(capfd, "compile", "resnet8"), "mlperf_tiny/ic_resnet8_int8.tflite", "published at")
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path / "nowhere"))
    refused(invoke(capfd, "compile", "resnet8"), "EMBERLINE_DATA", "no folder")


def test_wrong_command_line_is_status_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(capfd, "verify", "ember_cifar10", "--on", "moon", "--images", "x").status == 2
    assert invoke(capfd, "frobnicate").status == 2


def test_internal_error_is_one_line_unless_debugged(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emberline.cli import networks
    from emberline.cli.main import main

    def broken(text: str) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(networks, "load_network", broken)
    monkeypatch.setenv("EMBERLINE_DEBUG", "")
    finished = invoke(capfd, "compile", "ember_cifar10")
    assert finished.status == 70
    assert finished.err.startswith("emberline: internal error: RuntimeError: out of luck")
    with pytest.raises(RuntimeError, match="out of luck"):
        main(["--debug", "compile", "ember_cifar10"])


def test_program_loads_what_compile_saved(tmp_path: Path) -> None:
    program = load_network("ember_cifar10").compile(find_architecture("ulx3s-85f"))
    program.save(tmp_path / "x.ember")
    network = load_network(str(tmp_path / "x.ember"))
    assert network.program == Program.load(tmp_path / "x.ember")
    assert network.input == load_network("ember_cifar10").input
    assert network.scores == load_network("ember_cifar10").scores
    assert network.ends_in_softmax == load_network("ember_cifar10").ends_in_softmax


def test_maps_are_the_rtls(capfd: pytest.CaptureFixture[str], frame: Path) -> None:
    refused(invoke(capfd, "verify", "ember_cifar10", "--images", frame, "--on", "model", "--maps"), "--maps", "'model'")
