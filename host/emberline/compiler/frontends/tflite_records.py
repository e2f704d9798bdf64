"""The contents of a TFLite file as plain records, with every count and size checked.

FlatBuffers files are full of offsets, and the Python reader follows them wherever they point. So this is the only
module that touches the FlatBuffer: whatever goes wrong in here means that the file is damaged. It does not judge what
the network means; that is ``tflite_reader``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model.graph import unique_names

IDENTIFIER = b"TFL3"
MAX_TABLES = 10_000  # tensors, operators, operator codes or buffers
MAX_RANK = 8


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


OPERATORS = _names(tflite.BuiltinOperator)
TYPES = _names(tflite.TensorType)
_OPTION_UNION = {name: value for value, name in _names(tflite.BuiltinOptions).items()}

_WINDOW_OPTIONS = ("Padding", "StrideH", "StrideW", "FusedActivationFunction")
_DILATIONS = ("DilationHFactor", "DilationWFactor")
# operator: the table of its options and the fields that matter
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", (*_WINDOW_OPTIONS, *_DILATIONS)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_WINDOW_OPTIONS, *_DILATIONS, "DepthMultiplier")),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat", "KeepNumDims")),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "CONCATENATION": ("ConcatenationOptions", ("FusedActivationFunction", "Axis")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_WINDOW_OPTIONS, "FilterHeight", "FilterWidth")),
    "MAX_POOL_2D": ("Pool2DOptions", (*_WINDOW_OPTIONS, "FilterHeight", "FilterWidth")),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
}


@dataclass(frozen=True)
class TensorRecord:
    """One tensor. ``name`` is unique and printable; ``data`` is None unless the file holds the tensor's value.

    ``scales`` float32 and ``zero_points`` int64 are empty where the file has none.
    """

    index: int
    name: str
    type: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    quantised_dimension: int
    sparse: bool
    data: NDArray[np.uint8] | None


@dataclass(frozen=True)
class OperatorRecord:
    """One operator; inputs that are left out are -1. ``options`` is None where the file has none."""

    index: int
    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] | None


@dataclass(frozen=True)
class ModelRecords:
    """A model with one subgraph; every tensor index in it is valid."""

    tensors: tuple[TensorRecord, ...]
    operators: tuple[OperatorRecord, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_records(data: bytes) -> ModelRecords:
    """Decode a TFLite file. Raises ``ModelError`` for anything that is not an intact one."""
    if len(data) < 16 or data[4:8] != IDENTIFIER:
        raise ModelError("not a TFLite model: the file identifier TFL3 is missing")
    try:
        return _read_model(data)
    except ModelError:
        raise
    except Exception as error:  # the FlatBuffers package raises whatever a wild offset leads to
        raise ModelError(f"damaged TFLite model ({type(error).__name__}: {error})") from error


def _read_model(data: bytes) -> ModelRecords:
    model = tflite.Model.GetRootAs(data, 0)
    if model.Version() != 3:
        raise ModelError(f"TFLite schema version {model.Version()} is not supported, only 3")
    if model.SubgraphsLength() != 1:
        raise ModelError(f"the model has {model.SubgraphsLength()} subgraphs; only one is supported")
    codes = list(_tables(model.OperatorCodesLength(), model.OperatorCodes, "operator codes"))
    buffers = list(_tables(model.BuffersLength(), model.Buffers, "buffers"))
    subgraph = model.Subgraphs(0)
    tables = list(_tables(subgraph.TensorsLength(), subgraph.Tensors, "tensors"))
    names = unique_names((table.Name() or b"").decode("utf-8", "replace") for table in tables)
    tensors = tuple(_read_tensor(index, names[index], table, buffers) for index, table in enumerate(tables))
    operators = tuple(
        _read_operator(index, table, codes, len(tensors))
        for index, table in enumerate(_tables(subgraph.OperatorsLength(), subgraph.Operators, "operators"))
    )
    inputs = _indices(subgraph.InputsAsNumpy(), len(tensors), "the model's inputs")
    outputs = _indices(subgraph.OutputsAsNumpy(), len(tensors), "the model's outputs")
    if -1 in (*inputs, *outputs):
        raise ModelError("damaged TFLite model (an input or output is missing)")
    return ModelRecords(tensors, operators, inputs, outputs)


def _tables(count: int, get: Callable[[int], Any], what: str) -> Iterator[Any]:
    if count > MAX_TABLES:
        raise ModelError(f"damaged TFLite model ({count} {what})")
    return (get(index) for index in range(count))


def _read_tensor(index: int, name: str, table: Any, buffers: list[Any]) -> TensorRecord:
    kind = TYPES.get(table.Type(), f"type {table.Type()}")
    shape, signature = _vector(table.ShapeAsNumpy()), _vector(table.ShapeSignatureAsNumpy())
    if max(len(shape), len(signature)) > MAX_RANK:
        raise ModelError(f"tensor '{name}' has {len(shape)} dimensions")
    quantisation = table.Quantization()
    scales = _vector(quantisation.ScaleAsNumpy() if quantisation else 0)
    zero_points = _vector(quantisation.ZeroPointAsNumpy() if quantisation else 0)
    if not 0 <= table.Buffer() < len(buffers):
        raise ModelError(f"tensor '{name}' refers to buffer {table.Buffer()} of {len(buffers)}")
    buffer = buffers[table.Buffer()]
    if buffer.Offset() > 1:
        raise ModelError(f"tensor '{name}' is stored outside the FlatBuffer, which is not supported")
    return TensorRecord(
        index,
        name,
        kind,
        tuple(int(size) for size in shape),
        tuple(int(size) for size in signature),
        scales.astype(np.float32),
        zero_points.astype(np.int64),
        quantisation.QuantizedDimension() if quantisation else 0,
        table.Sparsity() is not None,
        None if buffer.DataIsNone() or not buffer.DataLength() else buffer.DataAsNumpy(),
    )


def _read_operator(index: int, table: Any, codes: list[Any], tensors: int) -> OperatorRecord:
    if not table.OpcodeIndex() < len(codes):
        raise ModelError(f"operator #{index} refers to operator code {table.OpcodeIndex()} of {len(codes)}")
    code = codes[table.OpcodeIndex()]
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind = OPERATORS.get(number, f"operator {number}")
    if kind == "CUSTOM":
        kind = f"CUSTOM {(code.CustomCode() or b'')[:80].decode('utf-8', 'replace')!r}"
    options = None
    if kind in _OPTIONS:
        union, fields = _OPTIONS[kind]
        if table.BuiltinOptionsType() == _OPTION_UNION[union] and table.BuiltinOptions() is not None:
            decoder = getattr(tflite, union)()
            decoder.Init(table.BuiltinOptions().Bytes, table.BuiltinOptions().Pos)
            options = {field: getattr(decoder, field)() for field in fields}
    return OperatorRecord(
        index,
        kind,
        _indices(table.InputsAsNumpy(), tensors, f"operator #{index}'s inputs"),
        _indices(table.OutputsAsNumpy(), tensors, f"operator #{index}'s outputs"),
        options,
    )


def _vector(values: NDArray[Any] | int) -> NDArray[Any]:
    """What the ``...AsNumpy`` accessors return: 0 stands for a missing vector."""
    return values if isinstance(values, np.ndarray) else np.zeros(0, np.int32)


def _indices(values: NDArray[Any] | int, tensors: int, what: str) -> tuple[int, ...]:
    found = _vector(values)
    if found.size > MAX_TABLES or any(not -1 <= index < tensors for index in found.tolist()):
        raise ModelError(f"damaged TFLite model ({what} refer to tensors that do not exist)")
    return tuple(found.tolist())
