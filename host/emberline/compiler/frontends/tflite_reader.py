"""TFLite front end: an int8 ``.tflite`` file becomes a ``Graph``.

Every integer of the result (multipliers, shifts, clamps, resolved padding) is the one LiteRT derives, so that running
the graph gives LiteRT's BUILTIN_REF result bit for bit. What cannot be expressed exactly is refused, naming file,
layer and reason. Explicit PAD operators are folded into the convolutions that read them; RESHAPE and SQUEEZE
disappear (a fully connected layer reads the map as it is) or become a host ``Flatten`` at the end. Legacy uint8 models
become int8 ones first (``tflite_uint8``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends import tflite_layers as layers
from emberline.compiler.frontends import tflite_uint8 as uint8
from emberline.compiler.frontends.selections import fold_selections
from emberline.compiler.frontends.tflite_records import ModelRecords, OperatorRecord, TensorRecord, read_records
from emberline.compiler.frontends.tflite_uint8 import to_int8
from emberline.errors import ModelError
from emberline.model.graph import (
    AveragePool,
    Convolution,
    FeatureMap,
    Flatten,
    Graph,
    Layer,
    Pad,
    Padding,
    Quantisation,
    Softmax,
)
from emberline.model.softmax import softmax_parameters

MAX_MAP_SIZE = 1 << 26


def read_tflite(source: str | Path | bytes, name: str | None = None) -> Graph:
    """Read a network from a file, or from its bytes.

    Parameters: ``name`` names the graph and the file in errors; default: the file's name, or ``model.tflite``.

    Raises ``ModelError``, and nothing else, for every file that is damaged or not supported.
    """
    if isinstance(source, bytes):
        data, where, name = source, name or "model.tflite", name or "model"
    else:
        path = Path(source)
        where, name = str(path), name or path.stem
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{where}: cannot be read: {error.strerror or error}") from error
    try:
        return fold_selections(build_graph(to_int8(read_records(data)), name))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def build_graph(records: ModelRecords, name: str) -> Graph:
    """The network that the records describe. Raises ``ModelError``, naming the layer."""
    return _Builder(records, name).build()


@dataclass(frozen=True)
class _View:
    """What a tensor stands for: a feature map, read through a flattening or a padding that has no layer (yet)."""

    map: str
    flattened: bool = False
    padding: Padding | None = None


class _Builder:
    """Turns the operators of one model into layers, in file order."""

    def __init__(self, records: ModelRecords, name: str) -> None:
        self.records, self.name = records, name
        self.maps: dict[str, FeatureMap] = {}
        self.views: dict[int, _View] = {}
        self.layers: list[Layer] = []
        self.host_layers: list[Layer] = []

    def build(self) -> Graph:
        for index in self.records.inputs:
            self._define(self.records.tensors[index])
        for operator in self.records.operators:
            name = layer_name(operator, self.records)
            try:
                self._convert(operator, name)
            except ModelError as error:
                prefix = f"layer '{name}': "
                raise ModelError(prefix + str(error).removeprefix(prefix)) from error
        outputs = []
        for index in self.records.outputs:
            if index not in self.views:
                raise ModelError(f"output '{self.records.tensors[index].name}' is not computed by any layer")
            outputs.append(self._on_host(self.views[index], self.records.tensors[index].name))
        inputs = tuple(self.records.tensors[index].name for index in self.records.inputs)
        return Graph(self.name, inputs, tuple(outputs), tuple(self.layers), self.maps, tuple(self.host_layers))

    # --- tensors

    def _define(self, tensor: TensorRecord) -> FeatureMap:
        """Make a tensor a feature map of its own."""
        if tensor.index in self.views:
            raise ModelError(f"tensor '{tensor.name}' is written twice")
        if tensor.data is not None:
            raise ModelError(f"tensor '{tensor.name}' is both computed and constant")
        feature_map = FeatureMap(tensor.name, *_map_shape(tensor), _activation_quantisation(tensor))
        self.maps[tensor.name] = feature_map
        self.views[tensor.index] = _View(tensor.name)
        return feature_map

    def _view(self, tensor: TensorRecord) -> _View:
        if tensor.index not in self.views:
            kind = "a constant" if tensor.data is not None else "not computed by any earlier layer"
            raise ModelError(f"its input '{tensor.name}' is {kind}")
        return self.views[tensor.index]

    def _read(self, tensor: TensorRecord) -> FeatureMap:
        """The feature map behind a tensor, for a layer on the accelerator that reads it as it is."""
        view = self._view(tensor)
        if view.flattened:
            raise ModelError(f"'{tensor.name}' is flattened, which only FULLY_CONNECTED, SOFTMAX or an output can read")
        if view.padding is not None:
            self._materialise_padding(tensor, view)
            view = self.views[tensor.index]
        if any(layer.output == view.map for layer in self.host_layers):
            raise ModelError(f"it reads '{view.map}', but SOFTMAX is supported only at the end of a network")
        return self.maps[view.map]

    def _materialise_padding(self, tensor: TensorRecord, view: _View) -> None:
        assert view.padding is not None
        del self.views[tensor.index]
        self._define(tensor)
        self.layers.append(Pad(f"{_short(tensor.name)} (PAD)", (view.map,), tensor.name, view.padding))

    def _on_host(self, view: _View, name: str) -> str:
        """The feature map for a view that the host reads; a flattening becomes a layer there."""
        if view.padding is not None:
            raise ModelError(f"output '{name}' is the result of a PAD")
        if not view.flattened:
            return view.map
        source = self.maps[view.map]
        if name not in self.maps:
            self.maps[name] = FeatureMap(name, 1, 1, source.size, source.quantisation)
            self.host_layers.append(Flatten(f"{_short(name)} (RESHAPE)", (source.name,), name))
        return name

    # --- operators

    def _convert(self, operator: OperatorRecord, name: str) -> None:
        converters: dict[str, Callable[[_Operands, str], None]] = {
            "ADD": self._convert_plain,
            "AVERAGE_POOL_2D": self._convert_plain,
            "CONCATENATION": self._convert_plain,
            "CONV_2D": self._convert_convolution,
            "DEPTHWISE_CONV_2D": self._convert_convolution,
            "FULLY_CONNECTED": self._convert_fully_connected,
            "MAX_POOL_2D": self._convert_plain,
            "MEAN": self._convert_plain,
            "PAD": self._convert_pad,
            "QUANTIZE": self._convert_quantize,
            "RESHAPE": self._convert_reshape,
            "SOFTMAX": self._convert_softmax,
            "SQUEEZE": self._convert_reshape,
            uint8.UNSIGNED_AVERAGE: self._convert_unsigned_average,
        }
        if operator.type not in converters:
            raise ModelError(f"operator {operator.type} is not supported")
        converters[operator.type](_Operands(operator, self.records.tensors), name)

    def _convert_plain(self, operands: _Operands, name: str) -> None:
        """Operators whose converter needs nothing but feature maps."""
        sources = [self._read(tensor) for tensor in operands.activations()]
        target = self._define(operands.output)
        self.layers.append(layers.CONVERTERS[operands.operator.type](name, operands, sources, target))

    def _convert_convolution(self, operands: _Operands, name: str) -> None:
        tensor = operands.input(0)
        view = self._view(tensor)
        source = self.maps[view.map] if view.padding is not None else self._read(tensor)
        target = self._define(operands.output)
        self._append_widened(
            operands, source, lambda operands: layers.convolution(name, operands, source, target, view.padding)
        )

    def _append_widened(
        self, operands: _Operands, source: FeatureMap, make: Callable[[_Operands], Convolution]
    ) -> None:
        """A convolution; of weights that do not fit int8 one that reads channels twice."""
        if not operands.has_input(1) or operands.input(1).type != uint8.WIDE:
            self.layers.append(make(operands))
            return
        first, rest = (make(operands.with_tensor(each)) for each in uint8.halves(operands.input(1)))

        def define(name: str, channels: int) -> FeatureMap:
            self.maps[name] = FeatureMap(name, source.height, source.width, channels, source.quantisation)
            return self.maps[name]

        self.layers += uint8.widen(first, rest.weights, source, define)

    def _convert_unsigned_average(self, operands: _Operands, name: str) -> None:
        source = self._read(operands.input(0))
        target = self._define(operands.output)
        pool = layers.CONVERTERS["AVERAGE_POOL_2D"](name, operands, [source], target)
        assert isinstance(pool, AveragePool)
        if source.quantisation != target.quantisation:
            raise ModelError("its output must keep its input's quantisation")
        self.layers.append(uint8.unsigned_average(pool, source.channels))

    def _convert_quantize(self, operands: _Operands, name: str) -> None:
        tensor, target = operands.input(0), operands.output
        view = self._view(tensor)
        if view.padding is not None or self.maps[view.map].quantisation != _activation_quantisation(target):
            source = self._read(tensor)
            self.layers.append(uint8.requantising(name, source, self._define(target)))
        else:
            self.views[target.index] = view

    def _convert_fully_connected(self, operands: _Operands, name: str) -> None:
        tensor = operands.input(0)
        view = self._view(tensor)
        source = self.maps[view.map] if view.flattened else self._read(tensor)
        target = self._define(operands.output)
        self._append_widened(operands, source, lambda operands: layers.fully_connected(name, operands, source, target))

    def _convert_pad(self, operands: _Operands, name: str) -> None:
        source, target = self._read(operands.input(0)), operands.output
        rows = operands.constant(1, "INT32", "INT64").reshape(-1).tolist()
        if len(rows) != 8 or any(rows[:2] + rows[6:]) or min(rows) < 0 or max(rows) > MAX_MAP_SIZE:
            raise ModelError(f"only rows and columns can be padded, not {rows}")
        padding = Padding(*rows[2:6])
        shape = (source.height + sum(padding[:2]), source.width + sum(padding[2:]), source.channels)
        if _map_shape(target) != shape or _activation_quantisation(target) != source.quantisation:
            raise ModelError(f"its output must be {shape} with its input's quantisation")
        self.views[target.index] = _View(source.name, padding=padding)

    def _convert_reshape(self, operands: _Operands, name: str) -> None:
        tensor, target = operands.input(0), operands.output
        view = self._view(tensor)
        if view.padding is not None:
            self._read(tensor)
            view = self.views[tensor.index]
        source = self.maps[view.map]
        shape = _map_shape(target)
        if _activation_quantisation(target) != source.quantisation:
            raise ModelError("its output must keep its input's quantisation")
        if shape == (1, 1, source.size):
            self.views[target.index] = _View(source.name, flattened=source.shape != shape)
        elif shape == source.shape:
            self.views[target.index] = _View(source.name)
        else:
            raise ModelError(f"a {source.shape} map can only be flattened, not reshaped to {shape}")

    def _convert_softmax(self, operands: _Operands, name: str) -> None:
        tensor = operands.input(0)
        source = self.maps[self._on_host(self._view(tensor), tensor.name)]
        beta = float(operands.option("Beta"))
        softmax_parameters(source.quantisation.scale, beta)
        target = self._define(operands.output)
        self.host_layers.append(Softmax(name, (source.name,), target.name, beta))


class _Operands:
    """An operator's tensors and options, each checked when it is asked for."""

    def __init__(self, operator: OperatorRecord, tensors: tuple[TensorRecord, ...]) -> None:
        self.operator, self._tensors = operator, tensors
        if len(operator.outputs) != 1 or operator.outputs[0] < 0:
            raise ModelError(f"it has {len(operator.outputs)} outputs, not one")

    def with_tensor(self, tensor: TensorRecord) -> _Operands:
        """The same operator with another tensor in the place of the one with this index."""
        tensors = (*self._tensors[: tensor.index], tensor, *self._tensors[tensor.index + 1 :])
        return _Operands(self.operator, tensors)

    def has_input(self, position: int) -> bool:
        return position < len(self.operator.inputs) and self.operator.inputs[position] >= 0

    def input(self, position: int) -> TensorRecord:
        if not self.has_input(position):
            raise ModelError(f"its input {position} is missing")
        return self._tensors[self.operator.inputs[position]]

    @property
    def output(self) -> TensorRecord:
        return self._tensors[self.operator.outputs[0]]

    def activations(self) -> list[TensorRecord]:
        """The inputs that are computed: all of them, but of MEAN only the first (the second names the axes)."""
        count = 1 if self.operator.type == "MEAN" else len(self.operator.inputs)
        return [self.input(position) for position in range(count)]

    def option(self, name: str) -> Any:
        if self.operator.options is None:
            raise ModelError("its options are missing")
        return self.operator.options[name]

    def constant(self, position: int, *types: str) -> NDArray[Any]:
        """The value of a constant input, one of ``types`` (INT8, INT32, INT64)."""
        tensor = self.input(position)
        if tensor.type not in types:
            raise ModelError(f"'{tensor.name}' is {tensor.type}; only {' or '.join(types)} is supported")
        if tensor.sparse:
            raise ModelError(f"'{tensor.name}' is stored as a sparse tensor, which is not supported")
        if tensor.data is None:
            raise ModelError(f"'{tensor.name}' has no data; it must be a constant")
        dtype = np.dtype(tensor.type.lower()).newbyteorder("<")
        if min(tensor.shape, default=1) < 1 or tensor.data.size != prod(tensor.shape) * dtype.itemsize:
            raise ModelError(
                f"'{tensor.name}' is {tensor.shape} {tensor.type}, but has {tensor.data.size} bytes of data"
            )
        return tensor.data.view(dtype).reshape(tensor.shape)


def layer_name(operator: OperatorRecord, records: ModelRecords) -> str:
    """``<output tensor> (<operator> #<index>)``; of a fused tensor name only the first part."""
    output = next((records.tensors[index].name for index in operator.outputs if index >= 0), "?")
    return f"{_short(output)} ({operator.type} #{operator.index})"


def _short(tensor_name: str) -> str:
    return tensor_name.split(";")[0][:80]


def _map_shape(tensor: TensorRecord) -> tuple[int, int, int]:
    """``[1, H, W, C]`` or ``[1, C]`` without the batch."""
    shape = tensor.shape
    if -1 in tensor.shape_signature[1:] or min(shape, default=1) < 1:
        raise ModelError(f"'{tensor.name}' has a dynamic or empty shape {tensor.shape_signature or shape}")
    if len(shape) not in (2, 4):
        raise ModelError(
            f"'{tensor.name}' is {shape}; only [1, height, width, channels] and [1, channels] are supported"
        )
    if shape[0] != 1:
        raise ModelError(f"'{tensor.name}' has batch {shape[0]}; only batch 1 is supported")
    if prod(shape) > MAX_MAP_SIZE:
        raise ModelError(f"'{tensor.name}' is {shape}: more than {MAX_MAP_SIZE} values")
    return (1, 1, shape[1]) if len(shape) == 2 else (shape[1], shape[2], shape[3])


def _activation_quantisation(tensor: TensorRecord) -> Quantisation:
    hint = "quantise the network to full int8, inputs and outputs included"
    if tensor.type != "INT8":
        raise ModelError(f"'{tensor.name}' is {tensor.type}; only INT8 activations are supported: {hint}")
    if tensor.scales.size == 0 or tensor.zero_points.size == 0:
        raise ModelError(f"'{tensor.name}' has no quantisation: {hint}")
    if tensor.scales.size > 1 or tensor.zero_points.size > 1:
        raise ModelError(f"activation '{tensor.name}' is quantised per channel, which is not supported")
    try:
        return Quantisation(float(tensor.scales[0]), int(tensor.zero_points[0]))
    except ModelError as error:
        raise ModelError(f"'{tensor.name}': {error}") from error
