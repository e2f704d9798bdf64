"""Legacy uint8 models: MobileNetV1 against LiteRT, and the rewriting of weights with a zero point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberline.compiler.frontends import tflite_uint8
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.compiler.frontends.tflite_records import TensorRecord
from emberline.errors import ModelError
from emberline.model import kernels, litert, network, numerics
from emberline.model.graph import AveragePool, Concatenation, Convolution, FeatureMap, Graph, Quantisation, Select

needs_litert = pytest.mark.skipif(not litert.available(), reason="ai-edge-litert, the oracle, is not installed")
QUANTISATION = Quantisation(0.5, -20)


def some_codes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape, dtype=np.int8)


@needs_litert
@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "tf2_mobilenet_v2_1.0_224_ptq"])
def test_every_tensor_equals_litert(name: str, data_folder: Path) -> None:
    path = data_folder / "mobilenet" / f"{name}.tflite"
    graph = read_tflite(path)
    frame = some_codes(1, *graph.feature_maps[graph.inputs[0]].shape)
    ours = network.run(graph, frame, keep=True)
    theirs = litert.LiteRTReference(path, keep_tensors=True).tensors(frame[0])
    compared = 0
    for tensor, values in theirs.items():
        if tensor in ours and ours[tensor].size == values.size:
            np.testing.assert_array_equal(ours[tensor].reshape(values.shape), values, err_msg=tensor)
            compared += 1
    assert compared >= 18
    outputs = litert.LiteRTReference(path).run(frame)
    np.testing.assert_array_equal(ours[graph.outputs[0]].reshape(outputs.shape), outputs)


def test_mobilenet_with_weight_zero_points_costs_twice_its_products_at_most(data_folder: Path) -> None:
    graph = read_tflite(data_folder / "mobilenet" / "mobilenet_v1_0.25_128_quant.tflite")
    assert 13_570_304 < graph.macs() < 2 * 13_570_304


def wide_tensor(values: np.ndarray) -> TensorRecord:
    data = np.frombuffer(values.astype("<i2").tobytes(), np.uint8)
    none = np.zeros(0, np.int64)
    return TensorRecord(0, "w", "INT16", values.shape, (), np.ones(1, np.float32), none, 0, False, data)


def test_weights_are_split_into_two_that_add_up() -> None:
    values = np.arange(-255, 255)
    first, rest = (each.data.view(np.int8).astype(int) for each in tflite_uint8.halves(wide_tensor(values)))
    assert (first + rest == values).all()


def test_weights_that_two_cannot_reach_are_refused() -> None:
    with pytest.raises(ModelError, match="weights 'w' reach 255"):
        tflite_uint8.halves(wide_tensor(np.array([255])))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_widened_convolution_is_the_sum_of_both(seed: int, depthwise: bool) -> None:
    rng = np.random.default_rng(seed)
    channels, out = 4, 4 if depthwise else 3
    shape = (out, 3, 2, 1 if depthwise else channels)
    first = rng.integers(-128, 128, shape, dtype=np.int8)
    rest = rng.integers(-127, 128, shape, dtype=np.int8) * (rng.random(shape) < 0.2)
    maps = {"x": FeatureMap("x", 5, 5, channels, QUANTISATION), "y": FeatureMap("y", 3, 4, out, QUANTISATION)}
    layer = Convolution(
        "conv", ("x",), "y", first, rng.integers(-9, 9, out, dtype=np.int32), np.ones(1, np.float32),
        np.full(out, 1 << 30, np.int32), np.full(out, -9, np.int32), groups=channels if depthwise else 1,
    )  # fmt: skip

    def define(name: str, count: int) -> FeatureMap:
        maps[name] = FeatureMap(name, 5, 5, count, QUANTISATION)
        return maps[name]

    layers = tflite_uint8.widen(layer, rest.astype(np.int8), maps["x"], define)
    graph = Graph("test", ("x",), ("y",), tuple(layers), maps)
    frames = some_codes(2, 5, 5, channels, seed=seed)
    both = [
        kernels.convolution_accumulators(frames, weights, np.zeros(out, np.int32), -20, groups=layer.groups).astype(int)
        for weights in (first, rest.astype(np.int8))
    ]
    expected = numerics.requantise(sum(both) + layer.bias, layer.multiplier, layer.shift, -20, -128, 127)
    np.testing.assert_array_equal(network.run(graph, frames)["y"], expected)
    assert all(isinstance(each, Select | Concatenation | Convolution) for each in layers)


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (3, 3), (4, 4), (2, 3), (7, 7), (13, 13)])
def test_unsigned_average_rounds_halves_up(window: tuple[int, int]) -> None:
    source = FeatureMap("x", *window, 64, QUANTISATION)
    pool = AveragePool("pool", ("x",), "y", window, (1, 1))
    layer = tflite_uint8.unsigned_average(pool, 64)
    frames = some_codes(40, *source.shape)
    frames[:2, ...] = [[[[-128]]], [[[127]]]]
    count = window[0] * window[1]
    total = (frames.astype(int) + 128).sum(axis=(1, 2), keepdims=True)
    expected = (total + count // 2) // count - 128
    np.testing.assert_array_equal(kernels.convolution(frames, layer, -20, -20), expected)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (AveragePool("p", ("x",), "y", (2, 2), (1, 1), (0, 1, 0, 1)), "with padding"),
        (AveragePool("p", ("x",), "y", (64, 64), (1, 1)), "average of 4096"),
    ],
)
def test_impossible_unsigned_average_is_refused(pool: AveragePool, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tflite_uint8.unsigned_average(pool, 3)


def test_grouped_weights_with_a_zero_point_are_refused() -> None:
    layer = Convolution(
        "conv", ("x",), "y", np.ones((4, 1, 1, 2), np.int8), np.zeros(4, np.int32), np.ones(1, np.float32),
        np.zeros(4, np.int32), np.zeros(4, np.int32), groups=2,
    )  # fmt: skip
    source = FeatureMap("x", 1, 1, 4, QUANTISATION)
    with pytest.raises(ModelError, match="in groups"):
        tflite_uint8.widen(layer, layer.weights, source, lambda name, count: replace(source, name=name))
