"""Tensors and operators as plain records, and their packing into a ``.tflite`` file.

The file is a FlatBuffer of TensorFlow Lite's schema, version 3; the generated code of that schema is the PyPI package
``tflite``. Equal records give equal bytes.

Source: ``tensorflow/compiler/mlir/lite/schema/schema.fbs``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import tflite
from numpy.typing import NDArray

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT_BYTES = 16
_TYPES = {np.dtype(np.int8): tflite.TensorType.INT8, np.dtype(np.int32): tflite.TensorType.INT32}


@dataclass(frozen=True)
class TensorRecord:
    """One tensor.

    Parameters:
        shape: with the batch, which is 1 for an activation.
        dtype: int8 or int32.
        scales: float32, one, or one per slice of ``axis``; empty for a tensor that is not quantised.
        zero_point: of all slices.
        data: the values of a constant, in C order; None for an activation.
    """

    name: str
    shape: tuple[int, ...]
    dtype: type
    scales: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int = 0
    data: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        if np.dtype(self.dtype) not in _TYPES:
            raise ValueError(f"tensor '{self.name}' must be int8 or int32, not {np.dtype(self.dtype)}")
        if self.data is not None and (self.data.dtype != self.dtype or self.data.shape != self.shape):
            raise ValueError(
                f"tensor '{self.name}' must hold {np.dtype(self.dtype)} {self.shape}, "
                f"not {self.data.dtype} {self.data.shape}"
            )
        if len(self.scales) > 1 and len(self.scales) != self.shape[self.axis]:
            raise ValueError(f"tensor '{self.name}' {self.shape} has {len(self.scales)} scales along axis {self.axis}")


@dataclass(frozen=True)
class OperatorRecord:
    """One operator.

    Parameters:
        kind: name in the schema's ``BuiltinOperator``.
        version: the operator's version that introduced what is used of it.
        inputs, outputs: tensor indices.
        options_kind: name of the options' table in the schema; its fields are in ``options``, by name.
    """

    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_kind: str
    options: Mapping[str, int | float | bool] = field(default_factory=dict)


def build_model(
    name: str,
    tensors: Sequence[TensorRecord],
    operators: Sequence[OperatorRecord],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> bytes:
    """A file with one subgraph; ``inputs`` and ``outputs`` are tensor indices."""
    b = flatbuffers.Builder(1 << 16)
    buffers = [_pack_table(b, "Buffer", {})]  # buffer 0 is empty and stands for "no data"
    packed_tensors = []
    for tensor in tensors:
        buffer = 0
        if tensor.data is not None:
            buffer = len(buffers)
            buffers.append(_pack_table(b, "Buffer", {"Data": _pack_bytes(b, tensor.data.tobytes())}))
        packed_tensors.append(_pack_tensor(b, tensor, buffer))
    codes = sorted({(operator.kind, operator.version) for operator in operators})
    packed_codes = [
        _pack_table(
            b,
            "OperatorCode",
            {
                "DeprecatedBuiltinCode": min(getattr(tflite.BuiltinOperator, kind), 127),
                "BuiltinCode": getattr(tflite.BuiltinOperator, kind),
                "Version": version,
            },
        )
        for kind, version in codes
    ]
    packed_operators = [
        _pack_operator(b, operator, codes.index((operator.kind, operator.version))) for operator in operators
    ]
    subgraph = {
        "Tensors": _pack_offsets(b, packed_tensors),
        "Inputs": _pack_integers(b, inputs),
        "Outputs": _pack_integers(b, outputs),
        "Operators": _pack_offsets(b, packed_operators),
        "Name": b.CreateString("main"),
    }
    model = {
        "OperatorCodes": _pack_offsets(b, packed_codes),
        "Subgraphs": _pack_offsets(b, [_pack_table(b, "SubGraph", subgraph)]),
        "Description": b.CreateString(name),
        "Buffers": _pack_offsets(b, buffers),
        "Version": SCHEMA_VERSION,
    }
    b.Finish(_pack_table(b, "Model", model), FILE_IDENTIFIER)
    return bytes(b.Output())


def _pack_tensor(b: flatbuffers.Builder, tensor: TensorRecord, buffer: int) -> int:
    fields = {
        "Name": b.CreateString(tensor.name),
        "Shape": _pack_integers(b, tensor.shape),
        "Type": _TYPES[np.dtype(tensor.dtype)],
        "Buffer": buffer,
        "HasRank": True,
    }
    if tensor.scales:
        quantisation = {
            "Scale": b.CreateNumpyVector(np.array(tensor.scales, np.float32)),
            "ZeroPoint": b.CreateNumpyVector(np.full(len(tensor.scales), tensor.zero_point, np.int64)),
            "QuantizedDimension": tensor.axis,
        }
        fields["Quantization"] = _pack_table(b, "QuantizationParameters", quantisation)
    return _pack_table(b, "Tensor", fields)


def _pack_operator(b: flatbuffers.Builder, operator: OperatorRecord, code: int) -> int:
    fields = {
        "OpcodeIndex": code,
        "Inputs": _pack_integers(b, operator.inputs),
        "Outputs": _pack_integers(b, operator.outputs),
        "BuiltinOptionsType": getattr(tflite.BuiltinOptions, operator.options_kind),
        "BuiltinOptions": _pack_table(b, operator.options_kind, operator.options),
    }
    return _pack_table(b, "Operator", fields)


def _pack_table(b: flatbuffers.Builder, table: str, fields: Mapping[str, int | float | bool]) -> int:
    """A table of the schema, its fields (offsets of what is already packed, or numbers) by name."""
    start: Callable[..., None] = getattr(tflite, f"{table}Start")
    start(b)
    for name, value in fields.items():
        getattr(tflite, f"{table}Add{name}")(b, value)
    end: Callable[..., int] = getattr(tflite, f"{table}End")
    return end(b)


def _pack_integers(b: flatbuffers.Builder, values: Sequence[int]) -> int:
    return int(b.CreateNumpyVector(np.array(values, np.int32)))


def _pack_offsets(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _pack_bytes(b: flatbuffers.Builder, data: bytes) -> int:
    """Bytes aligned as the schema's ``force_align`` demands of tensor data."""
    b.StartVector(1, len(data), BUFFER_ALIGNMENT_BYTES)
    b.head = b.head - len(data)
    b.Bytes[b.head : b.head + len(data)] = data
    return int(b.EndVector())
