"""QuantizeLinear and DequantizeLinear of ONNX, on activations and on constants.

Codes become int8 everywhere: uint8 codes and zero points less 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.onnx_records import NodeRecord
from emberline.compiler.frontends.onnx_values import Constant, Unquantised, Value, View
from emberline.errors import ModelError
from emberline.model.graph import Quantisation

if TYPE_CHECKING:
    from emberline.compiler.frontends.onnx_reader import Builder

_UINT8_OFFSET = 128
_HALF_RANGE = {"int8": 0, "uint8": _UINT8_OFFSET}


def dequantize_linear(builder: Builder, node: NodeRecord) -> Value:
    """DequantizeLinear: a map stays what it is; a constant gets real values."""
    if node.attribute("block_size", 0):
        raise ModelError("quantisation in blocks is not supported")
    return dequantise(builder, node, 0, 1, 2, int(node.attribute("axis", 1)))


def dequantise(builder: Builder, node: NodeRecord, codes: int, scale: int, zero_point: int, axis: int) -> Value:
    """The value behind codes, scale and zero point, which are inputs at these positions."""
    name = node.inputs[codes]
    scales = _scales(builder, node, scale)
    if name in builder.records.constants or isinstance(builder.values.get(name), Constant):
        return _dequantised_constant(builder, node, codes, zero_point, scales, axis)
    value = builder.value(node, codes)
    if isinstance(value, Unquantised):
        if value.dtype not in (np.int8, np.uint8):
            raise ModelError(f"input '{value.name}' is {value.dtype}; only int8 and uint8 codes can be dequantised")
        quantisation = _activation(builder, node, scales, zero_point, value.dtype)
        view = builder.quantise(value, name, name, quantisation)
        builder.values[name] = view
        return View(view.map, view.dims, view.order)
    view = builder.as_view(value, name)
    quantisation = _activation(builder, node, scales, zero_point, None)
    on_host = any(layer.output == view.map.name for layer in builder.host_layers)
    if quantisation != view.map.quantisation and not on_host:
        raise ModelError(f"'{name}' is quantised by {view.map.quantisation}, but dequantised by {quantisation}")
    return View(view.map, view.dims, view.order)


def quantize_linear(builder: Builder, node: NodeRecord, value: Value, scale: int, zero_point: int) -> Value:
    """QuantizeLinear with scale and zero point at these input positions."""
    scales = _scales(builder, node, scale)
    dtype = _code_type(builder, node, zero_point)
    if isinstance(value, Constant):
        if scales.size > 1:
            raise ModelError("quantising a constant per channel is not supported: store its codes")
        zero = _zero_points(builder, node, zero_point)
        codes = np.clip(np.rint(value.values.astype(np.float32) / scales.reshape(-1)[0]) + zero, *_range(dtype))
        return Constant(value.values, codes.astype(dtype), scales, 0)
    quantisation = _activation(builder, node, scales, zero_point, dtype)
    name = node.inputs[0] if node.op == "QuantizeLinear" else node.outputs[0]
    return builder.quantise(value, name, node.outputs[0], quantisation)


def _dequantised_constant(
    builder: Builder, node: NodeRecord, position: int, zero_point: int, scales: NDArray[np.float32], axis: int
) -> Constant:
    name = node.inputs[position]
    known = builder.values.get(name)
    codes = known.codes if isinstance(known, Constant) and known.codes is not None else builder.raw(node, position)
    if codes.dtype not in (np.int8, np.uint8, np.int32):
        raise ModelError(f"'{name}' is {codes.dtype}; only int8, uint8 and int32 constants are supported")
    zero = _zero_points(builder, node, zero_point)
    if scales.size > 1:
        axis = axis % max(codes.ndim, 1)
        if codes.ndim == 0 or codes.shape[axis] != scales.size:
            raise ModelError(f"'{name}' {list(codes.shape)} has {scales.size} scales along dimension {axis}")
    shape = [-1 if each == axis else 1 for each in range(codes.ndim)] if scales.size > 1 else [1] * codes.ndim
    zero = np.broadcast_to(zero.reshape(-1), scales.reshape(-1).shape) if zero.size in (1, scales.size) else zero
    centred = codes.astype(np.int64) - zero.reshape(shape)
    if codes.dtype == np.int32:
        kept: NDArray[Any] = centred.astype(np.int32)
    elif centred.min(initial=0) >= -128 and centred.max(initial=0) <= 127:
        kept = centred.astype(np.int8)
    else:
        raise ModelError(
            f"weights '{name}' have zero point {zero.reshape(-1)[0]}; less the zero point they reach from "
            f"{centred.min()} to {centred.max()}, which does not fit int8"
        )
    values = centred * scales.astype(np.float64).reshape(shape)
    return Constant(values, kept, scales.reshape(-1), axis)


def _scales(builder: Builder, node: NodeRecord, position: int) -> NDArray[np.float32]:
    scales = builder.raw(node, position)
    if scales.dtype != np.float32:
        raise ModelError(f"scale '{node.inputs[position]}' is {scales.dtype}; only float32 is supported")
    return scales


def _zero_points(builder: Builder, node: NodeRecord, position: int) -> NDArray[np.int64]:
    if not node.has_input(position):
        return np.zeros(1, np.int64)
    return builder.raw(node, position).astype(np.int64)


def _code_type(builder: Builder, node: NodeRecord, position: int) -> np.dtype[Any]:
    dtype = builder.raw(node, position).dtype if node.has_input(position) else np.dtype(np.uint8)
    if dtype.name not in _HALF_RANGE:
        raise ModelError(f"'{node.inputs[position]}' is {dtype}; only int8 and uint8 activations are supported")
    return dtype


def _activation(
    builder: Builder, node: NodeRecord, scales: NDArray[np.float32], position: int, dtype: np.dtype[Any] | None
) -> Quantisation:
    """Scale and zero point of an activation, as int8."""
    zero = _zero_points(builder, node, position)
    if scales.size != 1 or zero.size != 1:
        raise ModelError(f"activation '{node.inputs[0]}' is quantised per channel, which is not supported")
    offset = _HALF_RANGE[_code_type(builder, node, position).name if node.has_input(position) else "uint8"]
    if dtype is not None and dtype.name in _HALF_RANGE and not node.has_input(position):
        offset = _HALF_RANGE[dtype.name]
    return Quantisation(float(scales.reshape(-1)[0]), int(zero.reshape(-1)[0]) - offset)


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
