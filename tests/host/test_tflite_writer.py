"""Graphs written as .tflite: LiteRT's reference kernels and the front end must see what the graph says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.compiler.frontends.tflite_records import read_records
from emberline.compiler.frontends.tflite_writer import same_padding, write_tflite
from emberline.errors import ModelError
from emberline.model import litert, network, numerics, requantisation
from emberline.model.graph import (
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Flatten,
    Graph,
    Layer,
    MaxPool,
    Pad,
    Padding,
    Quantisation,
    Softmax,
    output_extent,
)
from emberline.model.litert import LiteRTReference

pytestmark = pytest.mark.skipif(not litert.available(), reason="ai-edge-litert, the oracle, is not installed")

INPUT = Quantisation(float(np.float32(0.05)), -7)
RELU_OUTPUT = Quantisation(float(np.float32(0.031)), -128)
SIGNED_OUTPUT = Quantisation(float(np.float32(0.043)), 11)
SAME_3X3 = Padding(1, 1, 1, 1)


def convolution(
    rng: np.random.Generator,
    x: FeatureMap,
    name: str,
    out: int = 8,
    kernel: tuple[int, int] = (3, 3),
    output: Quantisation = SIGNED_OUTPUT,
    activation: numerics.Activation = "NONE",
    groups: int = 1,
    per_tensor: bool = False,
    fully_connected: bool = False,
    **options: Any,
) -> tuple[Convolution, FeatureMap]:
    """A convolution with random weights, and its output map; both called ``name``."""
    weights = rng.integers(-127, 128, (out, *kernel, x.channels // groups), dtype=np.int8)
    scales = rng.uniform(0.001, 0.004, 1 if per_tensor else out).astype(np.float32)
    low, high = numerics.activation_range(activation, output)
    if fully_connected:
        rule = requantisation.fully_connected(x.quantisation.scale, scales, output, (low, high), out)
    else:
        rule = requantisation.convolution(x.quantisation.scale, scales, output.scale, out)
    layer = Convolution(
        name,
        (x.name,),
        name,
        weights,
        rng.integers(-3000, 3000, out, dtype=np.int32),
        scales,
        **rule._asdict(),
        groups=groups,
        fully_connected=fully_connected,
        activation_min=low,
        activation_max=high,
        **options,
    )
    p = layer.padding
    extents = (
        output_extent(x.height, kernel[0], layer.stride[0], p.top + p.bottom, layer.dilation[0]),
        output_extent(x.width, kernel[1], layer.stride[1], p.left + p.right, layer.dilation[1]),
    )
    return layer, FeatureMap(name, *extents, out, output)


def make_graph(maps: list[FeatureMap], layers: list[Layer], host: tuple[Layer, ...] = ()) -> Graph:
    """From the first map to the last layer's."""
    last = (host or layers)[-1].output
    return Graph("random", (maps[0].name,), (last,), tuple(layers), {each.name: each for each in maps}, host)


def check_graph(graph: Graph, seed: int = 1) -> None:
    """LiteRT's result of the written file, and the front end's graph of it, equal the model's, bit for bit."""
    data = write_tflite(graph)
    assert write_tflite(graph) == data
    (source,) = graph.inputs
    frames = np.random.default_rng(seed).integers(-128, 128, (5, *graph.feature_maps[source].shape), dtype=np.int8)
    expected = network.run(graph, frames)[graph.outputs[0]]
    actual = LiteRTReference(data).run(frames)
    np.testing.assert_array_equal(actual.reshape(expected.shape), expected)
    again = read_tflite(data)
    np.testing.assert_array_equal(network.run(again, frames)[again.outputs[0]].reshape(expected.shape), expected)
    assert again.parameter_count == graph.parameter_count
    assert len(set(np.unique(expected))) > 2, "a constant output would prove nothing"


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "same": {"padding": SAME_3X3},
    "valid": {},
    "relu": {"padding": SAME_3X3, "output": RELU_OUTPUT, "activation": "RELU"},
    "relu6": {"output": Quantisation(float(np.float32(0.06)), -100), "activation": "RELU6"},
    "relu_n1_to_1": {"activation": "RELU_N1_TO_1"},
    "same_stride_2": {"stride": (2, 2), "padding": same_padding(7, 6, (3, 3), (2, 2))},
    "explicit_padding": {"padding": Padding(2, 0, 1, 3)},
    "explicit_stride_2": {"stride": (2, 2), "padding": SAME_3X3},
    "uneven_kernel": {"kernel": (2, 5), "stride": (1, 2)},
    "dilated": {"dilation": (2, 2), "padding": Padding(2, 2, 2, 2)},
    "per_tensor": {"per_tensor": True, "kernel": (1, 1)},
    "grouped": {"groups": 2, "padding": SAME_3X3},
    "depthwise": {"groups": 4, "out": 4, "padding": SAME_3X3},
    "depthwise_doubled": {"groups": 4, "out": 8, "stride": (2, 2)},
    "depthwise_explicit": {"groups": 4, "out": 4, "padding": Padding(1, 0, 0, 2), "per_tensor": True},
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_litert(case: str) -> None:
    x = FeatureMap("x", 7, 6, 4, INPUT)
    layer, y = convolution(np.random.default_rng(3), x, "y", **CONVOLUTIONS[case])
    check_graph(make_graph([x, y], [layer]))


def test_explicit_padding_is_a_pad_operator() -> None:
    x = FeatureMap("x", 7, 6, 4, INPUT)
    layer, y = convolution(np.random.default_rng(3), x, "y", padding=Padding(2, 0, 1, 3))
    records = read_records(write_tflite(make_graph([x, y], [layer])))
    assert [operator.type for operator in records.operators] == ["PAD", "CONV_2D"]


def test_names_are_kept() -> None:
    x = FeatureMap("image", 5, 5, 4, INPUT)
    layer, y = convolution(np.random.default_rng(3), x, "fire2/squeeze1x1")
    records = read_records(write_tflite(make_graph([x, y], [layer])))
    names = {tensor.name for tensor in records.tensors}
    assert names == {"image", "fire2/squeeze1x1", "fire2/squeeze1x1/weights", "fire2/squeeze1x1/bias"}


@pytest.mark.parametrize("per_tensor", [False, True])
def test_fully_connected_with_softmax_equals_litert(per_tensor: bool) -> None:
    rng = np.random.default_rng(4)
    x = FeatureMap("x", 3, 2, 4, INPUT)
    hidden, h = convolution(
        rng, x, "h", kernel=(3, 2), out=12, per_tensor=per_tensor, fully_connected=True,
        output=RELU_OUTPUT, activation="RELU",
    )  # fmt: skip
    last, y = convolution(rng, h, "y", kernel=(1, 1), out=7, per_tensor=per_tensor, fully_connected=True)
    scores = FeatureMap("scores", 1, 1, 7, Quantisation(1 / 256, -128))
    check_graph(make_graph([x, h, y, scores], [hidden, last], (Softmax("softmax", ("y",), "scores"),)))


@pytest.mark.parametrize("per_tensor", [True, False])
def test_fully_connected_rounds_as_litert(per_tensor: bool) -> None:
    x = FeatureMap("x", 1, 1, 40, INPUT)
    layer, y = convolution(
        np.random.default_rng(1), x, "y", out=200, kernel=(1, 1), per_tensor=per_tensor, fully_connected=True
    )
    graph = make_graph([x, y], [layer])
    assert [operator.type for operator in read_records(write_tflite(graph)).operators] == ["FULLY_CONNECTED"]
    check_graph(graph)


def test_convolution_after_fully_connected_equals_litert() -> None:
    rng = np.random.default_rng(5)
    x = FeatureMap("x", 2, 2, 4, INPUT)
    first, h = convolution(rng, x, "h", kernel=(2, 2), fully_connected=True)
    second, y = convolution(rng, h, "y", kernel=(1, 1))
    check_graph(make_graph([x, h, y], [first, second]))


def test_flattened_softmax_equals_litert() -> None:
    x = FeatureMap("x", 5, 5, 4, INPUT)
    layer, y = convolution(np.random.default_rng(6), x, "y", kernel=(3, 3))
    logits = FeatureMap("logits", 1, 1, y.size, y.quantisation)
    scores = FeatureMap("scores", 1, 1, y.size, Quantisation(1 / 256, -128))
    host = (Flatten("flatten", ("y",), "logits"), Softmax("softmax", ("logits",), "scores", beta=0.5))
    check_graph(make_graph([x, y, logits, scores], [layer], host))


@pytest.mark.parametrize("kind", [AveragePool, MaxPool])
@pytest.mark.parametrize("window, stride, same", [(2, 2, False), (3, 2, True), (3, 1, True), (6, 6, False)])
def test_pool_equals_litert(kind: type[AveragePool] | type[MaxPool], window: int, stride: int, same: bool) -> None:
    x = FeatureMap("x", 6, 6, 4, INPUT)
    windows, strides = (window, window), (stride, stride)
    padding = same_padding(6, 6, windows, strides) if same else Padding()
    extent = output_extent(6, window, stride, padding.top + padding.bottom)
    y = FeatureMap("y", extent, extent, 4, INPUT)
    low, high = numerics.activation_range("RELU6", INPUT)
    layer = kind("y", ("x",), "y", windows, strides, padding, activation_min=low, activation_max=high)
    check_graph(make_graph([x, y], [layer]))


def add(a: FeatureMap, b: FeatureMap, output: Quantisation, activation: numerics.Activation) -> tuple[Add, FeatureMap]:
    parameters = numerics.add_parameters(a.quantisation.scale, b.quantisation.scale, output.scale)
    low, high = numerics.activation_range(activation, output)
    layer = Add("sum", (a.name, b.name), "sum", *parameters, activation_min=low, activation_max=high)
    return layer, replace(a, name="sum", quantisation=output)


@pytest.mark.parametrize("activation", ["NONE", "RELU"])
def test_add_equals_litert(activation: numerics.Activation) -> None:
    x = FeatureMap("x", 4, 4, 8, INPUT)
    layer, y = convolution(np.random.default_rng(7), x, "y", padding=SAME_3X3)
    bypass, total = add(x, y, Quantisation(float(np.float32(0.07)), -30), activation)
    check_graph(make_graph([x, y, total], [layer, bypass]))


def test_concatenation_equals_litert() -> None:
    rng = np.random.default_rng(8)
    x = FeatureMap("x", 4, 4, 4, INPUT)
    one, a = convolution(rng, x, "a", kernel=(1, 1), out=8, output=RELU_OUTPUT, activation="RELU")
    three, b = convolution(rng, x, "b", padding=SAME_3X3, out=4, output=RELU_OUTPUT, activation="RELU")
    both = FeatureMap("both", 4, 4, 12, RELU_OUTPUT)
    check_graph(make_graph([x, a, b, both], [one, three, Concatenation("both", ("a", "b"), "both")]))


def test_pad_layer_equals_litert() -> None:
    x = FeatureMap("x", 4, 4, 4, INPUT)
    padded = FeatureMap("padded", 6, 7, 4, INPUT)
    pooled = FeatureMap("pooled", 3, 3, 4, INPUT)
    layers: list[Layer] = [
        Pad("padded", ("x",), "padded", Padding(1, 1, 0, 3)),
        MaxPool("pooled", ("padded",), "pooled", (2, 2), (2, 2)),
    ]
    check_graph(make_graph([x, padded, pooled], layers))


@pytest.mark.parametrize("channels", [1, 4])
def test_mean_equals_litert(channels: int) -> None:
    x = FeatureMap("x", 5, 3, channels, INPUT)
    y = FeatureMap("y", 1, 1, channels, Quantisation(float(np.float32(0.017)), 5))
    multiplier, shift = numerics.mean_multiplier(x.quantisation.scale, y.quantisation.scale, 15)
    layer = Convolution(
        "y",
        ("x",),
        "y",
        np.ones((channels, 5, 3, 1), np.int8),
        np.zeros(channels, np.int32),
        np.array([1 / 15], np.float32),
        np.full(channels, multiplier, np.int32),
        np.full(channels, shift, np.int32),
        groups=channels,
    )
    graph = make_graph([x, y], [layer])
    assert [operator.type for operator in read_records(write_tflite(graph)).operators] == ["MEAN"]
    check_graph(graph)


def test_foreign_multiplier_is_refused() -> None:
    x = FeatureMap("x", 4, 4, 4, INPUT)
    layer, y = convolution(np.random.default_rng(9), x, "y")
    with pytest.raises(ModelError, match="'y' cannot be written as .tflite: its multipliers"):
        write_tflite(make_graph([x, y], [replace(layer, multiplier=layer.multiplier - 1)]))


def test_foreign_add_multiplier_is_refused() -> None:
    x = FeatureMap("x", 4, 4, 8, INPUT)
    layer, y = convolution(np.random.default_rng(7), x, "y", padding=SAME_3X3)
    bypass, total = add(x, y, SIGNED_OUTPUT, "NONE")
    with pytest.raises(ModelError, match="'sum' cannot be written as .tflite: its multipliers"):
        write_tflite(make_graph([x, y, total], [layer, replace(bypass, left_shift=19)]))


def test_clamp_without_activation_is_refused() -> None:
    x = FeatureMap("x", 4, 4, 4, INPUT)
    layer, y = convolution(np.random.default_rng(9), x, "y")
    with pytest.raises(ModelError, match="no activation function clamps .* to -99..127"):
        write_tflite(make_graph([x, y], [replace(layer, activation_min=-99)]))


def test_odd_pool_padding_is_refused() -> None:
    x = FeatureMap("x", 5, 5, 4, INPUT)
    y = FeatureMap("y", 3, 3, 4, INPUT)
    layer = MaxPool("y", ("x",), "y", (3, 3), (2, 2), Padding(2, 0, 1, 1))
    with pytest.raises(ModelError, match="neither VALID nor SAME"):
        write_tflite(make_graph([x, y], [layer]))
