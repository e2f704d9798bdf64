"""The ONNX front end: networks against onnxruntime, and every operator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from onnx import TensorProto  # noqa: E402
from onnx_models import OnnxNetwork, to_qdq  # noqa: E402
from onnx_operators import INPUT, RESULT, convolution, one_operator  # noqa: E402
from random_graphs import Limits, graphs, random_frames, random_graph  # noqa: E402

from emberline.compiler.frontends.onnx_reader import read_onnx  # noqa: E402
from emberline.model import network as model  # noqa: E402
from emberline.model.graph import (  # noqa: E402
    Add,
    AveragePool,
    Convolution,
    Graph,
    MaxPool,
    Padding,
    Quantisation,
    Select,
    Softmax,
    Upsample,
)
from emberline.model.onnx_reference import OnnxRuntimeReference  # noqa: E402

EXACT_BLOCKS = ("convolution", "parallel", "max_pool")


def differences(data: bytes, count: int = 3, seed: int = 0) -> tuple[Graph, int, int]:
    """The graph, and how many output codes differ from onnxruntime's, and by how much at most."""
    graph = read_onnx(data)
    frames = random_frames(np.random.default_rng(seed), graph, count)
    ours, theirs = model.run(graph, frames), OnnxRuntimeReference(data, graph).run_all(frames)
    distances = np.concatenate(
        [
            np.abs(ours[name].astype(np.int16) - other).reshape(-1)
            for name, other in zip(graph.outputs, theirs, strict=True)
        ]
    )
    return graph, int((distances > 0).sum()), int(distances.max())


@pytest.mark.parametrize("seed", range(12))
def test_random_network_equals_onnxruntime(seed: int) -> None:
    limits = Limits(depthwise=True, dilation=True, heads=2, blocks=EXACT_BLOCKS)
    graph = random_graph(np.random.default_rng(seed), limits)
    assert differences(to_qdq(graph, unsigned=bool(seed % 2)))[1:] == (0, 0)


@given(graphs(Limits(heads=2, max_size=8, blocks=("grouped", "shuffled", "split", "upsample", *EXACT_BLOCKS))))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_drawn_network_of_groups_shuffles_and_splits_is_onnxruntimes(graph: Graph) -> None:
    """Sums, which onnxruntime computes in float, may be off by one."""
    read, count, most = differences(to_qdq(graph), 1)
    assert most <= (1 if any(isinstance(layer, Add) for layer in graph.layers) else 0) or count == 0
    kinds = Counter(type(layer) for layer in graph.layers)
    assert Counter(type(layer) for layer in read.layers)[Select] == kinds[Select]
    assert Counter(type(layer) for layer in read.layers)[Upsample] == kinds[Upsample]


@pytest.mark.parametrize("seed", range(6))
def test_sums_and_means_differ_by_one_at_most(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed), Limits(max_blocks=1, blocks=("residual", "average_pool")))
    assert differences(to_qdq(graph))[2] <= 1


# --- single operators, between a quantised input and a quantised output


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel": 3, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel": 2, "auto_pad": "SAME_LOWER"},
        {"kernel": 3, "auto_pad": "VALID"},
        {"kernel": 3, "pads": [0, 1, 2, 1], "dilations": [2, 1]},
        {"group": 2},
        {"group": 4, "kernel": 3, "channels": 8},
    ],
)
def test_convolution_attributes(attributes: dict[str, object]) -> None:
    data = one_operator(lambda network, x: convolution(network, x, **attributes))  # type: ignore[arg-type]
    assert differences(data)[1:] == (0, 0)


@pytest.mark.parametrize("op", ["Relu", "Clip", "Clip6"])
def test_activation_function_becomes_a_clamp(op: str) -> None:
    def operator(network: OnnxNetwork, x: str) -> str:
        y = convolution(network, x)
        if op == "Relu":
            return network.node("Relu", y)
        high = [network.constant(np.array(value, np.float32)) for value in (0, 6)]
        return network.node("Clip", y, *(high if op == "Clip6" else high[:1]))

    graph, differing, _ = differences(one_operator(operator))
    assert differing == 0
    (layer,) = graph.layers
    assert isinstance(layer, Convolution)
    assert layer.activation_min == RESULT.zero_point
    assert layer.activation_max == (RESULT.zero_point + 48 if op == "Clip6" else 127)


def test_activation_function_between_equal_quantisations_is_folded() -> None:
    def operator(network: OnnxNetwork, x: str) -> str:
        return network.node("Relu", network.requantised(convolution(network, x), RESULT))

    graph, differing, _ = differences(one_operator(operator))
    assert differing == 0
    assert [type(layer) for layer in graph.layers] == [Convolution]


def test_activation_function_of_a_map_that_others_read_is_a_layer() -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", (1, 4, 3, 3)), INPUT)
    y = network.requantised(convolution(network, x), RESULT)
    data = network.model([y, network.requantised(network.node("Relu", y), RESULT)])
    graph, differing, _ = differences(data)
    assert differing == 0
    assert len(graph.layers) == 2


def test_batch_normalisation_is_folded() -> None:
    rng = np.random.default_rng(2)
    factors = [rng.uniform(0.5, 2, 4) * [1, -1, 1, -1], rng.normal(size=4), rng.normal(size=4), rng.uniform(0.5, 2, 4)]

    def operator(network: OnnxNetwork, x: str) -> str:
        y = convolution(network, x)
        return network.node("BatchNormalization", y, *(network.constant(each.astype(np.float32)) for each in factors))

    graph, differing, largest = differences(one_operator(operator))
    assert [type(layer) for layer in graph.layers] == [Convolution]
    assert largest <= 1
    assert differing < 5  # onnxruntime computes a normalisation that is left over in float


def test_bias_behind_a_matrix_product_is_folded() -> None:
    rng = np.random.default_rng(3)

    def operator(network: OnnxNetwork, x: str) -> str:
        matrix = network.weights(rng.integers(-127, 128, (120, 7), dtype=np.int8), np.full(1, 0.004))
        y = network.node("MatMul", network.node("Flatten", x), matrix)
        return network.node("Add", y, network.constant(rng.normal(size=7).astype(np.float32)))

    graph, _, largest = differences(one_operator(operator))
    assert isinstance(graph.layers[0], Convolution)
    assert graph.layers[0].fully_connected
    assert largest <= 1


@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding", "expected"),
    [
        ((2, 6, 6), 3, 2, 0, Padding(0, 1, 0, 1)),
        ((2, 7, 6), 3, 2, 0, Padding(0, 0, 0, 1)),
        ((2, 5, 5), 2, 2, 0, Padding(0, 1, 0, 1)),
        ((2, 6, 6), 2, 3, 1, Padding(1, 1, 1, 1)),
    ],
)
def test_max_pool_in_ceil_mode(
    shape: tuple[int, int, int], window: int, stride: int, padding: int, expected: Padding
) -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", (1, *shape)), INPUT)
    y = network.node("MaxPool", x, kernel_shape=[window] * 2, strides=[stride] * 2, pads=[padding] * 4, ceil_mode=1)
    data = network.model([network.requantised(y, INPUT)])
    graph, differing, _ = differences(data)
    assert differing == 0
    assert isinstance(graph.layers[0], MaxPool)
    assert graph.layers[0].padding == expected


def test_global_average_with_its_own_quantisation_equals_onnxruntime() -> None:
    graph, differing, _ = differences(one_operator(lambda network, x: network.node("GlobalAveragePool", x)), 20)
    assert differing == 0
    assert isinstance(graph.layers[0], Convolution)


def test_average_with_its_inputs_quantisation_is_a_pool() -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", (1, 3, 4, 4)), INPUT)
    y = network.requantised(network.node("ReduceMean", x, axes=[2, 3], keepdims=0), INPUT)
    graph, _, largest = differences(network.model([y]))
    assert isinstance(graph.layers[0], AveragePool)
    assert largest <= 1


def shuffle(network: OnnxNetwork, x: str) -> str:
    for op, value in (("Reshape", (1, 2, 2, 6, 5)), ("Transpose", (0, 2, 1, 3, 4)), ("Reshape", (0, 4, 6, -1))):
        if op == "Reshape":
            x = network.node(op, x, network.constant(np.array(value, np.int64)))
        else:
            x = network.node(op, x, perm=value)
    return convolution(network, network.requantised(x, INPUT))


def test_channel_shuffle_is_a_selection() -> None:
    graph, differing, _ = differences(one_operator(shuffle))
    assert differing == 0
    assert isinstance(graph.layers[0], Select)
    assert graph.layers[0].channels == (0, 2, 1, 3)


def test_split_and_slice_are_selections() -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", (1, 5, 2, 2)), INPUT)
    sizes = network.constant(np.array([2, 3], np.int64))
    network.node("Split", x, sizes, outputs=("a", "b"), axis=1)
    ends = [network.constant(np.array([value], np.int64)) for value in (1, 4, 1)]
    data = network.model([network.requantised(name, INPUT) for name in ("a", "b", network.node("Slice", x, *ends))])
    graph, differing, _ = differences(data)
    assert differing == 0
    assert [layer.channels for layer in graph.layers if isinstance(layer, Select)] == [(0, 1), (2, 3, 4), (1, 2, 3)]


def test_nearest_neighbours_are_an_upsampling() -> None:
    def operator(network: OnnxNetwork, x: str) -> str:
        factors = network.constant(np.array([1, 1, 2, 3], np.float32))
        y = network.node("Resize", x, network.constant(np.zeros(0, np.float32)), factors, mode="nearest")
        return convolution(network, network.requantised(y, INPUT))

    graph, differing, _ = differences(one_operator(operator))
    assert differing == 0
    assert isinstance(graph.layers[0], Upsample)


def test_softmax_at_the_end_runs_on_the_host() -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", (1, 4, 1, 1)), INPUT)
    y = network.node("Flatten", network.requantised(convolution(network, x), RESULT))
    graph, _, largest = differences(network.model([network.node("Softmax", y, axis=-1)]), 50)
    assert isinstance(graph.host_layers[-1], Softmax)
    assert largest <= 1


def test_pixels_may_be_the_order_of_the_output() -> None:
    def operator(network: OnnxNetwork, x: str) -> str:
        y = network.requantised(convolution(network, x), RESULT)
        return network.node("Transpose", y, perm=[0, 2, 3, 1])

    assert differences(one_operator(operator))[1:] == (0, 0)


@pytest.mark.parametrize("unsigned", [False, True])
def test_qlinear_operators(unsigned: bool) -> None:
    rng = np.random.default_rng(8)
    network = OnnxNetwork(unsigned=unsigned)
    x = network.quantise(network.input("x", (1, 4, 6, 5)), INPUT)

    def both(quantisation: Quantisation) -> tuple[str, str]:
        return network.scale(quantisation), network.zero_point(quantisation)

    def conv(channels: int) -> str:
        codes = network.constant(rng.integers(-127, 128, (channels, 4, 3, 3), dtype=np.int8))
        scales = network.constant(rng.uniform(0.001, 0.01, channels).astype(np.float32))
        zeros = network.constant(np.zeros(channels, np.int8))
        bias = network.constant(rng.integers(-2000, 2000, channels, dtype=np.int32))
        return network.node("QLinearConv", x, *both(INPUT), codes, scales, zeros, *both(RESULT), bias, pads=[1] * 4)

    a, b = conv(4), conv(3)
    concatenated = network.node(
        "QLinearConcat", *both(RESULT), a, *both(RESULT), b, *both(RESULT), domain="com.microsoft", axis=1
    )
    pooled = network.node("MaxPool", concatenated, kernel_shape=[2, 2], strides=[2, 2])
    mean = network.node(
        "QLinearGlobalAveragePool", pooled, *both(RESULT), *both(INPUT), domain="com.microsoft", channels_last=0
    )
    data = network.model([network.dequantise(pooled, RESULT), network.dequantise(mean, INPUT)])
    assert differences(data)[1:] == (0, 0)
    summed = network.node("QLinearAdd", a, *both(RESULT), x, *both(INPUT), *both(RESULT), domain="com.microsoft")
    outputs = [network.dequantise(name, quantisation) for name, quantisation in ((mean, INPUT), (summed, RESULT))]
    assert differences(network.model(outputs))[2] <= 1


def test_integer_input_takes_the_quantisation_of_its_reader() -> None:
    network = OnnxNetwork(unsigned=True)
    x = network.dequantise(network.input("x", ("N", 4, 3, 3), TensorProto.UINT8), INPUT)
    data = network.model([network.requantised(convolution(network, x), RESULT)])
    graph, differing, _ = differences(data)
    assert differing == 0
    assert graph.feature_maps["x"].quantisation == INPUT


def test_unsigned_weights_around_128_are_int8() -> None:
    rng = np.random.default_rng(4)

    def operator(network: OnnxNetwork, x: str) -> str:
        codes = network.constant(rng.integers(0, 256, (3, 4, 1, 1), dtype=np.uint8))
        scale = network.constant(np.array(0.0057, np.float32))
        weights = network.node("DequantizeLinear", codes, scale, network.constant(np.array(128, np.uint8)))
        return network.node("Conv", x, weights)

    assert differences(one_operator(operator, unsigned=True))[1:] == (0, 0)
