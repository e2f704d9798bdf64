"""Boxes of the face detector: decoding, and the int8 network against onnxruntime on two photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberline.driver.faces import Face, draw, find_faces, priors
from emberline.driver.images import load_pixels
from emberline.driver.preprocessing import Preprocessing
from emberline.model import network
from emberline.model.graph import FeatureMap, Quantisation
from emberline.zoo import ZOO

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


@pytest.mark.parametrize(("photograph", "count"), [("test_1.jpg", 47), ("test_26.jpg", 67)])
def test_boxes_equal_those_of_onnxruntime(photograph: str, count: int, data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
    pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")
    from emberline.compiler.frontends.onnx_reader import read_onnx
    from emberline.model.onnx_reference import OnnxRuntimeReference
    from emberline.quantiser.static import Options, quantise

    entry, folder = ZOO["face_ultralight"], data_folder / "face_ultralight"
    preprocessing = Preprocessing.from_json(entry.preprocessing)
    path = tmp_path / "faces.onnx"
    quantise(entry.path(), path, folder, preprocessing, Options(outputs=entry.outputs))
    graph = read_onnx(path)
    pixels = load_pixels(folder / photograph, (HEIGHT, WIDTH, 3), preprocessing)
    codes = preprocessing.to_codes(pixels, graph.feature_maps[graph.inputs[0]].quantisation)[None]
    ours, theirs = network.run(graph, codes), OnnxRuntimeReference(path, graph).run_all(codes)
    maps = [graph.feature_maps[name] for name in graph.outputs]
    faces = find_faces([(ours[each.name][0], each) for each in maps], WIDTH, HEIGHT)
    expected = find_faces([(values[0], each) for values, each in zip(theirs, maps, strict=True)], WIDTH, HEIGHT)
    assert faces == expected
    assert len(faces) == count
