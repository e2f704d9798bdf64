"""The float network between training and quantisation, in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from emberline.model.graph import Padding
from emberline.training.float_graph import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatGlobalAverage,
    FloatGraph,
    run_float,
)


def naive_convolution(x: np.ndarray, layer: FloatConvolution) -> np.ndarray:
    p, stride = layer.padding, layer.stride
    padded = np.pad(x, ((0, 0), (p.top, p.bottom), (p.left, p.right), (0, 0)))
    out, kernel_h, kernel_w, _ = layer.weights.shape
    height, width = (padded.shape[1] - kernel_h) // stride + 1, (padded.shape[2] - kernel_w) // stride + 1
    y = np.empty((len(x), height, width, out))
    for row in range(height):
        for column in range(width):
            window = padded[:, row * stride : row * stride + kernel_h, column * stride : column * stride + kernel_w]
            y[:, row, column] = np.einsum("nhwc,ohwc->no", window, layer.weights) + layer.bias
    return np.maximum(y, 0) if layer.relu else y


@pytest.mark.parametrize("stride, padding, relu", [(1, Padding(1, 1, 1, 1), True), (2, Padding(0, 1, 0, 1), False)])
def test_convolution_equals_naive_loop(stride: int, padding: Padding, relu: bool) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(5, 3, 3, 4)).astype(np.float32)
    layer = FloatConvolution("y", ("x",), weights, rng.normal(size=5).astype(np.float32), stride, padding, relu)
    x = rng.normal(size=(2, 6, 6, 4)).astype(np.float32)
    y = run_float(FloatGraph("one", "x", (6, 6, 4), (layer,)), x)["y"]
    np.testing.assert_allclose(y, naive_convolution(x, layer), rtol=1e-4, atol=1e-5)


def test_join_layers() -> None:
    layers = (
        FloatConcatenation("both", ("x", "x")),
        FloatAdd("sum", ("both", "both"), relu=True),
        FloatGlobalAverage("mean", ("sum",)),
    )
    x = np.random.default_rng(2).normal(size=(3, 4, 4, 2)).astype(np.float32)
    maps = run_float(FloatGraph("joins", "x", (4, 4, 2), layers), x)
    np.testing.assert_array_equal(maps["both"][..., 2:], x)
    np.testing.assert_array_equal(maps["sum"][..., :2], np.maximum(2 * x, 0))
    np.testing.assert_allclose(maps["mean"][..., :2], np.maximum(2 * x, 0).mean(axis=(1, 2), keepdims=True), rtol=1e-5)


def test_unknown_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'y' reads 'z'"):
        FloatGraph("bad", "x", (4, 4, 2), (FloatGlobalAverage("y", ("z",)),))


def test_repeated_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' exists twice"):
        FloatGraph("bad", "x", (4, 4, 2), (FloatGlobalAverage("x", ("x",)),))


def test_bias_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="'y': weights .* do not fit bias"):
        FloatConvolution("y", ("x",), np.zeros((4, 1, 1, 2), np.float32), np.zeros(3, np.float32))


def test_frames_of_another_shape_are_refused() -> None:
    graph = FloatGraph("mean", "x", (4, 4, 2), (FloatGlobalAverage("y", ("x",)),))
    with pytest.raises(ValueError, match="frames must be"):
        run_float(graph, np.zeros((1, 4, 4, 3), np.float32))
