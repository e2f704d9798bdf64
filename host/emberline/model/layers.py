"""The parts of a quantised network: feature maps and layers, each checking itself.

Everything is int8 in LiteRT's sense: an activation is ``real = scale * (code - zero_point)`` with one scale and zero
point per feature map; weights are symmetric (zero point 0). Frames are NHWC with the batch stripped, a vector of C
values is a 1x1xC map. All integers that the arithmetic needs (multipliers, shifts, clamps, resolved padding) are
stored in the layers, so that a front end derives them once and nobody has to know which file format a network came
from. Zero points are stored once, in the feature maps. The rules are in ``docs/numerics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError

INT8_MIN, INT8_MAX = -128, 127
Pair = tuple[int, int]


class Padding(NamedTuple):
    """Rows and columns added around a map; explicit, never "SAME"."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


NO_PADDING = Padding()


@dataclass(frozen=True)
class Quantisation:
    """``real = scale * (code - zero_point)``.

    Parameters: ``scale`` is positive and a float32 value held as a Python float; ``zero_point`` is in -128..127.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and self.scale > 0) or float(np.float32(self.scale)) != self.scale:
            raise ModelError(f"scale must be a positive float32 value, not {self.scale!r}")
        if not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise ModelError(f"zero point must be in -128..127, not {self.zero_point}")


@dataclass(frozen=True)
class FeatureMap:
    """An int8 activation tensor ``[height, width, channels]`` (batch 1 stripped)."""

    name: str
    height: int
    width: int
    channels: int
    quantisation: Quantisation

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ModelError(f"feature map '{self.name}': every dimension must be at least 1, not {self.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)

    @property
    def size(self) -> int:
        """Values in the map, which is also its size in bytes."""
        return self.height * self.width * self.channels


Maps = Mapping[str, FeatureMap]


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation: reads ``inputs``, writes ``output`` (names of feature maps).

    ``name`` is unique and is what error messages print. Layers are equal when all fields are, arrays by value.
    """

    name: str
    inputs: tuple[str, ...]
    output: str

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((type(self), self.name, self.output))

    def check(self, maps: Maps) -> None:
        """Raise ``ModelError`` naming the layer if it does not fit its feature maps."""
        raise NotImplementedError

    def macs(self, maps: Maps) -> int:
        """Multiply-accumulates of one frame, padding counted as if computed."""
        return 0

    @property
    def parameter_count(self) -> int:
        """Trained values: weights and biases."""
        return 0

    def _refuse(self, reason: str) -> ModelError:
        return ModelError(f"layer '{self.name}': {reason}")

    def _require_inputs(self, minimum: int, maximum: int | None = None) -> None:
        if len(self.inputs) < minimum or (maximum is not None and len(self.inputs) > maximum):
            raise self._refuse(f"{type(self).__name__} cannot have {len(self.inputs)} inputs")

    def _require_output(self, maps: Maps, shape: tuple[int, int, int]) -> None:
        if maps[self.output].shape != shape:
            raise self._refuse(f"output '{self.output}' should be {shape}, not {maps[self.output].shape}")

    def _require_quantisation_kept(self, maps: Maps, tolerance: float) -> None:
        after = maps[self.output].quantisation
        for before in (maps[name].quantisation for name in self.inputs):
            if before.zero_point != after.zero_point or abs(before.scale - after.scale) > tolerance:
                raise self._refuse(f"input and output must share one quantisation, not {before} and {after}")


@dataclass(frozen=True, eq=False)
class _Clamped(Layer):
    """A layer whose int8 results are clamped to ``activation_min..activation_max`` (fused ReLU, ReLU6, …)."""

    activation_min: int = field(default=INT8_MIN, kw_only=True)
    activation_max: int = field(default=INT8_MAX, kw_only=True)

    def __post_init__(self) -> None:
        if not INT8_MIN <= self.activation_min <= self.activation_max <= INT8_MAX:
            raise self._refuse(f"activation range {self.activation_min}..{self.activation_max} is not within int8")


@dataclass(frozen=True, eq=False)
class Convolution(_Clamped):
    """Convolution; grouped, depthwise (``groups`` == input channels) and fully connected layers too.

    ``acc[o] = bias[o] + Σ (x - input zero point) * weights[o]`` in int32, then requantised by ``multiplier[o]`` and
    ``shift[o]``, plus the output zero point, clamped. Padding adds values equal to the input's zero point. Output
    channel ``o`` reads the input channels of group ``o // (out / groups)``.

    Parameters:
        weights: int8 ``[out, kernel_h, kernel_w, in / groups]``.
        bias: int32 ``[out]``.
        weight_scales: float32 ``[out]``, or ``[1]`` for one scale per tensor.
        multiplier: int32 ``[out]``, 0..2**31-1: the fraction of the real multiplier, times 2**31. Normalised (0, or at
            least 2**30) except in fully connected layers and in a MEAN, which is a depthwise convolution of ones.
        shift: int32 ``[out]``, its exponent, -31..30: positive shifts left (LiteRT's sign).
        stride, dilation: (y, x).
        fully_connected: the kernel covers the whole unpadded input, in NHWC order. The arithmetic is that of any other
            convolution; LiteRT only defines the rounding of a fully connected layer differently (``requantisation``).
        single_rounding: requantise with one rounding, halves up, instead of LiteRT's two.
    """

    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    weight_scales: NDArray[np.float32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Padding = NO_PADDING
    groups: int = 1
    fully_connected: bool = False
    single_rounding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights.ndim != 4 or min(self.weights.shape) < 1:
            raise self._refuse(f"weights must be [out, kernel_h, kernel_w, in / groups], not {self.weights.shape}")
        out = self.weights.shape[0]
        _freeze(self, "weights", np.int8, self.weights.shape)
        for name in ("bias", "multiplier", "shift"):
            _freeze(self, name, np.int32, (out,))
        _freeze(self, "weight_scales", np.float32, (1,) if self.weight_scales.shape == (1,) else (out,))
        if not (np.isfinite(self.weight_scales).all() and (self.weight_scales >= 0).all()):
            raise self._refuse("weight scales must be finite and not negative")
        if self.multiplier.min() < 0:
            raise self._refuse("multipliers must not be negative")
        if self.shift.min() < -31 or self.shift.max() > 30:
            raise self._refuse(f"shifts must be in -31..30, not {self.shift.min()}..{self.shift.max()}")
        if self.groups < 1 or out % self.groups:
            raise self._refuse(f"{out} output channels cannot be split into {self.groups} groups")
        _check_window(self, self.kernel, self.stride, self.dilation, self.padding)

    @property
    def kernel(self) -> Pair:
        return (self.weights.shape[1], self.weights.shape[2])

    @property
    def output_channels(self) -> int:
        return int(self.weights.shape[0])

    def is_depthwise(self, maps: Maps) -> bool:
        """Whether each output channel reads one input channel (of several)."""
        return self.groups > 1 and self.groups == maps[self.inputs[0]].channels

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        x = maps[self.inputs[0]]
        if x.channels != self.weights.shape[3] * self.groups:
            raise self._refuse(f"{x.channels} input channels, but weights for {self.weights.shape[3] * self.groups}")
        height, width = _windows(self, x, self.kernel, self.stride, self.padding, self.dilation)
        self._require_output(maps, (height, width, self.output_channels))
        covers = self.kernel == (x.height, x.width) and not any(self.padding) and self.groups == 1
        if self.fully_connected and not covers:
            raise self._refuse(f"fully connected, but its kernel {self.kernel} does not cover its input {x.shape}")

    def macs(self, maps: Maps) -> int:
        return maps[self.output].height * maps[self.output].width * int(self.weights.size)

    @property
    def parameter_count(self) -> int:
        return int(self.weights.size + self.bias.size)


@dataclass(frozen=True, eq=False)
class Add(_Clamped):
    """Elementwise sum of two maps of one shape, each with its own quantisation.

    ``scaled[k] = requantise((x[k] - zero point[k]) << left_shift, input_multipliers[k], input_shifts[k])``, then
    ``requantise(scaled[0] + scaled[1], output_multiplier, output_shift)``, plus the output zero point, clamped.
    Multipliers and shifts as in ``Convolution``; LiteRT's input shifts are never positive.
    """

    input_multipliers: Pair
    input_shifts: Pair
    output_multiplier: int
    output_shift: int
    left_shift: int = 20

    def check(self, maps: Maps) -> None:
        self._require_inputs(2, 2)
        for name in self.inputs:
            if maps[name].shape != maps[self.output].shape:
                raise self._refuse(f"cannot add '{name}' {maps[name].shape} to a {maps[self.output].shape} map")


@dataclass(frozen=True, eq=False)
class Concatenation(Layer):
    """The inputs' channels one after another. One quantisation for all, as LiteRT demands for int8."""

    def check(self, maps: Maps) -> None:
        self._require_inputs(1)
        height, width, _ = maps[self.inputs[0]].shape
        for name in self.inputs:
            if maps[name].shape[:2] != (height, width):
                raise self._refuse(f"input '{name}' is {maps[name].shape}, the first one {height}x{width}")
        self._require_output(maps, (height, width, sum(maps[name].channels for name in self.inputs)))
        self._require_quantisation_kept(maps, tolerance=0.0)


@dataclass(frozen=True, eq=False)
class _Pool(_Clamped):
    """A window slides over every channel; padding never takes part. Input and output share one quantisation."""

    window: Pair
    stride: Pair
    padding: Padding = NO_PADDING

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_window(self, self.window, self.stride, (1, 1), self.padding)

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        x = maps[self.inputs[0]]
        height, width = _windows(self, x, self.window, self.stride, self.padding)
        self._require_output(maps, (height, width, x.channels))
        self._require_quantisation_kept(maps, tolerance=1e-6)
        if max(self.padding[:2]) >= self.window[0] or max(self.padding[2:]) >= self.window[1]:
            raise self._refuse(f"padding {tuple(self.padding)} leaves a window {self.window} without values")


class AveragePool(_Pool):
    """Mean over the values inside the map, rounded half away from zero."""


class MaxPool(_Pool):
    """Maximum over the values inside the map."""


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """A frame of values equal to the zero point, where it could not be folded into a convolution."""

    padding: Padding

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        x, p = maps[self.inputs[0]], self.padding
        if min(p) < 0:
            raise self._refuse(f"padding must not be negative, not {tuple(p)}")
        self._require_output(maps, (x.height + p.top + p.bottom, x.width + p.left + p.right, x.channels))
        self._require_quantisation_kept(maps, tolerance=0.0)


@dataclass(frozen=True, eq=False)
class Select(Layer):
    """Channels in another order: output channel ``i`` is input channel ``channels[i]``.

    A channel shuffle permutes, a split leaves some out; a channel may also appear more than once.
    """

    channels: tuple[int, ...]

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        x = maps[self.inputs[0]]
        if not self.channels or min(self.channels) < 0 or max(self.channels) >= x.channels:
            raise self._refuse(f"its channels must be some of 0..{x.channels - 1}, not {self.channels}")
        self._require_output(maps, (x.height, x.width, len(self.channels)))
        self._require_quantisation_kept(maps, tolerance=0.0)


@dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Every pixel repeated ``factor`` (y, x) times: nearest neighbour."""

    factor: Pair

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        if min(self.factor) < 1:
            raise self._refuse(f"factors must be at least 1, not {self.factor}")
        x = maps[self.inputs[0]]
        self._require_output(maps, (x.height * self.factor[0], x.width * self.factor[1], x.channels))
        self._require_quantisation_kept(maps, tolerance=0.0)


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Host layer: HxWxC becomes 1x1xHWC, the same values in the same (NHWC) order."""

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        self._require_output(maps, (1, 1, maps[self.inputs[0]].size))
        self._require_quantisation_kept(maps, tolerance=0.0)


@dataclass(frozen=True, eq=False)
class Softmax(Layer):
    """Host layer: softmax over the channels of every pixel; the output is ``scale`` 1/256, zero point -128."""

    beta: float = 1.0

    def check(self, maps: Maps) -> None:
        self._require_inputs(1, 1)
        if maps[self.output].channels >= 4096:
            raise self._refuse("the fixed-point sum of a softmax holds fewer than 4096 channels")
        self._require_output(maps, maps[self.inputs[0]].shape)
        if maps[self.output].quantisation != Quantisation(1 / 256, -128):
            raise self._refuse(f"output must have scale 1/256, zero point -128, not {maps[self.output].quantisation}")


ACCELERATOR_LAYERS = (Convolution, Add, Concatenation, AveragePool, MaxPool, Pad, Select, Upsample)
HOST_LAYERS = (Flatten, Softmax)


def output_extent(size: int, window: int, stride: int, padding: int, dilation: int = 1) -> int:
    """How many windows fit along one axis; ``padding`` is the sum of both sides. Not positive: none."""
    return (size + padding - dilation * (window - 1) - 1) // stride + 1


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


def _freeze(layer: Layer, name: str, dtype: type, shape: tuple[int, ...]) -> None:
    """Replace an array field by a read-only view, after checking its type and shape."""
    array = getattr(layer, name)
    if array.dtype != dtype or array.shape != shape:
        raise layer._refuse(f"{name} must be {np.dtype(dtype)} {shape}, not {array.dtype} {array.shape}")
    array = array.view()
    array.flags.writeable = False
    object.__setattr__(layer, name, array)


def _check_window(layer: Layer, window: Pair, stride: Pair, dilation: Pair, padding: Padding) -> None:
    if min(*window, *stride, *dilation) < 1 or min(padding) < 0:
        raise layer._refuse(f"impossible window {window}, stride {stride}, dilation {dilation}, {padding}")


def _windows(
    layer: Layer, x: FeatureMap, window: Pair, stride: Pair, padding: Padding, dilation: Pair = (1, 1)
) -> Pair:
    height = output_extent(x.height, window[0], stride[0], padding.top + padding.bottom, dilation[0])
    width = output_extent(x.width, window[1], stride[1], padding.left + padding.right, dilation[1])
    if min(height, width) < 1:
        raise layer._refuse(f"window {window} with dilation {dilation} does not fit input {x.shape} with {padding}")
    return height, width
