"""The integer arithmetic of LiteRT's reference kernels (BUILTIN_REF), on numpy arrays.

Every function is exact: equal to the reference for all arguments in the ranges it states. The formulas and the tests
that hold them are listed in ``docs/numerics.md``. Derivations of integers from float scales happen once, in a front
end; what runs per value uses integers only.

Source: gemmlowp's ``fixedpoint.h`` and LiteRT's ``quantization_util.cc``, ``kernel_util.cc``, ``add.cc`` and the int8
functions under ``kernels/internal/reference``, all in their default double-rounding form.
"""

from __future__ import annotations

from math import frexp
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model.layers import INT8_MAX, INT8_MIN, Quantisation

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
Integers = NDArray[Any] | int
Activation = Literal["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]


class QuantisedMultiplier(NamedTuple):
    """A real multiplier as ``multiplier / 2**31 * 2**shift``; ``multiplier`` 0 or 2**30..2**31-1, ``shift`` -31..30."""

    multiplier: int
    shift: int


class AddParameters(NamedTuple):
    """What LiteRT derives for an ADD of two int8 maps (see ``model.layers.Add``)."""

    input_multipliers: tuple[int, int]
    input_shifts: tuple[int, int]
    output_multiplier: int
    output_shift: int
    left_shift: int = 20


# --- what runs per value


def saturating_rounding_doubling_high_mul(a: Integers, b: Integers) -> NDArray[np.int64]:
    """``a * b / 2**31``, halves rounded up (towards plus infinity), for int32 values ``a`` and ``b``.

    gemmlowp adds a nudge of the product's sign and truncates; the sum of both steps is one floor for either sign:
    ``(a * b + 2**30) >> 31``. The one product that does not fit, ``(-2**31)**2``, saturates to 2**31 - 1.
    """
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    product += 1 << 30
    product >>= 31
    saturated: NDArray[np.int64] = np.minimum(product, INT32_MAX)
    return saturated


def rounding_divide_by_pot(x: Integers, exponent: Integers) -> NDArray[np.int64]:
    """``x / 2**exponent``, halves rounded away from zero; ``exponent`` 0..31, one or per channel (last axis)."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    half = (np.int64(1) << exponent) >> 1
    rounded: NDArray[np.int64] = (x + (half - ((x < 0) & (half > 0)))) >> exponent
    return rounded


def multiply_by_quantised_multiplier(
    x: Integers, multiplier: Integers, shift: Integers, single_rounding: bool = False
) -> NDArray[np.int64]:
    """``x * multiplier / 2**31 * 2**shift`` with LiteRT's two roundings, or with one.

    Parameters:
        x: int32 values, channels last.
        multiplier: 0..2**31-1, one or per channel.
        shift: -31..30, positive shifts left, one or per channel. The left shift wraps to int32 as the reference does.
        single_rounding: round the whole product once, halves up; the same thing where ``shift`` is not negative.
    """
    left, right = np.maximum(shift, 0), np.maximum(np.negative(shift), 0)
    if np.any(left):
        x = wrap_int32(np.asarray(x, np.int64) << left)
    if single_rounding:
        total = np.asarray(right + 31, np.int64)
        once: NDArray[np.int64] = (np.asarray(x, np.int64) * multiplier + (np.int64(1) << (total - 1))) >> total
        return once
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(x, multiplier), right)


def requantise(
    accumulators: Integers,
    multiplier: Integers,
    shift: Integers,
    zero_point: int,
    minimum: int,
    maximum: int,
    single_rounding: bool = False,
) -> NDArray[np.int8]:
    """int32 accumulators, channels last, to int8: scale (see above), add the output zero point, clamp."""
    scaled = multiply_by_quantised_multiplier(accumulators, multiplier, shift, single_rounding)
    scaled += zero_point
    np.clip(scaled, minimum, maximum, out=scaled)
    return scaled.astype(np.int8)


def rounded_mean(total: Integers, count: Integers) -> NDArray[np.int64]:
    """``total / count``, halves away from zero: C's truncating ``(total ± count / 2) / count``; ``count`` positive."""
    total, count = np.asarray(total, np.int64), np.asarray(count, np.int64)
    magnitude = (np.abs(total) + count // 2) // count
    mean: NDArray[np.int64] = np.where(total > 0, magnitude, -magnitude)
    return mean


def wrap_int32(x: Integers) -> NDArray[np.int64]:
    """The low 32 bits of ``x`` as a signed number."""
    wrapped: NDArray[np.int64] = ((np.asarray(x, np.int64) + (1 << 31)) & 0xFFFF_FFFF) - (1 << 31)
    return wrapped


# --- what a front end derives once from the scales


def quantise_multiplier(real: float) -> QuantisedMultiplier:
    """The 31-bit fraction and the exponent of a real multiplier, 0 where it is too small to matter.

    Raises ``ModelError`` for a negative, infinite or missing number and for one of 2**30 or more.
    """
    if not 0.0 <= real < float("inf"):
        raise ModelError(f"a scale ratio must be finite and not negative, not {real}")
    fraction, shift = frexp(real)
    multiplier = int(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return QuantisedMultiplier(0, 0)
    if shift > 30:
        raise ModelError(f"scale ratio {real} is 2**30 or more")
    return QuantisedMultiplier(multiplier, shift)


def quantise_multipliers(reals: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """``quantise_multiplier`` of every value: the arrays ``multiplier`` and ``shift``."""
    pairs = [quantise_multiplier(float(real)) for real in reals]
    multipliers, shifts = zip(*pairs, strict=True)
    return np.array(multipliers, np.int32), np.array(shifts, np.int32)


def convolution_multipliers(
    input_scale: float, weight_scales: NDArray[np.float32], output_scale: float, channels: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multiplier and shift ``[channels]`` of CONV_2D and DEPTHWISE_CONV_2D.

    ``double(input_scale) * double(weight_scale) / double(output_scale)``, in this order.
    """
    reals = float(input_scale) * weight_scales.astype(np.float64) / float(output_scale)
    return quantise_multipliers(np.broadcast_to(reals, (channels,)))


def add_parameters(scale_a: float, scale_b: float, output_scale: float) -> AddParameters:
    """The integers of ADD: both inputs are brought to twice the larger scale, with 20 guard bits.

    Raises ``ModelError`` where LiteRT gives up: an output scale so small that the result would be scaled up.
    """
    twice_larger = 2.0 * max(scale_a, scale_b)
    a, b = quantise_multiplier(scale_a / twice_larger), quantise_multiplier(scale_b / twice_larger)
    output = quantise_multiplier(twice_larger / ((1 << 20) * float(output_scale)))
    if output.shift > 0 or twice_larger >= (1 << 20) * output_scale:
        raise ModelError(f"output scale {output_scale} is too small for an ADD of scales {scale_a} and {scale_b}")
    return AddParameters((a.multiplier, b.multiplier), (a.shift, b.shift), output.multiplier, output.shift)


def mean_multiplier(input_scale: float, output_scale: float, count: int) -> QuantisedMultiplier:
    """The multiplier of MEAN over ``count`` values, applied to the sum of ``x - zero point``.

    LiteRT divides the 31-bit multiplier of the two scales by ``count`` and keeps what bits it can, so the result may
    lie below 2**30 and is not what ``quantise_multiplier`` of the quotient gives.
    """
    multiplier, shift = quantise_multiplier(float(input_scale) / float(output_scale))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    return QuantisedMultiplier((multiplier << extra) // count, shift - extra)


def activation_range(activation: Activation, output: Quantisation) -> tuple[int, int]:
    """The int8 clamp of a fused activation function."""

    def quantise(value: float) -> int:
        quotient = float(np.float32(value) / np.float32(output.scale))
        if abs(quotient) > INT32_MAX / 2:
            raise ModelError(f"scale {output.scale} is too small for a fused {activation}")
        return output.zero_point + int(np.copysign(np.floor(abs(quotient) + 0.5), quotient))

    low, high = {
        "NONE": (None, None),
        "RELU": (0.0, None),
        "RELU6": (0.0, 6.0),
        "RELU_N1_TO_1": (-1.0, 1.0),
    }[activation]
    minimum = INT8_MIN if low is None else max(INT8_MIN, quantise(low))
    maximum = INT8_MAX if high is None else min(INT8_MAX, quantise(high))
    return minimum, maximum
