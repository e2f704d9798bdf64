"""The ONNX front end: what it refuses, and how it names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import OnnxNetwork, parse  # noqa: E402
from onnx_operators import INPUT, RESULT, convolution, one_operator  # noqa: E402

from emberline.compiler.frontends.onnx_reader import read_onnx  # noqa: E402
from emberline.errors import ModelError  # noqa: E402


def refuse(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_onnx(data)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (lambda n, x: n.node("Sigmoid", x), "layer 'sigmoid.*: operator Sigmoid is not supported"),
        (lambda n, x: n.node("LeakyRelu", x), "operator LeakyRelu is not supported"),
        (lambda n, x: n.node("Add", x, n.constant(np.ones(1, np.float32))), "adding a constant"),
        (lambda n, x: n.node("Conv", x, n.constant(np.ones((2, 4, 1, 1), np.float32))), "its weights are float"),
        (lambda n, x: convolution(n, convolution(n, x)), "reads the float tensor 'conv.*emberline quantize"),
        (lambda n, x: convolution(n, x, group=2, channels=5), "5 output channels cannot be split|do not fit 4"),
        (lambda n, x: convolution(n, x, auto_pad="SIDEWAYS"), "auto_pad SIDEWAYS"),
        (lambda n, x: n.node("Concat", x, x, axis=2), "only channels"),
        (lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 2]), "dilations"),
        (lambda n, x: n.node("MaxPool", x, kernel_shape=[9, 2]), "does not fit"),
        (
            lambda n, x: n.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
            "count_include_pad",
        ),
        (lambda n, x: n.node("Reshape", x, n.constant(np.array([1, 8, 15], np.int64))), "reshaping"),
        (lambda n, x: n.node("Transpose", x, perm=[0, 1, 3, 2]), "transposing"),
        (lambda n, x: n.node("Pad", x, n.constant(np.array([0, 1, 0, 0] * 2, np.int64))), "rows and columns"),
        (lambda n, x: n.node("ReduceMean", x, axes=[1]), "mean over rows and columns"),
        (lambda n, x: n.node("Split", x, axis=2, outputs=("s", "t")), "only channels"),
        (lambda n, x: n.node("BatchNormalization", x, *[n.constant(np.ones(4, np.float32))] * 4), "directly behind"),
        (lambda n, x: n.node("Add", x, n.node("GlobalAveragePool", x)), "reads the float tensor"),
    ],
)
def test_unsupported_operator_is_refused(operator: Callable[[OnnxNetwork, str], str], message: str) -> None:
    refuse(one_operator(operator), message)


def test_float_network_is_refused() -> None:
    network = OnnxNetwork()
    x = network.input("x", (1, 4, 3, 3))
    refuse(network.model([convolution(network, x)]), r"layer 'conv.*: it reads 'x', which is not quantised")


def test_float_output_is_refused() -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", (1, 4, 3, 3)), INPUT)
    refuse(network.model([convolution(network, x)]), "is float, the result of layer")


def test_flattened_map_as_output_is_refused() -> None:
    refuse(one_operator(lambda n, x: n.node("Flatten", n.requantised(convolution(n, x), RESULT))), "flattens a")


@pytest.mark.parametrize(("shape", "message"), [((1, 4, "H", 3), "dynamic"), ((2, 4, 3, 3), "batch 2")])
def test_impossible_input_is_refused(shape: tuple[int | str, ...], message: str) -> None:
    network = OnnxNetwork()
    x = network.requantised(network.input("x", shape), INPUT)
    refuse(network.model([network.requantised(convolution(network, x), RESULT)]), message)


def test_activation_per_channel_is_refused() -> None:
    network = OnnxNetwork()
    scales = network.constant(np.full(4, 0.1, np.float32))
    x = network.node("QuantizeLinear", network.input("x", (1, 4, 3, 3)), scales, network.constant(np.zeros(4, np.int8)))
    refuse(network.model([x], TensorProto.INT8), "quantised per channel")


def test_16_bit_activation_is_refused() -> None:
    network = OnnxNetwork(opset=21)
    zero = network.constant(np.array(0, np.int16))
    x = network.node("QuantizeLinear", network.input("x", (1, 4, 3, 3)), network.scale(INPUT), zero)
    refuse(network.model([x], TensorProto.INT16), "int16; only int8 and uint8 activations")


def test_weights_that_do_not_fit_int8_are_refused() -> None:
    def operator(network: OnnxNetwork, x: str) -> str:
        codes = network.constant(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4, 1, 1))
        scale = network.constant(np.array(0.1, np.float32))
        return network.node(
            "Conv", x, network.node("DequantizeLinear", codes, scale, network.constant(np.array(3, np.uint8)))
        )

    refuse(one_operator(operator), "zero point 3.*does not fit int8")


def damaged(change: Callable[[object], None]) -> bytes:
    file = parse(one_operator(convolution))
    change(file.graph)  # type: ignore[attr-defined]
    return file.SerializeToString()


def swap(graph: object) -> None:
    nodes = list(graph.node)  # type: ignore[attr-defined]
    del graph.node[:]  # type: ignore[attr-defined]
    graph.node.extend(reversed(nodes))  # type: ignore[attr-defined]


def make_external(graph: object) -> None:
    graph.initializer[0].data_location = TensorProto.EXTERNAL  # type: ignore[attr-defined]


def rename_input(graph: object) -> None:
    graph.node[0].input[0] = "nothing"  # type: ignore[attr-defined]


def add_control_flow(graph: object) -> None:
    branch = helper.make_graph([], "empty", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    graph.node.append(node)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, "nodes out of order, or a cycle"),
        (make_external, "external data"),
        (rename_input, "'nothing' is produced by nothing"),
        (add_control_flow, "control flow"),
    ],
)
def test_damaged_graph_is_refused(change: Callable[[object], None], message: str) -> None:
    refuse(damaged(change), message)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file_is_refused(share: float) -> None:
    data = one_operator(convolution)
    refuse(data[: int(share * len(data))], "model.onnx: .*(damaged|produced by nothing|not computed)")


def test_old_operator_set_is_refused() -> None:
    refuse(one_operator(convolution, opset=6), "operator set 6")


def test_missing_file_is_named(tmp_path: object) -> None:
    with pytest.raises(ModelError, match=r"missing\.onnx: cannot be read"):
        read_onnx(f"{tmp_path}/missing.onnx")


def test_quantisation_that_changes_on_the_way_is_refused() -> None:
    network = OnnxNetwork()
    codes = network.quantise(network.input("x", (1, 4, 3, 3)), INPUT)
    x = network.dequantise(codes, replace(INPUT, zero_point=7))
    refuse(network.model([network.requantised(convolution(network, x), RESULT)]), "but dequantised by")
