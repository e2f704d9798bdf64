"""ZynqNet front end: the published 8-bit weights and their fractional lengths become a ``Graph``.

ZynqNet is quantised in *dynamic fixed point*: a code stands for ``code / 2**fl``, and every layer's weights, biases and
results have a fractional length ``fl`` of their own. A result is the int32 sum times a negative power of two, rounded
half away from zero, saturated, clamped at zero (ReLU). The graph computes just these integers:

- multiplier ``2**(31 - n)`` without a shift divides by ``2**n`` and rounds halves up, which is half away from zero for
  every result that a ReLU lets through. Where negative results count, the multiplier is one larger: every tie moves
  away from zero, and nothing else changes while the sums stay below ``2**(31 - n)``;
- a bias is finer than the sum where the input's fractional length is negative. Its whole part is added. The fraction
  cannot matter where results are positive; where they are not, it decides that there are no ties, and the unchanged
  multiplier rounds them as they should be;
- a concatenation requantises both halves to one fractional length. The second of LiteRT's two roundings does exactly
  that, so the halves are written as the concatenation has them. ``fuse=False`` makes it a layer of its own, so that
  every published activation is a feature map.

The network ends in the mean of each class map, with one fractional bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model import numerics
from emberline.model.graph import (
    INT8_MAX,
    INT8_MIN,
    NO_PADDING,
    Concatenation,
    Convolution,
    FeatureMap,
    Graph,
    Layer,
    Padding,
    Quantisation,
    Softmax,
)

WEIGHTS_NAME, DESCRIPTION_NAME = "ZynqNet_Quantized_8bit.dat", "zynqnet_quant.json"
INPUT_SIZE = 256
MEAN_FRACTION = 1
"""Fractional bits of the class means: results of -64 to 63.5."""
_STRIDE_2 = ("conv1", "fire2/squeeze3x3", "fire4/squeeze3x3", "fire6/squeeze3x3", "fire8/squeeze3x3")


class _Record(NamedTuple):
    """One convolution of the description."""

    name: str
    shape: tuple[int, int, int, int]
    fl_weight: int
    fl_bias: int
    fl_out: int
    weight_offset: int
    bias_offset: int


def read_zynqnet(folder: str | Path, *, fuse: bool = True) -> Graph:
    """The network from a folder with ``ZynqNet_Quantized_8bit.dat`` and ``zynqnet_quant.json``.

    Parameters: ``fuse`` lets the expand layers write what the concatenation requantises them to.

    Raises ``ModelError`` for files that are missing, damaged or describe something else.
    """
    folder = Path(folder)
    try:
        data = (folder / WEIGHTS_NAME).read_bytes()
        description = json.loads((folder / DESCRIPTION_NAME).read_text())
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{folder / DESCRIPTION_NAME}: no JSON: {error}") from error
    try:
        return build_graph(np.frombuffer(data, np.int8), description, fuse=fuse)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{folder / DESCRIPTION_NAME}: not a description of ZynqNet: {error!r}") from error
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def build_graph(codes: NDArray[np.int8], description: Mapping[str, Any], *, fuse: bool = True) -> Graph:
    """The network from all weight and bias codes and the description of their places and fractional lengths."""
    records = {
        each["name"]: _Record(
            each["name"],
            tuple(each["shape_OIHW"]),
            *(int(each[key]) for key in ("fl_weight", "fl_bias", "fl_out", "weight_offset", "bias_offset")),
        )
        for each in description["layers"]
    }
    builder = _Builder(codes, records, description["concat_fl"], fuse)
    return builder.build(int(description["input_fl"]))


class _Builder:
    def __init__(
        self, codes: NDArray[np.int8], records: Mapping[str, _Record], concat_fl: Mapping[str, int], fuse: bool
    ) -> None:
        self.codes, self.records, self.concat_fl, self.fuse = codes, records, concat_fl, fuse
        self.maps: dict[str, FeatureMap] = {}
        self.fractions: dict[str, int] = {}
        self.layers: list[Layer] = []

    def build(self, input_fl: int) -> Graph:
        self._add_map("data", (INPUT_SIZE, INPUT_SIZE, 3), input_fl)
        x = self._convolution("data", "conv1")
        for fire in sorted({name.split("/")[0] for name in self.concat_fl}):
            squeeze = next(name for name in self.records if name.startswith(f"{fire}/squeeze"))
            x = self._expand(self._convolution(x, squeeze), fire)
        parts = [self._mean(self._convolution(x, name, relu=False)) for name in ("conv10/split1", "conv10/split2")]
        pooled = self._concatenate("pool10", parts)
        self.maps["prob"] = FeatureMap("prob", *self.maps[pooled].shape, Quantisation(1 / 256, -128))
        softmax = Softmax("prob", (pooled,), "prob")
        return Graph("zynqnet", ("data",), ("prob",), tuple(self.layers), self.maps, (softmax,))

    def _expand(self, x: str, fire: str) -> str:
        """Both halves of a fire module and their concatenation."""
        name = f"{fire}/concat"
        target = int(self.concat_fl[name])
        parts = []
        for half in (f"{fire}/expand1x1", f"{fire}/expand3x3"):
            part = self._convolution(x, half, target if self.fuse else None)
            parts.append(part if self.fractions[part] == target else self._requantise(part, target))
        return self._concatenate(name, parts)

    def _convolution(self, x: str, name: str, target: int | None = None, *, relu: bool = True) -> str:
        """A convolution; ``target`` is the fractional length that its results are requantised to."""
        record, source = self.records[name], self.maps[x]
        out, depth, height, width = record.shape
        size = out * depth * height * width
        weights = self.codes[record.weight_offset : record.weight_offset + size].reshape(record.shape)
        biases = self.codes[record.bias_offset : record.bias_offset + out].astype(np.int64)
        fl_in, fl_out = self.fractions[x], record.fl_out
        right = fl_in + record.fl_weight - fl_out
        dropped = 0 if target is None else fl_out - target
        bias_right = record.fl_bias - record.fl_weight - fl_in
        if not (0 < right < 12 and 0 <= dropped <= 31 and bias_right >= 0):
            raise ModelError(f"layer '{name}': fractional lengths {fl_in}, {record} cannot be computed exactly")
        ties = (biases % (1 << bias_right)) == 0
        nudge = np.zeros(out, np.int32) if relu else ties.astype(np.int32)
        limit = int(numerics.rounding_divide_by_pot(INT8_MAX, dropped))
        stride, side = 2 if name in _STRIDE_2 else 1, height // 2
        extents = [(extent + 2 * side - height) // stride + 1 for extent in source.shape[:2]]
        self._add_map(name, (extents[0], extents[1], out), fl_out - dropped)
        self.layers.append(
            Convolution(
                name,
                (x,),
                name,
                weights=np.ascontiguousarray(weights.transpose(0, 2, 3, 1)),
                bias=(biases >> bias_right).astype(np.int32),
                weight_scales=np.array([2.0**-record.fl_weight], np.float32),
                multiplier=np.full(out, 1 << (31 - right), np.int32) + nudge,
                shift=np.full(out, -dropped, np.int32),
                stride=(stride, stride),
                padding=Padding(side, side, side, side) if side else NO_PADDING,
                activation_min=0 if relu else INT8_MIN,
                activation_max=limit,
            )
        )
        return name

    def _requantise(self, x: str, target: int) -> str:
        """The same values with fewer fractional bits, halves away from zero; the values are not negative."""
        source, right = self.maps[x], self.fractions[x] - target
        if right < 1:
            raise ModelError(f"layer '{x}': its concatenation has more fractional bits than it has")
        name, channels = f"{x}/requantised", source.channels
        self._add_map(name, source.shape, target)
        self.layers.append(
            Convolution(
                name,
                (x,),
                name,
                weights=np.ones((channels, 1, 1, 1), np.int8),
                bias=np.zeros(channels, np.int32),
                weight_scales=np.ones(1, np.float32),
                multiplier=np.full(channels, 1 << (31 - right), np.int32),
                shift=np.zeros(channels, np.int32),
                groups=channels,
            )
        )
        return name

    def _mean(self, x: str) -> str:
        """The mean of every channel, with ``MEAN_FRACTION`` bits: a depthwise convolution of ones."""
        source = self.maps[x]
        count = source.height * source.width
        right = count.bit_length() - 1 + self.fractions[x] - MEAN_FRACTION
        if count & (count - 1) or not 0 < right < 31:
            raise ModelError(f"layer '{x}': a mean of {count} values is no division by a power of two")
        name = f"{x}/mean"
        self._add_map(name, (1, 1, source.channels), MEAN_FRACTION)
        self.layers.append(
            Convolution(
                name,
                (x,),
                name,
                weights=np.ones((source.channels, source.height, source.width, 1), np.int8),
                bias=np.zeros(source.channels, np.int32),
                weight_scales=np.array([1 / count], np.float32),
                multiplier=np.full(source.channels, 1 << (31 - right), np.int32),
                shift=np.zeros(source.channels, np.int32),
                groups=source.channels,
            )
        )
        return name

    def _concatenate(self, name: str, parts: list[str]) -> str:
        first = self.maps[parts[0]]
        channels = sum(self.maps[part].channels for part in parts)
        self._add_map(name, (first.height, first.width, channels), self.fractions[parts[0]])
        self.layers.append(Concatenation(name, tuple(parts), name))
        return name

    def _add_map(self, name: str, shape: tuple[int, int, int], fraction: int) -> None:
        self.maps[name] = FeatureMap(name, *shape, Quantisation(2.0**-fraction, 0))
        self.fractions[name] = fraction
