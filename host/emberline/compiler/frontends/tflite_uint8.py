"""Legacy uint8 TFLite models as int8 ones, value for value.

A uint8 code is an int8 code plus 128, and so is its zero point: activations only change their names. What needs more:

- weights have a zero point of their own. Less the zero point they have nine bits. Where these fit int8, that is all;
  otherwise a weight is the sum of two, and the channel it belongs to is read twice (``widen``);
- an average of unsigned codes rounds halves up, not away from zero: it becomes a depthwise convolution of ones whose
  multiplier does so;
- QUANTIZE between uint8 and int8 changes nothing, and otherwise requantises like a convolution by 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.tflite_records import ModelRecords, OperatorRecord, TensorRecord
from emberline.errors import ModelError
from emberline.model import numerics
from emberline.model.graph import Concatenation, Convolution, FeatureMap, Layer, Select

UNSIGNED_AVERAGE = "AVERAGE_POOL_2D of uint8"
WIDE = "INT16"
"""The type of weights that do not fit int8; no other weights of a TFLite model have it here."""
_OFFSET = 128
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def to_int8(records: ModelRecords) -> ModelRecords:
    """The model with int8 codes in the place of uint8 ones. A model without uint8 tensors is returned as it is."""
    if all(tensor.type != "UINT8" for tensor in records.tensors):
        return records
    weights = {
        operator.inputs[1]
        for operator in records.operators
        if operator.type in _WITH_WEIGHTS and len(operator.inputs) > 1 and operator.inputs[1] >= 0
    }
    tensors = tuple(_convert(tensor, tensor.index in weights) for tensor in records.tensors)
    operators = tuple(_convert_operator(operator, records) for operator in records.operators)
    return replace(records, tensors=tensors, operators=operators)


def _convert(tensor: TensorRecord, is_weights: bool) -> TensorRecord:
    if tensor.type != "UINT8":
        return tensor
    if tensor.data is None:
        return replace(tensor, type="INT8", zero_points=tensor.zero_points - _OFFSET)
    if not is_weights or tensor.zero_points.size != 1:
        return tensor
    centred = tensor.data.astype(np.int16) - np.int16(tensor.zero_points[0])
    fits = centred.min(initial=0) >= -128 and centred.max(initial=0) <= 127
    stored = centred.astype("<i1" if fits else "<i2")
    kind = "INT8" if fits else WIDE
    return replace(tensor, type=kind, zero_points=np.zeros(1, np.int64), data=np.frombuffer(stored.tobytes(), np.uint8))


def _convert_operator(operator: OperatorRecord, records: ModelRecords) -> OperatorRecord:
    unsigned = operator.outputs and records.tensors[operator.outputs[0]].type == "UINT8"
    return replace(operator, type=UNSIGNED_AVERAGE) if unsigned and operator.type == "AVERAGE_POOL_2D" else operator


def halves(tensor: TensorRecord) -> tuple[TensorRecord, TensorRecord]:
    """int8 weights and int8 rests, which add up to wide ones. ``ModelError`` where even two do not reach."""
    assert tensor.data is not None
    wide = tensor.data.view("<i2")
    first = np.clip(wide, -128, 127)
    rest = wide - first
    if rest.max(initial=0) > 127:
        raise ModelError(
            f"weights '{tensor.name}' reach {wide.max()} less their zero point; two int8 weights reach 254"
        )
    first_record, rest_record = (
        replace(tensor, type="INT8", data=np.frombuffer(each.astype(np.int8).tobytes(), np.uint8))
        for each in (first, rest)
    )
    return first_record, rest_record


def widen(
    layer: Convolution, rest: NDArray[np.int8], source: FeatureMap, define: Callable[[str, int], FeatureMap]
) -> list[Layer]:
    """A convolution by ``layer.weights + rest``: the channels that need it are read twice.

    Parameters: ``define`` makes a feature map like the source, with a name and a number of channels.

    A sum of products is split exactly, since it is requantised only when it is complete.
    """
    if layer.groups > 1:
        if layer.weights.shape[3] != 1 or layer.output_channels != source.channels:
            raise ModelError("weights with a zero point in groups or with a depth multiplier are not supported")
        channels = tuple(np.repeat(np.arange(source.channels), 2).tolist())
        twice = define(f"{layer.output}/twice", len(channels))
        select = Select(f"{layer.name} twice", (source.name,), twice.name, channels)
        weights = np.concatenate([layer.weights, rest], axis=3)
        return [select, replace(layer, inputs=(twice.name,), weights=weights)]
    needed = np.flatnonzero(rest.any(axis=(0, 1, 2)))
    if not len(needed):
        return [layer]
    again = define(f"{layer.output}/again", len(needed))
    both = define(f"{layer.output}/both", source.channels + len(needed))
    return [
        Select(f"{layer.name} again", (source.name,), again.name, tuple(needed.tolist())),
        Concatenation(f"{layer.name} both", (source.name, again.name), both.name),
        replace(layer, inputs=(both.name,), weights=np.concatenate([layer.weights, rest[..., needed]], axis=3)),
    ]


def unsigned_average(layer: Any, channels: int) -> Convolution:
    """An average pool that rounds halves up: a depthwise convolution of ones; only without padding."""
    if any(layer.padding):
        raise ModelError("an average of uint8 codes with padding is not supported")
    count = layer.window[0] * layer.window[1]
    if count > 2048:
        raise ModelError(f"an average of {count} uint8 codes is not supported")
    # An even count has ties. Twice the sum plus one is never at one, and on the upper side of those that were.
    factor = 1 if count % 2 else 2
    multiplier = min(round((1 << 31) / (factor * count)), numerics.INT32_MAX)
    return Convolution(
        layer.name,
        layer.inputs,
        layer.output,
        weights=np.full((channels, *layer.window, 1), factor, np.int8),
        bias=np.full(channels, factor - 1, np.int32),
        weight_scales=np.array([1 / (factor * count)], np.float32),
        multiplier=np.full(channels, multiplier, np.int32),
        shift=np.zeros(channels, np.int32),
        stride=layer.stride,
        groups=channels,
        activation_min=layer.activation_min,
        activation_max=layer.activation_max,
    )


def requantising(name: str, source: FeatureMap, target: FeatureMap) -> Convolution:
    """QUANTIZE from int8 to int8: LiteRT requantises a code like the sum of a convolution by 1."""
    channels = source.channels
    scales = np.ones(1, np.float32)
    multiplier, shift = numerics.convolution_multipliers(
        source.quantisation.scale, scales, target.quantisation.scale, channels
    )
    return Convolution(
        name,
        (source.name,),
        target.name,
        weights=np.ones((channels, 1, 1, 1), np.int8),
        bias=np.zeros(channels, np.int32),
        weight_scales=scales,
        multiplier=multiplier,
        shift=shift,
        groups=channels,
    )
