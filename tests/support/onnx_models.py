"""ONNX models for tests: networks as QDQ or QLinear files, and single operators put together by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emberline.model.graph import (
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Graph,
    Layer,
    MaxPool,
    Pad,
    Quantisation,
    Select,
    Upsample,
)


class OnnxNetwork:
    """Nodes one after another; every method that adds one returns the name of its result.

    ``unsigned``: activations are uint8, 128 more than the int8 codes.
    """

    def __init__(self, *, unsigned: bool = False, opset: int = 13) -> None:
        self.unsigned, self.opset = unsigned, opset
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[Any] = []
        self.metadata: dict[str, str] = {}

    def input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        name = name or f"constant{len(self.constants)}"
        self.constants[name] = value
        return name

    def node(self, op: str, *inputs: str, outputs: Sequence[str] = (), domain: str = "", **attributes: Any) -> str:
        names = list(outputs) or [f"{op.lower()}{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], domain=domain, **attributes))
        return names[0]

    def scale(self, quantisation: Quantisation) -> str:
        return self.constant(np.array(quantisation.scale, np.float32))

    def zero_point(self, quantisation: Quantisation) -> str:
        if self.unsigned:
            return self.constant(np.array(quantisation.zero_point + 128, np.uint8))
        return self.constant(np.array(quantisation.zero_point, np.int8))

    def quantise(self, x: str, quantisation: Quantisation) -> str:
        return self.node("QuantizeLinear", x, self.scale(quantisation), self.zero_point(quantisation))

    def dequantise(self, x: str, quantisation: Quantisation) -> str:
        return self.node("DequantizeLinear", x, self.scale(quantisation), self.zero_point(quantisation))

    def requantised(self, x: str, quantisation: Quantisation) -> str:
        """Quantised and dequantised: a float tensor of this many values."""
        return self.dequantise(self.quantise(x, quantisation), quantisation)

    def weights(self, codes: np.ndarray, scales: np.ndarray, axis: int = 0) -> str:
        """Dequantised int8 or int32 constants, per channel where there are several scales."""
        scales = scales.astype(np.float32)
        scales = scales.reshape(()) if scales.size == 1 else scales
        zero = np.zeros(scales.shape, codes.dtype)
        return self.node(
            "DequantizeLinear", self.constant(codes), self.constant(scales), self.constant(zero), axis=axis
        )

    def model(self, outputs: Sequence[str], kind: int = TensorProto.FLOAT) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "test",
            self.inputs,
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        helper.set_model_props(model, self.metadata)
        return model.SerializeToString()


def to_qdq(graph: Graph, *, unsigned: bool = False) -> bytes:
    """A network's file in the QDQ notation; only scales and codes of the layers are taken, never their multipliers."""
    network = OnnxNetwork(unsigned=unsigned)
    real: dict[str, str] = {}
    for name in graph.inputs:
        x = graph.feature_maps[name]
        network.input(name, (1, x.channels, x.height, x.width))
        real[name] = network.requantised(name, x.quantisation)
    for layer in graph.layers:
        target = graph.feature_maps[layer.output]
        result = _float_operator(network, layer, [real[name] for name in layer.inputs], graph)
        low, high = getattr(layer, "activation_min", -128), getattr(layer, "activation_max", 127)
        if (low, high) != (-128, 127):
            result = network.node("Clip", result, *(_bound(network, code, target) for code in (low, high)))
        real[layer.output] = network.requantised(result, target.quantisation)
    return network.model([real[name] for name in graph.outputs])


def _bound(network: OnnxNetwork, code: int, target: FeatureMap) -> str:
    value = target.quantisation.scale * (code - target.quantisation.zero_point)
    return network.constant(np.array(value, np.float32))


def _float_operator(network: OnnxNetwork, layer: Layer, inputs: list[str], graph: Graph) -> str:
    match layer:
        case Convolution():
            source = graph.feature_maps[layer.inputs[0]].quantisation
            scales = np.broadcast_to(layer.weight_scales, (layer.output_channels,)).astype(np.float32)
            bias = network.weights(layer.bias, np.float32(source.scale) * scales)
            codes = layer.weights.transpose(0, 3, 1, 2)
            if layer.fully_connected:
                flat = network.node("Flatten", inputs[0])
                matrix = network.weights(codes.reshape(len(codes), -1).copy(), layer.weight_scales)
                return network.node("Gemm", flat, matrix, bias, transB=1)
            return network.node(
                "Conv", inputs[0], network.weights(codes.copy(), layer.weight_scales), bias,
                strides=layer.stride, dilations=layer.dilation, group=layer.groups, pads=_pads(layer.padding),
                kernel_shape=layer.kernel,
            )  # fmt: skip
        case Add():
            return network.node("Add", *inputs)
        case Concatenation():
            return network.node("Concat", *inputs, axis=1)
        case MaxPool() | AveragePool():
            op = type(layer).__name__
            return network.node(
                op, inputs[0], kernel_shape=layer.window, strides=layer.stride, pads=_pads(layer.padding)
            )
        case Pad():
            top, bottom, left, right = layer.padding
            pads = network.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
            return network.node("Pad", inputs[0], pads)
        case Upsample():
            factors = network.constant(np.array([1, 1, *layer.factor], np.float32))
            empty = network.constant(np.zeros(0, np.float32))
            return network.node(
                "Resize", inputs[0], empty, factors, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
            )
        case Select():
            return _selected(network, layer, inputs[0], graph.feature_maps[layer.inputs[0]])
    raise TypeError(f"layer '{layer.name}': no operator for a {type(layer).__name__}")


def _selected(network: OnnxNetwork, layer: Select, x: str, source: FeatureMap) -> str:
    """Neighbouring channels as a slice, a shuffle as reshaped, transposed and reshaped."""
    first, count = layer.channels[0], len(layer.channels)
    if layer.channels == tuple(range(first, first + count)):
        bounds = [network.constant(np.array([each], np.int64)) for each in (first, first + count, 1)]
        return network.node("Slice", x, *bounds)
    inner = layer.channels.index(1)
    shape = (source.height, source.width)
    apart = np.array([1, inner, count // inner, *shape], np.int64)
    x = network.node("Reshape", x, network.constant(apart))
    x = network.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    return network.node("Reshape", x, network.constant(np.array([1, count, *shape], np.int64)))


def _pads(padding: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, bottom, left, right = padding
    return (top, left, bottom, right)


def parse(data: bytes) -> Any:
    """The protocol buffer, to be damaged."""
    return onnx.load_model_from_string(data)
