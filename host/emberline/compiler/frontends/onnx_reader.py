"""ONNX front end: a quantised ``.onnx`` file becomes a ``Graph``. Needs the package ``onnx``.

Both notations are read: QuantizeLinear/DequantizeLinear around float operators (QDQ), and QLinear operators.
Activations may be int8 or uint8; uint8 codes and zero points become int8 by subtracting 128, which changes no
arithmetic. Batch normalisations are folded into the convolution before them, activation functions into the clamp of the
layer before them.

Sums are requantised by integers that equal onnxruntime's float32 arithmetic, but for the few channels where there are
none (``model.onnx_requantisation``). A sum of two maps, and a mean whose codes mean what its input's do, are LiteRT's:
they may differ by one code. A softmax at the end is computed by the host, in LiteRT's fixed point, to codes of 1/256,
whatever quantisation the file gives its result. What cannot be expressed is refused, naming file, layer and reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends import onnx_layers
from emberline.compiler.frontends import onnx_layout as layout
from emberline.compiler.frontends import onnx_operators as operators
from emberline.compiler.frontends import onnx_qlinear as qlinear
from emberline.compiler.frontends.onnx_cleanup import fold_clamps
from emberline.compiler.frontends.onnx_quantisation import dequantize_linear, quantize_linear
from emberline.compiler.frontends.onnx_records import PREPROCESSING_KEY, ModelRecords, NodeRecord, read_records
from emberline.compiler.frontends.onnx_values import (
    Constant,
    Order,
    Pending,
    Unquantised,
    Value,
    View,
    map_shape,
)
from emberline.errors import ModelError
from emberline.model.graph import FeatureMap, Flatten, Graph, Layer, Quantisation, Select
from emberline.model.layers import Pair

_HINT = "quantise the network first (emberline quantize)"


def read_onnx(source: str | Path | bytes, name: str | None = None) -> Graph:
    """Read a quantised network from a file, or from its bytes.

    Parameters: ``name`` names the graph and the file in errors; default: the file's name, or ``model.onnx``.

    Raises ``ModelError`` for every file that is damaged or not supported, ``EmberlineError`` without the package onnx.
    """
    if isinstance(source, bytes):
        data, where, name = source, name or "model.onnx", name or "model"
    else:
        path = Path(source)
        where, name = str(path), name or path.stem
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{where}: cannot be read: {error.strerror or error}") from error
    try:
        return build_graph(read_records(data), name)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def read_preprocessing(data: bytes) -> dict[str, Any]:
    """How photographs become frames, where the file says so; ``emberline quantize`` writes it."""
    try:
        record = json.loads(read_records(data).metadata.get(PREPROCESSING_KEY, "{}"))
    except ValueError as error:
        raise ModelError(f"its metadata '{PREPROCESSING_KEY}' is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise ModelError(f"its metadata '{PREPROCESSING_KEY}' is no JSON object")
    return record


def build_graph(records: ModelRecords, name: str) -> Graph:
    """The network that the records describe. Raises ``ModelError``, naming the layer."""
    return Builder(records, name).build()


class Builder:
    """Turns the nodes of one model into layers, in file order. ``onnx_operators`` converts the operators by it."""

    def __init__(self, records: ModelRecords, name: str) -> None:
        self.records, self.name = records, name
        self.maps: dict[str, FeatureMap] = {}
        self.layers: list[Layer] = []
        self.host_layers: list[Layer] = []
        self.values: dict[str, Value] = {
            each.name: Unquantised(each.name, each.dtype, each.shape) for each in records.inputs
        }
        self.uses: dict[str, int] = {}
        for node in records.nodes:
            for each in node.inputs:
                self.uses[each] = self.uses.get(each, 0) + 1
        for each in records.outputs:
            self.uses[each] = self.uses.get(each, 0) + 1

    def build(self) -> Graph:
        for node in self.records.nodes:
            layer = node.layer_name
            try:
                self._convert(node)
            except ModelError as error:
                prefix = f"layer '{layer}': "
                raise ModelError(prefix + str(error).removeprefix(prefix)) from error
        outputs = tuple(self._output(name) for name in self.records.outputs)
        inputs = tuple(each.name for each in self.records.inputs)
        for each in inputs:
            if each not in self.maps:
                raise ModelError(f"input '{each}' is never quantised: {_HINT}")
        return fold_clamps(Graph(self.name, inputs, outputs, tuple(self.layers), self.maps, tuple(self.host_layers)))

    def _convert(self, node: NodeRecord) -> None:
        if node.op not in OPERATORS:
            raise ModelError(f"operator {node.op} is not supported")
        if not node.outputs:
            raise ModelError("it has no output")
        results = OPERATORS[node.op](self, node)
        for name, value in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=False):
            self.values[name] = value
        for name in node.outputs[len(results) if isinstance(results, tuple) else 1 :]:
            if self.uses.get(name):
                raise ModelError(f"its output '{name}' is not supported")

    def _output(self, name: str) -> str:
        """The feature map behind a network output; a flattening becomes a layer on the host."""
        value = self.values.get(name)
        if isinstance(value, Pending):
            raise ModelError(f"output '{name}' is float, the result of layer '{value.layer}': {_HINT}")
        if not isinstance(value, View):
            raise ModelError(f"output '{name}' is not computed by any layer")
        if value.order not in (Order.PLANES, Order.PIXELS) and value.map.height * value.map.width > 1:
            raise ModelError(
                f"output '{name}' flattens a {value.map.shape} map in the order of channels, rows, columns; results "
                "come in the order of rows, columns, channels: make the map itself the output"
            )
        if value.order is Order.PIXELS and len(value.dims) == 2 and name not in self.maps:
            self.maps[name] = FeatureMap(name, 1, 1, value.map.size, value.map.quantisation)
            self.host_layers.append(Flatten(f"{name} (Reshape)", (value.map.name,), name))
            return name
        return value.map.name

    # --- tensors, for the operators

    def value(self, node: NodeRecord, position: int) -> Value:
        """What an input stands for; ``ModelError`` where it is missing."""
        if not node.has_input(position):
            raise ModelError(f"its input {position} is missing")
        name = node.inputs[position]
        if name not in self.values:
            self.values[name] = Constant(_float64(self.records.constants[name]))
        return self.values[name]

    def raw(self, node: NodeRecord, position: int) -> NDArray[Any]:
        """The array of a constant input as the file has it."""
        name = node.inputs[position] if node.has_input(position) else ""
        if name not in self.records.constants:
            raise ModelError(f"its input {position} '{name}' must be a constant")
        return self.records.constants[name]

    def view(self, node: NodeRecord, position: int = 0) -> View:
        """An input that must be a feature map."""
        return self.as_view(self.value(node, position), node.inputs[position])

    def as_view(self, value: Value, name: str) -> View:
        if isinstance(value, Pending):
            raise ModelError(f"it reads the float tensor '{name}', the result of layer '{value.layer}': {_HINT}")
        if isinstance(value, Unquantised):
            raise ModelError(f"it reads '{name}', which is not quantised: {_HINT}")
        if isinstance(value, Constant):
            raise ModelError(f"its input '{name}' is a constant")
        return value

    def source(self, node: NodeRecord, position: int = 0) -> FeatureMap:
        """The map behind an input, for a layer on the accelerator that reads it as ``[1, C, H, W]``."""
        return self.planes(self.view(node, position), node.inputs[position])

    def planes(self, view: View, name: str) -> FeatureMap:
        if view.order is not Order.PLANES:
            raise ModelError(f"it reads '{name}' as {view.order.value}, not as {Order.PLANES.value}")
        if any(layer.output == view.map.name for layer in self.host_layers):
            raise ModelError(f"it reads '{name}', but Softmax is supported only at the end of a network")
        return view.map

    def constant(self, node: NodeRecord, position: int) -> Constant:
        value = self.value(node, position)
        if not isinstance(value, Constant):
            raise ModelError(f"its input '{node.inputs[position]}' must be a constant")
        return value

    def optional_constant(self, node: NodeRecord, position: int) -> Constant | None:
        return self.constant(node, position) if node.has_input(position) else None

    # --- maps and layers, for the operators

    def define(self, name: str, shape: tuple[int, int, int], quantisation: Quantisation) -> FeatureMap:
        """A new feature map."""
        unique, count = name, 1
        while unique in self.maps:
            count += 1
            unique = f"{name}_{count}"
        self.maps[unique] = FeatureMap(unique, *shape, quantisation)
        return self.maps[unique]

    def define_input(self, given: Unquantised, quantisation: Quantisation) -> FeatureMap:
        """The map of a network input, with the quantisation that its first reader gives it."""
        batch, *rest = given.shape
        if batch not in (1, None):
            raise ModelError(f"input '{given.name}' has batch {batch}; only batch 1 is supported")
        if any(each is None or each < 1 for each in rest):
            raise ModelError(f"input '{given.name}' has a dynamic or empty shape {list(given.shape)}")
        if given.name in self.maps:
            if self.maps[given.name].quantisation != quantisation:
                raise ModelError(f"input '{given.name}' is quantised in two ways")
            return self.maps[given.name]
        return self.define(given.name, map_shape((1, *(int(each or 0) for each in rest))), quantisation)

    def quantise(self, value: Value, name: str, output: str, quantisation: Quantisation) -> View:
        """A value with this quantisation: the map of a pending result, or one that already has it, or a new one."""
        if isinstance(value, Unquantised):
            feature_map = self.define_input(value, quantisation)
            return View(feature_map, _dims(value), real=False)
        if isinstance(value, Pending):
            target = self.define(name, value.shape, quantisation)
            value.finish(target, value.clamp(quantisation))
            return View(target, value.dims, real=False)
        view = self.as_view(value, name)
        on_host = any(layer.output == view.map.name for layer in self.host_layers)
        if view.map.quantisation == quantisation or on_host:
            return View(view.map, view.dims, view.order, real=False)
        target = self.requantise(self.planes(view, name), quantisation, f"{output} (QuantizeLinear)", name)
        return View(target, view.dims, real=False)

    def requantise(self, source: FeatureMap, quantisation: Quantisation, layer: str, name: str) -> FeatureMap:
        """The map with another quantisation, by a layer of its own."""
        target = self.define(f"{name}/requantised", source.shape, quantisation)
        self.layers.append(onnx_layers.requantising(layer, source).finish(target, (-128, 127)))
        return target

    def select(self, source: FeatureMap, channels: Sequence[int], layer: str, name: str) -> FeatureMap:
        """Some channels of a map as a map."""
        target = self.define(name, (source.height, source.width, len(channels)), source.quantisation)
        self.layers.append(Select(layer, (source.name,), target.name, tuple(channels)))
        return target

    def pending_convolution(self, parts: onnx_layers.ConvolutionParts, dims: tuple[int, ...]) -> Pending:
        """The result of a convolution that awaits its quantisation."""

        def finish(target: FeatureMap, clamp: Pair) -> None:
            self.layers.append(parts.finish(target, clamp))

        return Pending(parts.name, dims, map_shape(dims), finish, parts=parts)

    def producer(self, feature_map: FeatureMap) -> Layer | None:
        return next((layer for layer in self.layers if layer.output == feature_map.name), None)


def _float64(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "fiub":
        raise ModelError(f"a constant of type {array.dtype} is not supported")
    return array.astype(np.float64)


def _dims(value: Unquantised) -> tuple[int, ...]:
    return (1, *(int(each or 0) for each in value.shape[1:]))


Converter = Callable[[Builder, NodeRecord], Value | tuple[Value, ...]]

OPERATORS: dict[str, Converter] = {
    "Add": operators.add_operator,
    "AveragePool": operators.average_pool_operator,
    "BatchNormalization": operators.batch_normalisation_operator,
    "Clip": operators.clip_operator,
    "Concat": operators.concat_operator,
    "Conv": operators.conv_operator,
    "DequantizeLinear": dequantize_linear,
    "Dropout": layout.identity_operator,
    "Flatten": layout.flatten_operator,
    "Gemm": operators.gemm_operator,
    "GlobalAveragePool": operators.global_average_pool_operator,
    "Identity": layout.identity_operator,
    "MatMul": operators.matmul_operator,
    "MaxPool": operators.max_pool_operator,
    "Pad": layout.pad_operator,
    "QGemm": qlinear.qgemm,
    "QLinearAdd": qlinear.qlinear_add,
    "QLinearAveragePool": qlinear.qlinear_average_pool,
    "QLinearConcat": qlinear.qlinear_concat,
    "QLinearConv": qlinear.qlinear_conv,
    "QLinearGlobalAveragePool": qlinear.qlinear_average_pool,
    "QLinearMatMul": qlinear.qlinear_matmul,
    "QuantizeLinear": lambda builder, node: quantize_linear(builder, node, builder.value(node, 0), 1, 2),
    "ReduceMean": operators.reduce_mean_operator,
    "Relu": operators.relu_operator,
    "Reshape": layout.reshape_operator,
    "Resize": layout.resize_operator,
    "Slice": layout.slice_operator,
    "Softmax": layout.softmax_operator,
    "Split": layout.split_operator,
    "Squeeze": layout.squeeze_operator,
    "Sum": operators.add_operator,
    "Transpose": layout.transpose_operator,
    "Upsample": layout.resize_operator,
}
