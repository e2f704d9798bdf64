"""An ONNX file as plain records: nodes with attributes, constants, inputs and outputs. Needs the package ``onnx``.

Everything that can be wrong with a file as such is refused here: damage, external data, nodes out of order (a cycle),
tensors that nothing produces, an operator set that is too old.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.errors import EmberlineError, ModelError

OLDEST_OPSET = 7
PREPROCESSING_KEY = "emberline.preprocessing"
"""The metadata entry that holds how photographs become frames, as JSON."""
_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class NodeRecord:
    """One operator; optional inputs that are left out are empty names."""

    index: int
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def layer_name(self) -> str:
        """``<node or output name> (<operator> #<index>)``: what messages print."""
        return f"{(self.name or next(iter(self.outputs), '?'))[:80]} ({self.op} #{self.index})"

    def has_input(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] != ""

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class InputRecord:
    """A network input. ``shape`` has None where the file leaves a dimension open."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class ModelRecords:
    """A whole file. ``constants`` hold the initialisers and the results of ``Constant`` nodes."""

    nodes: tuple[NodeRecord, ...]
    constants: Mapping[str, NDArray[Any]]
    inputs: tuple[InputRecord, ...]
    outputs: tuple[str, ...]
    opset: int
    metadata: Mapping[str, str]


def import_onnx() -> Any:
    """The package; ``EmberlineError`` says how to get it."""
    try:
        import onnx
    except ImportError as error:
        raise EmberlineError("reading ONNX models needs the package onnx: pip install 'emberline[onnx]'") from error
    return onnx


def read_records(data: bytes) -> ModelRecords:
    """The records of a serialised model. Raises ``ModelError`` for what is damaged or not self-contained."""
    onnx = import_onnx()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, which has no type information
        raise ModelError("not an ONNX model, or a damaged one") from error
    graph = model.graph
    if not graph.node or not graph.output:
        raise ModelError("not an ONNX model, or a damaged one: it has no nodes or no outputs")
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise ModelError(f"operator set {opset} is not supported, only {OLDEST_OPSET} and later")
    if graph.sparse_initializer:
        raise ModelError("sparse initialisers are not supported")
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    nodes = tuple(_nodes(graph, constants))
    inputs = tuple(_input(each) for each in graph.input if each.name not in constants)
    records = ModelRecords(
        nodes,
        constants,
        inputs,
        tuple(each.name for each in graph.output),
        opset,
        {each.key: each.value for each in model.metadata_props},
    )
    _check_order(records)
    return records


def _nodes(graph: Any, constants: dict[str, NDArray[Any]]) -> list[NodeRecord]:
    """All nodes but ``Constant`` and ``ConstantOfShape``, whose values are added to ``constants``."""
    onnx = import_onnx()
    found = []
    for index, node in enumerate(graph.node):
        if node.domain not in _DOMAINS:
            raise ModelError(f"layer '{node.name or index}': operator {node.domain}.{node.op_type} is not supported")
        attributes = {}
        for each in node.attribute:
            if each.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise ModelError(f"layer '{node.name or index}': control flow ({node.op_type}) is not supported")
            value = onnx.helper.get_attribute_value(each)
            is_tensor = each.type == onnx.AttributeProto.TENSOR
            attributes[each.name] = (
                _array(value) if is_tensor else value.decode(errors="replace") if isinstance(value, bytes) else value
            )
        record = NodeRecord(index, node.name, node.op_type, tuple(node.input), tuple(node.output), attributes)
        if not _add_constant(record, constants):
            found.append(record)
    return found


def _add_constant(node: NodeRecord, constants: dict[str, NDArray[Any]]) -> bool:
    """Evaluate a node that makes a constant."""
    if node.op == "Constant":
        for key, dtype in (("value", None), ("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"),
                           ("value_ints", "i8")):  # fmt: skip
            if key in node.attributes:
                constants[node.outputs[0]] = np.asarray(node.attributes[key], dtype)
                return True
        raise ModelError(f"layer '{node.layer_name}': a constant of this type is not supported")
    if node.op == "ConstantOfShape" and node.inputs[0] in constants:
        value = node.attribute("value", np.zeros(1, np.float32))
        shape = [int(each) for each in constants[node.inputs[0]].reshape(-1)]
        if min(shape, default=1) < 0 or np.prod(shape, dtype=np.float64) > 1 << 28:
            raise ModelError(f"layer '{node.layer_name}': impossible shape {shape}")
        constants[node.outputs[0]] = np.full(shape, value.reshape(-1)[0], value.dtype)
        return True
    return False


def _array(tensor: Any) -> NDArray[Any]:
    onnx = import_onnx()
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(f"tensor '{tensor.name}' is stored outside the file (external data), which is not supported")
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"tensor '{tensor.name}' cannot be read: {error}") from error


def _input(value: Any) -> InputRecord:
    onnx = import_onnx()
    kind = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"input '{value.name}' is no tensor of a known type") from error
    shape = tuple(each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim)
    return InputRecord(value.name, dtype, shape)


def _check_order(records: ModelRecords) -> None:
    """Every input of every node must be there before it: files are sorted, and no graph may have a cycle."""
    produced = {name for node in records.nodes for name in node.outputs if name}
    known = {each.name for each in records.inputs} | set(records.constants)
    for node in records.nodes:
        for name in node.inputs:
            if name and name not in known:
                reason = (
                    "is computed only later: nodes out of order, or a cycle"
                    if name in produced
                    else "is produced by nothing"
                )
                raise ModelError(f"layer '{node.layer_name}': its input '{name}' {reason}")
        for name in node.outputs:
            if name and name in known:
                raise ModelError(f"layer '{node.layer_name}': its output '{name}' is written twice")
        known.update(node.outputs)
    for name in records.outputs:
        if name not in known:
            raise ModelError(f"output '{name}' is not computed by any layer")
