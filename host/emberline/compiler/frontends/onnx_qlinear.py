"""QLinear operators of ONNX: dequantise, compute, quantise in one node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from emberline.compiler.frontends import onnx_layers
from emberline.compiler.frontends.onnx_operators import add, average, concatenate, convolve, multiply
from emberline.compiler.frontends.onnx_quantisation import dequantise, quantize_linear
from emberline.compiler.frontends.onnx_records import NodeRecord
from emberline.compiler.frontends.onnx_values import Constant, Value
from emberline.errors import ModelError
from emberline.model.graph import Padding

if TYPE_CHECKING:
    from emberline.compiler.frontends.onnx_reader import Builder


def qlinear_conv(builder: Builder, node: NodeRecord) -> Value:
    x, weights = _dequantised(builder, node, 0, 1, 2), _dequantised(builder, node, 3, 4, 5)
    if not isinstance(weights, Constant):
        raise ModelError("its weights must be a constant")
    pending = convolve(builder, node, builder.as_view(x, node.inputs[0]), weights, None)
    if node.has_input(8):
        assert isinstance(pending.parts, onnx_layers.ConvolutionParts)
        codes = builder.raw(node, 8).reshape(-1)
        parts = replace(pending.parts, bias=codes.astype(np.float64))
        pending = builder.pending_convolution(parts, pending.dims)
    return quantize_linear(builder, node, pending, 6, 7)


def qlinear_matmul(builder: Builder, node: NodeRecord) -> Value:
    x, weights = _dequantised(builder, node, 0, 1, 2), _dequantised(builder, node, 3, 4, 5)
    if not isinstance(weights, Constant):
        raise ModelError("its second matrix must be a constant")
    pending = multiply(builder, node, builder.as_view(x, node.inputs[0]), weights, None, False)
    return quantize_linear(builder, node, pending, 6, 7)


def qgemm(builder: Builder, node: NodeRecord) -> Value:
    """com.microsoft: A, its scale and zero point, B, its scale and zero point, C, the result's scale and zero point."""
    x, weights = _dequantised(builder, node, 0, 1, 2), _dequantised(builder, node, 3, 4, 5)
    transposed = bool(node.attribute("transB", 0))
    if not isinstance(weights, Constant) or node.attribute("transA", 0) or node.attribute("alpha", 1.0) != 1.0:
        raise ModelError("only a constant second matrix, no transposed first matrix and alpha 1 are supported")
    weights = replace(weights, axis=0 if transposed else 1)
    pending = multiply(builder, node, builder.as_view(x, node.inputs[0]), weights, None, transposed)
    if node.has_input(6):
        assert isinstance(pending.parts, onnx_layers.ConvolutionParts)
        parts = replace(pending.parts, bias=builder.raw(node, 6).reshape(-1).astype(np.float64))
        pending = builder.pending_convolution(parts, pending.dims)
    return quantize_linear(builder, node, pending, 7, 8)


def qlinear_add(builder: Builder, node: NodeRecord) -> Value:
    values = [_dequantised(builder, node, start, start + 1, start + 2) for start in (0, 3)]
    views = [builder.as_view(value, "its input") for value in values]
    return quantize_linear(builder, node, add(builder, node, views), 6, 7)


def qlinear_concat(builder: Builder, node: NodeRecord) -> Value:
    """com.microsoft: scale and zero point of the result, then of each input the map, its scale and zero point."""
    views = [
        builder.as_view(_dequantised(builder, node, start, start + 1, start + 2), node.inputs[start])
        for start in range(2, len(node.inputs), 3)
    ]
    return quantize_linear(builder, node, concatenate(builder, node, views), 0, 1)


def qlinear_average_pool(builder: Builder, node: NodeRecord) -> Value:
    if node.attribute("channels_last", 0):
        raise ModelError("channels_last is not supported")
    view = builder.as_view(_dequantised(builder, node, 0, 1, 2), node.inputs[0])
    if node.op == "QLinearGlobalAveragePool":
        pending = average(builder, node, view, view.map.shape[:2], (1, 1), Padding())
    else:
        window, stride = onnx_layers.pool_window(node)
        padding = onnx_layers.padding(node, view.map.shape[:2], window, stride)
        if any(padding) and node.attribute("count_include_pad", 0):
            raise ModelError("count_include_pad is not supported with padding")
        pending = average(builder, node, view, window, stride, padding)
    return quantize_linear(builder, node, pending, 3, 4)


def _dequantised(builder: Builder, node: NodeRecord, codes: int, scale: int, zero_point: int) -> Value:
    axis = 0 if node.op == "QLinearConv" else 1
    return dequantise(builder, node, codes, scale, zero_point, axis)
