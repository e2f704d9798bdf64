"""Write a ``Graph`` as an int8 ``.tflite`` file that LiteRT runs with the same result, bit for bit.

The reverse of the front end, for networks quantised here and for tests that let LiteRT judge random networks. Padding
becomes the operator's own ``SAME`` or ``VALID`` where it equals one of them, otherwise a ``PAD`` before a ``VALID``
convolution. What the format cannot express is refused with a ``ModelError`` naming the layer: padded pools that are not
``SAME``, clamps that are no activation function, multipliers other than those LiteRT derives from the scales.

A mean over all pixels, which is a depthwise convolution of ones in the graph, becomes a ``MEAN``.

Feature maps keep their names; a layer's constants are ``<layer>/weights`` and ``<layer>/bias``. Maps are tensors
``[1, H, W, C]``; vectors after a fully connected or flatten layer are ``[1, C]``.
"""

from __future__ import annotations

import numpy as np
import tflite
from numpy.typing import NDArray

from emberline.compiler.frontends.tflite_builder import OperatorRecord, TensorRecord, build_model
from emberline.errors import ModelError
from emberline.model import numerics
from emberline.model.graph import (
    INT8_MAX,
    INT8_MIN,
    NO_PADDING,
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Flatten,
    Graph,
    Layer,
    MaxPool,
    Pad,
    Padding,
    Quantisation,
    Softmax,
)
from emberline.model.requantisation import litert_requantisation

_ACTIVATIONS: tuple[numerics.Activation, ...] = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def write_tflite(graph: Graph) -> bytes:
    """The file's bytes, the same for equal graphs. Raises ``ModelError`` where the format cannot express a layer."""
    return _Writer(graph).write()


def same_padding(height: int, width: int, window: tuple[int, int], stride: tuple[int, int]) -> Padding:
    """What TensorFlow calls SAME: ``ceil(extent / stride)`` outputs, the odd row or column after.

    ``window`` is the window's extent with its dilation. Source: LiteRT's ``kernels/padding.h``.
    """

    def split(extent: int, window: int, stride: int) -> tuple[int, int]:
        total = max((-(-extent // stride) - 1) * stride + window - extent, 0)
        return total // 2, total - total // 2

    return Padding(*split(height, window[0], stride[0]), *split(width, window[1], stride[1]))


class _Writer:
    """One file being written: the records so far, and which tensor holds which feature map."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors: list[TensorRecord] = []
        self.operators: list[OperatorRecord] = []
        self.indices: dict[tuple[str, int], int] = {}  # (feature map, rank) -> tensor
        self.ranks: dict[str, int] = {}  # the rank in which a feature map is produced

    def write(self) -> bytes:
        for name in self.graph.inputs:
            self._add_map(name, 4)
        for layer in self.graph:
            match layer:
                case Convolution():
                    self._write_convolution(layer)
                case Add():
                    self._write_add(layer)
                case Concatenation():
                    self._write_concatenation(layer)
                case AveragePool() | MaxPool():
                    self._write_pool(layer)
                case Pad():
                    x = self._map(layer.inputs[0], 4)
                    self._write_pad(layer, x, layer.padding, self._add_map(layer.output, 4))
                case Flatten():
                    x = self._map(layer.inputs[0], self.ranks[layer.inputs[0]])
                    self._write_reshape(layer.output, x, self._add_map(layer.output, 2), 2)
                case Softmax():
                    rank = self.ranks[layer.inputs[0]]
                    x = self._map(layer.inputs[0], rank)
                    self._write_operator(
                        "SOFTMAX", 2, (x,), self._add_map(layer.output, rank), "SoftmaxOptions", Beta=layer.beta
                    )
                case _:
                    raise TypeError(f"layer '{layer.name}': no operator for a {type(layer).__name__}")
        inputs = [self._map(name, 4) for name in self.graph.inputs]
        outputs = [self._map(name, self.ranks[name]) for name in self.graph.outputs]
        return build_model(self.graph.name, self.tensors, self.operators, inputs, outputs)

    # --- layers

    def _write_convolution(self, layer: Convolution) -> None:
        x, y = self._input(layer), self._output(layer)
        activation = self._activation(layer, y.quantisation)
        rule = litert_requantisation(layer, x.quantisation, y.quantisation)
        if not rule.is_used_by(layer):
            if self._is_mean(layer):
                self._write_mean(layer)
                return
            raise _refuse(layer, "its multipliers are not those that LiteRT derives from its scales")
        if layer.fully_connected:
            # The operator reads a map of any rank as one vector, in (height, width, channel) order.
            source = self._map(x.name, self.ranks[x.name])
            weights = layer.weights.reshape(y.channels, -1)
            constants = self._add_constants(layer, x.quantisation, weights, axis=0)
            self._write_operator(
                "FULLY_CONNECTED",
                4,
                (source, *constants),
                self._add_map(y.name, 2),
                "FullyConnectedOptions",
                FusedActivationFunction=activation,
            )
            return
        dilated = tuple((k - 1) * d + 1 for k, d in zip(layer.kernel, layer.dilation, strict=True))
        source, padding = self._padded(layer, x, layer.padding, (dilated[0], dilated[1]), layer.stride)
        options = {
            "Padding": padding,
            "StrideH": layer.stride[0],
            "StrideW": layer.stride[1],
            "DilationHFactor": layer.dilation[0],
            "DilationWFactor": layer.dilation[1],
            "FusedActivationFunction": activation,
        }
        if layer.is_depthwise(self.graph.feature_maps):
            weights = np.ascontiguousarray(layer.weights[..., 0].transpose(1, 2, 0))[None]
            constants = self._add_constants(layer, x.quantisation, weights, axis=3)
            options["DepthMultiplier"] = y.channels // x.channels
            kind, table = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
        else:
            constants = self._add_constants(layer, x.quantisation, layer.weights, axis=0)
            kind, table = "CONV_2D", "Conv2DOptions"
        self._write_operator(kind, 3, (source, *constants), self._add_map(y.name, 4), table, **options)

    def _is_mean(self, layer: Convolution) -> bool:
        """Whether a convolution is the mean over all pixels that the front end makes of a ``MEAN``."""
        x, y = self._input(layer), self._output(layer)
        multiplier, shift = numerics.mean_multiplier(x.quantisation.scale, y.quantisation.scale, x.height * x.width)
        return (
            layer.groups == x.channels == y.channels
            and layer.kernel == (x.height, x.width)
            and layer.padding == NO_PADDING
            and (layer.activation_min, layer.activation_max) == (INT8_MIN, INT8_MAX)
            and bool((layer.weights == 1).all() and (layer.bias == 0).all())
            and bool((layer.multiplier == multiplier).all() and (layer.shift == shift).all())
        )

    def _write_mean(self, layer: Convolution) -> None:
        axes = np.array([1, 2], np.int32)
        self.tensors.append(TensorRecord(f"{layer.name}/axes", axes.shape, np.int32, data=axes))
        sources = (self._map(layer.inputs[0], 4), len(self.tensors) - 1)
        self._write_operator("MEAN", 2, sources, self._add_map(layer.output, 4), "ReducerOptions", KeepDims=True)

    def _write_add(self, layer: Add) -> None:
        y = self._output(layer)
        scales = [self.graph.feature_maps[name].quantisation.scale for name in layer.inputs]
        expected = numerics.add_parameters(scales[0], scales[1], y.quantisation.scale)
        actual = numerics.AddParameters(
            layer.input_multipliers, layer.input_shifts, layer.output_multiplier, layer.output_shift, layer.left_shift
        )
        if actual != expected:
            raise _refuse(layer, "its multipliers are not those that LiteRT derives from its scales")
        rank = self._common_rank(layer)
        sources = tuple(self._map(name, rank) for name in layer.inputs)
        activation = self._activation(layer, y.quantisation)
        target = self._add_map(y.name, rank)
        self._write_operator("ADD", 2, sources, target, "AddOptions", FusedActivationFunction=activation)

    def _write_concatenation(self, layer: Concatenation) -> None:
        rank = self._common_rank(layer)
        sources = tuple(self._map(name, rank) for name in layer.inputs)
        target = self._add_map(layer.output, rank)
        self._write_operator("CONCATENATION", 2, sources, target, "ConcatenationOptions", Axis=rank - 1)

    def _write_pool(self, layer: AveragePool | MaxPool) -> None:
        x, y = self._input(layer), self._output(layer)
        if layer.padding == NO_PADDING:
            padding = tflite.Padding.VALID
        elif layer.padding == same_padding(x.height, x.width, layer.window, layer.stride):
            padding = tflite.Padding.SAME
        else:
            raise _refuse(layer, f"a pool's {layer.padding} is neither VALID nor SAME")
        self._write_operator(
            "AVERAGE_POOL_2D" if isinstance(layer, AveragePool) else "MAX_POOL_2D",
            2,
            (self._map(x.name, 4),),
            self._add_map(y.name, 4),
            "Pool2DOptions",
            Padding=padding,
            StrideH=layer.stride[0],
            StrideW=layer.stride[1],
            FilterHeight=layer.window[0],
            FilterWidth=layer.window[1],
            FusedActivationFunction=self._activation(layer, y.quantisation),
        )

    def _padded(
        self, layer: Layer, x: FeatureMap, padding: Padding, window: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[int, int]:
        """The tensor that a convolution reads, and its padding scheme; writes a ``PAD`` where neither scheme fits."""
        source = self._map(x.name, 4)
        if padding == NO_PADDING:
            return source, tflite.Padding.VALID
        if padding == same_padding(x.height, x.width, window, stride):
            return source, tflite.Padding.SAME
        shape = (1, x.height + padding.top + padding.bottom, x.width + padding.left + padding.right, x.channels)
        padded = self._add_tensor(f"{layer.name}/padded", shape, x.quantisation)
        self._write_pad(layer, source, padding, padded)
        return padded, tflite.Padding.VALID

    def _write_pad(self, layer: Layer, source: int, padding: Padding, target: int) -> None:
        rows = np.array([(0, 0), (padding.top, padding.bottom), (padding.left, padding.right), (0, 0)], np.int32)
        self.tensors.append(TensorRecord(f"{layer.name}/paddings", rows.shape, np.int32, data=rows))
        self._write_operator("PAD", 2, (source, len(self.tensors) - 1), target, "PadOptions")

    def _write_reshape(self, name: str, source: int, target: int, rank: int) -> None:
        """To the vector ``name``'s rank. The batch stays free (-1), so that LiteRT can resize the file's input."""
        shape = np.array([-1, *self.tensors[target].shape[1:]], np.int32)
        self.tensors.append(TensorRecord(f"{name}/shape{rank}", shape.shape, np.int32, data=shape))
        self._write_operator("RESHAPE", 1, (source, len(self.tensors) - 1), target, "ReshapeOptions")

    # --- tensors and operators

    def _input(self, layer: Layer) -> FeatureMap:
        return self.graph.feature_maps[layer.inputs[0]]

    def _output(self, layer: Layer) -> FeatureMap:
        return self.graph.feature_maps[layer.output]

    def _common_rank(self, layer: Layer) -> int:
        return max(self.ranks[name] for name in layer.inputs)

    def _map(self, name: str, rank: int) -> int:
        """The tensor of a feature map with a given rank; a vector that only exists as ``[1, C]`` is reshaped."""
        if (name, rank) not in self.indices:
            feature_map = self.graph.feature_maps[name]
            target = self._add_tensor(f"{name}/map", (1, *feature_map.shape), feature_map.quantisation)
            self._write_reshape(name, self.indices[name, self.ranks[name]], target, rank)
            self.indices[name, rank] = target
        return self.indices[name, rank]

    def _add_map(self, name: str, rank: int) -> int:
        """A new tensor for a feature map about to be produced."""
        feature_map = self.graph.feature_maps[name]
        shape = (1, *feature_map.shape) if rank == 4 else (1, feature_map.channels)
        self.ranks[name] = rank
        self.indices[name, rank] = self._add_tensor(name, shape, feature_map.quantisation)
        return self.indices[name, rank]

    def _add_tensor(self, name: str, shape: tuple[int, ...], quantisation: Quantisation) -> int:
        self.tensors.append(TensorRecord(name, shape, np.int8, (quantisation.scale,), quantisation.zero_point))
        return len(self.tensors) - 1

    def _add_constants(
        self, layer: Convolution, source: Quantisation, weights: NDArray[np.int8], axis: int
    ) -> tuple[int, int]:
        """The tensors of weights, quantised along ``axis``, and of the bias."""
        scales = tuple(float(scale) for scale in layer.weight_scales)
        bias_scales = tuple(float(np.float32(source.scale) * scale) for scale in layer.weight_scales)
        self.tensors.append(
            TensorRecord(f"{layer.name}/weights", weights.shape, np.int8, scales, 0, axis, np.asarray(weights))
        )
        self.tensors.append(
            TensorRecord(f"{layer.name}/bias", layer.bias.shape, np.int32, bias_scales, data=np.asarray(layer.bias))
        )
        return len(self.tensors) - 2, len(self.tensors) - 1

    def _write_operator(
        self, kind: str, version: int, inputs: tuple[int, ...], output: int, table: str, **options: int | float
    ) -> None:
        self.operators.append(OperatorRecord(kind, version, inputs, (output,), table, options))

    def _activation(self, layer: Convolution | Add | AveragePool | MaxPool, output: Quantisation) -> int:
        """The fused activation function that gives a layer's clamp, the simplest first."""
        clamp = (layer.activation_min, layer.activation_max)
        if clamp == (INT8_MIN, INT8_MAX):
            return int(tflite.ActivationFunctionType.NONE)
        for name in _ACTIVATIONS[1:]:
            try:
                if numerics.activation_range(name, output) == clamp:
                    return int(getattr(tflite.ActivationFunctionType, name))
            except ModelError:  # this function does not exist for such a scale
                continue
        raise _refuse(layer, f"no activation function clamps {output} to {clamp[0]}..{clamp[1]}")


def _refuse(layer: Layer, reason: str) -> ModelError:
    return ModelError(f"layer '{layer.name}' cannot be written as .tflite: {reason}")
