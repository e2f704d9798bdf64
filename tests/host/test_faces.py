"""Boxes of the face detector: decoding, and the int8 network against onnxruntime on two photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import invoke
from PIL import Image

from emberline.driver.faces import Face, draw, find_faces, priors
from emberline.model.graph import FeatureMap, Quantisation

WIDTH, HEIGHT = 320, 240
GRIDS = ((30, 40, 3), (15, 20, 2), (8, 10, 2), (4, 5, 3))


def heads(sure: dict[tuple[int, int, int, int], int]) -> list[tuple[np.ndarray, FeatureMap]]:
    """Outputs without faces but at ``(scale, row, column, prior)``, where the face's score is the given code."""
    found = []
    for values in (2, 4):
        for scale, (rows, columns, count) in enumerate(GRIDS):
            codes = np.zeros((rows, columns, count * values), np.int8)
            if values == 2:
                codes[..., ::2] = 100
                for (at, row, column, prior), code in sure.items():
                    if at == scale:
                        codes[row, column, 2 * prior : 2 * prior + 2] = (0, code)
            found.append((codes, FeatureMap("head", *codes.shape, Quantisation(0.125, 0))))
    return found


def test_there_are_as_many_priors_as_the_network_has_boxes() -> None:
    assert priors(WIDTH, HEIGHT).shape == (4420, 4)


def test_box_of_a_prior_without_offset_is_the_prior() -> None:
    (face,) = find_faces(heads({(1, 2, 3, 1): 80}), WIDTH, HEIGHT)
    centre, half = (3.5 * 16 / 320, 2.5 * 16 / 240), (24 / 320, 24 / 240)
    assert face.left == pytest.approx(centre[0] - half[0])
    assert face.bottom == pytest.approx(centre[1] + half[1])
    assert face.score == pytest.approx(1 / (1 + np.exp(-10)))


def test_surest_of_overlapping_boxes_stays() -> None:
    faces = find_faces(heads({(0, 5, 5, 2): 40, (0, 5, 6, 2): 50, (0, 20, 30, 0): 30, (0, 25, 2, 0): 5}), WIDTH, HEIGHT)
    assert [round(face.score, 3) for face in faces] == [0.998, 0.977]


def test_frames_are_drawn_on_a_copy() -> None:
    image = Image.new("RGB", (40, 30))
    picture = draw(image, [Face(0.25, 0.2, 0.5, 0.8, 1.0)])
    assert picture.getpixel((10, 10)) == (255, 0, 0)
    assert image.getpixel((10, 10)) == (0, 0, 0)


def test_boxes_equal_those_of_onnxruntime_and_are_drawn(
    capfd: pytest.CaptureFixture[str], data_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
    pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")
    model, folder = tmp_path / "faces.onnx", data_folder / "face_ultralight"
    assert invoke(capfd, "quantize", "face_ultralight", "--calibration", folder, "-o", model).status == 0
    photographs = [folder / "test_1.jpg", folder / "test_26.jpg"]
    arguments = ("--against", "onnxruntime", "--draw", tmp_path / "drawn", "--json")
    finished = invoke(capfd, "detect", model, *photographs, *arguments)
    assert finished.status == 0, finished.err
    report = finished.json()
    assert [(len(row["faces"]), row["same_boxes"]) for row in report] == [(47, True), (67, True)]
    for row, photograph in zip(report, photographs, strict=True):
        with Image.open(photograph) as before, Image.open(row["picture"]) as after:
            assert after.size == before.size
            face = row["faces"][0]
            corner = (int(face["left"] * before.width), int(face["top"] * before.height))
            assert after.getpixel(corner) == (255, 0, 0)


def test_other_networks_are_no_face_detectors(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    finished = invoke(capfd, "detect", "ember_cifar10", tmp_path / "a.png")
    assert finished.status == 1
    assert "'ember_cifar10' is no face detector: its outputs are [(1, 1, 10)]" in finished.err
