"""Networks that others published give LiteRT's outputs, value for value, on every way of running them."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import invoke

pytest.importorskip("ai_edge_litert", reason="needs LiteRT")

RESNET8_ACCURACY = 0.882
"""LiteRT's reference kernels on the 500 lossless images, as published with the data."""


@pytest.mark.parametrize(("on", "images"), [("model", 500), ("emulator", 50), ("rtl", 10)])
def test_resnet8_is_litert_on_lossless_cifar(
    capfd: pytest.CaptureFixture[str], data_folder: Path, on: str, images: int
) -> None:
    model = data_folder / "mlperf_tiny" / "ic_resnet8_int8.tflite"
    source = data_folder / "cifar10" / "cifar10_lossless_500.npz"
    arguments = ["verify", model, "--images", source, "--on", on, "--against", "litert", "--limit", images, "--json"]
    finished = invoke(capfd, *arguments)
    assert finished.status == 0, finished.err
    report = finished.json()
    assert report["network"] == "resnet8"
    assert (report["images"], report["outputs"]) == (images, 10 * images)
    assert (report["differing_outputs"], report["differing_images"], report["max_abs_difference"]) == (0, 0, 0)
    if images == 500:
        assert report["accuracy"] == pytest.approx(RESNET8_ACCURACY)


@pytest.mark.parametrize("arch", ["ulx3s-85f", "max10-10m50", "small-8x8", "tiny-4x4"])
def test_resnet8_is_litert_on_every_preset(capfd: pytest.CaptureFixture[str], data_folder: Path, arch: str) -> None:
    source = data_folder / "cifar10" / "cifar10_lossless_500.npz"
    arguments = ["verify", "resnet8", "--images", source, "--on", "emulator", "--limit", 3, "--arch", arch, "--json"]
    finished = invoke(capfd, *arguments)
    assert finished.status == 0, finished.err
    assert finished.json()["differing_outputs"] == 0


def test_resnet8_takes_the_published_raw_frames(capfd: pytest.CaptureFixture[str], data_folder: Path) -> None:
    frames = sorted((data_folder / "mlperf_tiny" / "golden" / "imgc").glob("*.dat"))
    assert frames
    sources = [part for path in frames for part in ("--images", path)]
    report = invoke(capfd, "verify", "resnet8", *sources, "--on", "emulator", "--json").json()
    assert report["images"] == len(frames)
    assert report["differing_outputs"] == 0
    assert report["accuracy"] is None
