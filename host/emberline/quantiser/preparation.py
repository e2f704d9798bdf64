"""A float network made ready: cut, checked, constants and batch normalisations folded, one operator set.

onnxruntime's own basic optimisations do the folding; the operator set becomes one that knows weights per channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emberline.compiler.frontends.onnx_records import import_onnx
from emberline.errors import EmberlineError, ModelError

OPSET = 13
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def import_onnxruntime() -> Any:
    """The package; ``EmberlineError`` says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EmberlineError("this needs the package onnxruntime: pip install 'emberline[onnx]'") from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def load_float_model(path: Path, outputs: Sequence[str] = ()) -> Any:
    """A model ready to be quantised.

    Parameters: ``outputs`` name the tensors at which the network is to end; what is behind them is left out.

    Raises ``ModelError``, naming the file, for what is damaged, not float, or not self-contained.
    """
    onnx = import_onnx()
    try:
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError, which has no type information
        raise ModelError(f"{path}: not an ONNX model, or a damaged one") from error
    try:
        _check(model)
        if outputs:
            model = _cut(model, outputs)
        return _fold(_upgrade(model))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def is_quantised(path: Path) -> bool:
    """Whether a file is a quantised ONNX model; true for what is none, which its reader will say."""
    onnx = import_onnx()
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception:  # protobuf's DecodeError, which has no type information
        return True
    return not model.graph.node or any(node.op_type in _QUANTISED for node in model.graph.node)


def fixed_input(model: Any) -> tuple[str, tuple[int, int, int]]:
    """Name and ``(height, width, channels)`` of the only input. Raises ``ModelError`` for another number or shape."""
    constants = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    if len(inputs) != 1:
        raise ModelError(f"it has {len(inputs)} inputs; one is supported")
    sizes = [each.dim_value for each in inputs[0].type.tensor_type.shape.dim]
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        raise ModelError(f"input '{inputs[0].name}' has a dynamic or unsupported shape: [1, C, H, W] is needed")
    return inputs[0].name, (sizes[2], sizes[3], sizes[1])


def _check(model: Any) -> None:
    onnx = import_onnx()
    if not model.graph.node:
        raise ModelError("not an ONNX model, or a damaged one: it has no nodes")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"tensor '{tensor.name}' is stored outside the file (external data), which is not supported"
            )
    for node in model.graph.node:
        if node.op_type in _QUANTISED:
            raise ModelError(f"it is quantised already: layer '{node.name or node.output[0]}' ({node.op_type})")
    fixed_input(model)


def _cut(model: Any, outputs: Sequence[str]) -> Any:
    """The part of the network that computes these tensors."""
    onnx = import_onnx()
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    for name in outputs:
        if name not in producers:
            raise ModelError(f"no layer computes '{name}'; a network can end at {', '.join(list(producers)[-8:])} …")
    needed, waiting = set(), list(outputs)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting.extend(node.input)
    kept = [node for node in graph.node if id(node) in needed]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    return model


def _upgrade(model: Any) -> Any:
    """The model in the operator set that is quantised."""
    onnx = import_onnx()
    constants = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 8)
    version = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if version >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError subclasses of its own
        raise ModelError(f"operator set {version} cannot be converted to {OPSET}: {error}") from error


def _fold(model: Any) -> Any:
    """Constants, identities and batch normalisations folded by onnxruntime."""
    onnx, onnxruntime = import_onnx(), import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common type
            raise ModelError(f"onnxruntime cannot load it: {error}") from error
        result = onnx.load_model(folded)
    for index, node in enumerate(result.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return result
