"""The committed network of our own: what its description says must be so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import emberline.training
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.model import litert, network
from emberline.model.graph import Convolution, Graph, MaxPool, Quantisation
from emberline.training.dataset import LABELS, load_lossless
from emberline.training.evaluate import measure_int8_accuracy
from emberline.training.report import make_tables, update_tables

ZOO = Path(emberline.training.__file__).parents[1] / "zoo"
WEIGHT_BYTES = 92 * 1024
MAP_BYTES = 60 * 1024


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_tflite(ZOO / "ember_cifar10.tflite")


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return json.loads((ZOO / "ember_cifar10.json").read_text())


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def test_description_agrees_with_the_file(graph: Graph, description: dict[str, Any]) -> None:
    assert description["labels"] == list(LABELS)
    assert description["parameters"] == graph.parameter_count
    assert description["macs"] == graph.macs()
    image = graph.feature_maps[graph.inputs[0]]
    assert list(image.shape) == description["input"]["shape"]
    assert image.quantisation == Quantisation(float(np.float32(1 / 255)), description["input"]["zero_point"])


def test_kernels_are_1x1_and_3x3_without_maximum_pools(graph: Graph) -> None:
    for layer in graph:
        assert not isinstance(layer, MaxPool), layer.name
        if isinstance(layer, Convolution):
            assert layer.kernel in ((1, 1), (3, 3)), layer.name
            assert layer.kernel == (3, 3) or layer.stride == (1, 1), layer.name
            assert not layer.fully_connected, layer.name


def test_weights_fit_their_memory(graph: Graph) -> None:
    total = 0
    for layer in graph:
        if isinstance(layer, Convolution):
            out, height, width, channels = layer.weights.shape
            first = graph.inputs[0] in layer.inputs
            taps, depth = (height, round_up(width * channels, 16)) if first else (height * width, channels)
            total += round_up(out, 8) * (taps * round_up(depth, 16) + 16)
    assert total <= WEIGHT_BYTES


def test_maps_fit_their_memory(graph: Graph) -> None:
    layers = list(graph.layers)
    sizes = {name: m.height * m.width * round_up(m.channels, 16) for name, m in graph.feature_maps.items()}
    for position, layer in enumerate(layers):
        later = {name for each in layers[position:] for name in each.inputs}
        earlier = {*graph.inputs, *(each.output for each in layers[: position + 1])}
        live = (later & earlier) | {layer.output}
        # The halves of a concatenation are written where the whole one lies.
        parts = {name for each in layers if type(each).__name__ == "Concatenation" for name in each.inputs}
        wholes = {each.output for each in layers if set(each.inputs) & parts & live and each.output not in live}
        assert sum(sizes[name] for name in (live - parts) | (wholes - parts)) <= MAP_BYTES, layer.name


@pytest.mark.skipif(not litert.available(), reason="ai-edge-litert, the oracle, is not installed")
def test_scores_equal_litert(graph: Graph) -> None:
    frames = np.random.default_rng(1).integers(-128, 128, (4, 32, 32, 3), dtype=np.int8)
    expected = litert.LiteRTReference(ZOO / "ember_cifar10.tflite").run(frames)
    np.testing.assert_array_equal(network.run(graph, frames)["scores"].reshape(expected.shape), expected)


@pytest.mark.skipif(not litert.available(), reason="ai-edge-litert, the oracle, is not installed")
def test_accuracy_on_the_lossless_images_is_as_described(description: dict[str, Any], data_folder: Path) -> None:
    accuracy = measure_int8_accuracy((ZOO / "ember_cifar10.tflite").read_bytes(), load_lossless(data_folder))
    assert round(100 * accuracy, 2) == description["accuracy_percent"]["lossless_500"]["int8"]


def test_tables_of_the_document_are_current() -> None:
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert update_tables(document, make_tables(ZOO / "ember_cifar10.tflite")) == document


def test_unmarked_table_is_refused() -> None:
    with pytest.raises(ValueError, match="marks table 'layers' 0 times"):
        update_tables("no tables here", {"layers": "| |"})
