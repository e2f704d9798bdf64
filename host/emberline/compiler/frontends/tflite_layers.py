"""TFLite operators to layers: LiteRT's derivation of every integer, one function per kind of operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tflite
from numpy.typing import NDArray

from emberline.compiler.frontends.tflite_records import TensorRecord
from emberline.errors import ModelError
from emberline.model import numerics, requantisation
from emberline.model.graph import (
    NO_PADDING,
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Layer,
    MaxPool,
    Padding,
)
from emberline.model.layers import Pair

_ACTIVATIONS: dict[int, numerics.Activation] = {
    tflite.ActivationFunctionType.NONE: "NONE",
    tflite.ActivationFunctionType.RELU: "RELU",
    tflite.ActivationFunctionType.RELU6: "RELU6",
    tflite.ActivationFunctionType.RELU_N1_TO_1: "RELU_N1_TO_1",
}


class Operands(Protocol):
    """How the converters reach an operator's constants and options; every access raises ``ModelError`` by itself."""

    def has_input(self, position: int) -> bool: ...
    def input(self, position: int) -> TensorRecord: ...
    def option(self, name: str) -> Any: ...
    def constant(self, position: int, *types: str) -> NDArray[Any]: ...
    @property
    def operator(self) -> Any: ...


def convolution(
    name: str, operands: Operands, source: FeatureMap, target: FeatureMap, explicit: Padding | None
) -> Convolution:
    """CONV_2D and DEPTHWISE_CONV_2D; ``explicit`` is the padding of a PAD that is folded into it."""
    depthwise = operands.operator.type == "DEPTHWISE_CONV_2D"
    weights = operands.constant(1, "INT8")
    if weights.ndim != 4:
        raise ModelError(f"weights must have 4 dimensions, not {weights.shape}")
    scales = _weight_scales(operands.input(1), axis=3 if depthwise else 0)
    if depthwise:
        weights = weights.transpose(3, 1, 2, 0)
        if weights.shape[3] != 1 or weights.shape[0] % source.channels:
            raise ModelError(f"depthwise weights {operands.input(1).shape} do not fit {source.channels} channels")
        if operands.option("DepthMultiplier") not in (0, weights.shape[0] // source.channels):
            raise ModelError(f"depth multiplier {operands.option('DepthMultiplier')} does not fit its weights")
    elif source.channels % weights.shape[3]:
        raise ModelError(f"weights for {weights.shape[3]} channels do not fit {source.channels} channels")
    stride = (operands.option("StrideH"), operands.option("StrideW"))
    dilation = (operands.option("DilationHFactor"), operands.option("DilationWFactor"))
    inner = explicit or NO_PADDING
    padded = (source.height + inner.top + inner.bottom, source.width + inner.left + inner.right)
    outer = _padding(operands.option("Padding"), padded, weights.shape[1:3], stride, dilation)
    multiplier, shift = numerics.convolution_multipliers(
        source.quantisation.scale, scales, target.quantisation.scale, weights.shape[0]
    )
    minimum, maximum = _clamp(operands, target)
    return Convolution(
        name,
        (source.name,),
        target.name,
        weights=np.ascontiguousarray(weights),
        bias=_bias(operands, weights.shape[0]),
        weight_scales=scales,
        multiplier=multiplier,
        shift=shift,
        stride=stride,
        dilation=dilation,
        padding=Padding(*(a + b for a, b in zip(inner, outer, strict=True))),
        groups=source.channels // weights.shape[3] if not depthwise else source.channels,
        activation_min=minimum,
        activation_max=maximum,
    )


def fully_connected(name: str, operands: Operands, source: FeatureMap, target: FeatureMap) -> Convolution:
    """FULLY_CONNECTED over the whole of ``source``, flattened or not."""
    weights = operands.constant(1, "INT8")
    if operands.option("WeightsFormat") != 0:
        raise ModelError("its weights are in a shuffled format, which is not supported")
    if weights.ndim != 2 or weights.shape[1] != source.size:
        raise ModelError(f"weights {weights.shape} do not fit an input of {source.size} values")
    scales = _weight_scales(operands.input(1), axis=0)
    minimum, maximum = _clamp(operands, target)
    rule = requantisation.fully_connected(
        source.quantisation.scale, scales, target.quantisation, (minimum, maximum), weights.shape[0]
    )
    bias = _bias(operands, weights.shape[0])
    largest = int(np.abs(bias, dtype=np.int64).max()) + 255 * int(np.abs(weights, dtype=np.int64).sum(axis=1).max())
    if largest << max(0, int(rule.shift.max())) > numerics.INT32_MAX:
        raise ModelError(
            "its sums times its scale ratio may exceed 32 bits, which LiteRT and this model treat differently"
        )
    return Convolution(
        name,
        (source.name,),
        target.name,
        weights=weights.reshape(weights.shape[0], *source.shape),
        bias=bias,
        weight_scales=scales,
        **rule._asdict(),
        fully_connected=True,
        activation_min=minimum,
        activation_max=maximum,
    )


def _add(name: str, operands: Operands, sources: Sequence[FeatureMap], target: FeatureMap) -> Layer:
    if len(sources) != 2:
        raise ModelError(f"it has {len(sources)} inputs, not two")
    a, b = (source.quantisation.scale for source in sources)
    parameters = numerics.add_parameters(a, b, target.quantisation.scale)
    minimum, maximum = _clamp(operands, target)
    return Add(
        name,
        tuple(source.name for source in sources),
        target.name,
        **parameters._asdict(),
        activation_min=minimum,
        activation_max=maximum,
    )


def _concatenation(name: str, operands: Operands, sources: Sequence[FeatureMap], target: FeatureMap) -> Layer:
    rank = len(operands.input(0).shape)
    if operands.option("Axis") not in (-1, rank - 1):
        raise ModelError(f"only channels can be concatenated, not axis {operands.option('Axis')}")
    if _activation(operands) != "NONE":
        raise ModelError(f"a fused {_activation(operands)} is not supported here")
    return Concatenation(name, tuple(source.name for source in sources), target.name)


def _pool(name: str, operands: Operands, sources: Sequence[FeatureMap], target: FeatureMap) -> Layer:
    (source,) = sources if len(sources) == 1 else _refuse_inputs(sources)
    kind = MaxPool if operands.operator.type == "MAX_POOL_2D" else AveragePool
    window = (operands.option("FilterHeight"), operands.option("FilterWidth"))
    stride = (operands.option("StrideH"), operands.option("StrideW"))
    padding = _padding(operands.option("Padding"), source.shape[:2], window, stride, (1, 1))
    minimum, maximum = _clamp(operands, target)
    return kind(
        name,
        (source.name,),
        target.name,
        window,
        stride,
        padding,
        activation_min=minimum,
        activation_max=maximum,
    )


def _mean(name: str, operands: Operands, sources: Sequence[FeatureMap], target: FeatureMap) -> Layer:
    """MEAN over rows and columns is exactly a depthwise convolution of ones with LiteRT's own multiplier."""
    (source,) = sources
    rank = len(operands.input(0).shape)
    axes = {int(axis) % rank for axis in operands.constant(1, "INT32").reshape(-1).tolist() if -rank <= axis < rank}
    if rank != 4 or axes != {1, 2}:
        raise ModelError(f"only the mean over rows and columns is supported, not over axes {sorted(axes)}")
    count = source.height * source.width
    multiplier, shift = numerics.mean_multiplier(source.quantisation.scale, target.quantisation.scale, count)
    return Convolution(
        name,
        (source.name,),
        target.name,
        weights=np.ones((source.channels, source.height, source.width, 1), np.int8),
        bias=np.zeros(source.channels, np.int32),
        weight_scales=np.array([1 / count], np.float32),
        multiplier=np.full(source.channels, multiplier, np.int32),
        shift=np.full(source.channels, shift, np.int32),
        groups=source.channels,
    )


CONVERTERS: dict[str, Callable[[str, Operands, Sequence[FeatureMap], FeatureMap], Layer]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _pool,
    "CONCATENATION": _concatenation,
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
}


def _activation(operands: Operands) -> numerics.Activation:
    code = operands.option("FusedActivationFunction")
    if code not in _ACTIVATIONS:
        raise ModelError(f"fused activation function {code} is not supported, only {', '.join(_ACTIVATIONS.values())}")
    return _ACTIVATIONS[code]


def _clamp(operands: Operands, target: FeatureMap) -> Pair:
    return numerics.activation_range(_activation(operands), target.quantisation)


def _refuse_inputs(sources: Sequence[FeatureMap]) -> tuple[FeatureMap]:
    raise ModelError(f"it has {len(sources)} inputs, not one")


def _padding(code: int, size: Pair, window: Pair, stride: Pair, dilation: Pair) -> Padding:
    """TFLite's VALID, or SAME resolved: the odd row or column goes to the bottom or right."""
    if min(*window, *stride, *dilation) < 1:
        raise ModelError(f"impossible window {window}, stride {stride}, dilation {dilation}")
    if code == tflite.Padding.VALID:
        return NO_PADDING
    if code != tflite.Padding.SAME:
        raise ModelError(f"padding scheme {code} is unknown")
    sides = []
    for extent, taps, step, spread in zip(size, window, stride, dilation, strict=True):
        total = max(0, (-(-extent // step) - 1) * step + (taps - 1) * spread + 1 - extent)
        sides += [total // 2, total - total // 2]
    return Padding(*sides)


def _weight_scales(tensor: TensorRecord, axis: int) -> NDArray[np.float32]:
    """float32 ``[out]`` or ``[1]``."""
    channels = tensor.shape[axis]
    if tensor.scales.size == 0:
        raise ModelError(f"weights '{tensor.name}' have no quantisation")
    if np.any(tensor.zero_points):
        raise ModelError(f"weights '{tensor.name}' have a zero point other than 0, which is not supported")
    if tensor.scales.size not in (1, channels):
        raise ModelError(f"weights '{tensor.name}' have {tensor.scales.size} scales for {channels} output channels")
    if tensor.scales.size > 1 and tensor.quantised_dimension != axis:
        raise ModelError(f"weights '{tensor.name}' are quantised along dimension {tensor.quantised_dimension}")
    if not (np.isfinite(tensor.scales).all() and (tensor.scales >= 0).all()):
        raise ModelError(f"weights '{tensor.name}' have scales that are negative or not finite")
    return tensor.scales


def _bias(operands: Operands, channels: int) -> NDArray[np.int32]:
    if not operands.has_input(2):
        return np.zeros(channels, np.int32)
    bias = operands.constant(2, "INT32")
    if bias.size != channels:
        raise ModelError(f"{bias.size} biases for {channels} output channels")
    return bias.reshape(-1).astype(np.int32)
