"""LiteRT's reference int8 softmax, in fixed point.

``Qm.n`` below is a 32-bit number with m integer and n = 31 - m fractional bits. The exponential is a polynomial on
[-1/4, 0) times table values for the remaining bits; the reciprocal of the sum takes three Newton-Raphson steps. It runs
on the host, so clarity goes before speed.

Source: gemmlowp's ``fixedpoint.h`` (``exp_on_negative_values``, ``one_over_one_plus_x_for_x_in_0_1``), LiteRT's
``reference/softmax.h`` and ``quantization_util.cc``.
"""

from __future__ import annotations

from math import floor, frexp

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model.numerics import (
    INT32_MAX,
    INT32_MIN,
    rounding_divide_by_pot,
)
from emberline.model.numerics import saturating_rounding_doubling_high_mul as mul

_INPUT_BITS = 5  # integer bits of the exponential's argument: Q5.26
_SUM_BITS = 12  # integer bits of the sum of exponentials: Q12.19
# exp(-2**e) in Q0.31 for the bits of weight 2**e of the argument
_EXP_OF_BITS = {
    -2: 1672461947,
    -1: 1302514674,
    0: 790015084,
    1: 290630308,
    2: 39332535,
    3: 720401,
    4: 242,
}
_EXP_MINUS_EIGHTH = 1895147668  # exp(-1/8), Q0.31
_THIRD = 715827883  # 1/3, Q0.31
_48_OVER_17, _MINUS_32_OVER_17 = 1515870810, -1010580540  # Q2.29


def softmax_parameters(input_scale: float, beta: float) -> tuple[int, int, int]:
    """Multiplier and left shift from input codes to Q5.26, and the smallest difference that still counts.

    Raises ``ModelError`` where the reference kernel aborts: the input scale times beta must be above 2**-26.
    """
    real = min(float(beta) * float(input_scale) * (1 << (31 - _INPUT_BITS)), float(INT32_MAX))
    if not real > 1.0:
        raise ModelError(f"softmax needs an input scale times beta above 2**-26, not {input_scale} times {beta}")
    fraction, shift = frexp(real)
    multiplier = int(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    radius = floor(((1 << _INPUT_BITS) - 1) * (1 << (31 - _INPUT_BITS)) / (1 << shift))
    return multiplier, shift, -radius


def softmax(x: NDArray[np.int8], input_scale: float, beta: float = 1.0) -> NDArray[np.int8]:
    """Softmax over the last axis of int8 codes; the result has scale 1/256 and zero point -128."""
    multiplier, shift, minimum = softmax_parameters(input_scale, beta)
    difference = x.astype(np.int64) - x.max(axis=-1, keepdims=True)
    counts = difference >= minimum
    scaled = mul(np.where(counts, difference, 0) << shift, multiplier)
    exponentials = np.where(counts, _exp_of_negative(scaled), 0)
    total = np.where(counts, rounding_divide_by_pot(exponentials, _SUM_BITS), 0).sum(axis=-1, keepdims=True)
    leading_zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    reciprocal = _one_over_one_plus((total << leading_zeros) - (1 << 31))
    exponent = (_SUM_BITS - leading_zeros) + 31 - 8
    codes = rounding_divide_by_pot(mul(reciprocal, exponentials), exponent) - 128
    return np.where(counts, np.clip(codes, -128, 127), -128).astype(np.int8)


def _exp_of_negative(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """exp of Q5.26 values in -32..0, as Q0.31."""
    fraction_bits = 31 - _INPUT_BITS
    quarter = 1 << (fraction_bits - 2)
    low = (x & (quarter - 1)) - quarter
    result = _exp_near_zero(low << _INPUT_BITS)
    remainder = low - x
    for exponent, factor in _EXP_OF_BITS.items():
        result = np.where(remainder & (1 << (fraction_bits + exponent)), mul(result, factor), result)
    return np.where(x == 0, INT32_MAX, result)


def _exp_near_zero(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """exp of Q0.31 values in -1/4..0 (exclusive), Taylor's polynomial around -1/8."""
    t = x + (1 << 28)
    t2 = mul(t, t)
    t3, t4 = mul(t2, t), mul(t2, t2)
    tail = rounding_divide_by_pot(mul(rounding_divide_by_pot(t4, 2) + t3, _THIRD) + t2, 1)
    return _EXP_MINUS_EIGHTH + mul(_EXP_MINUS_EIGHTH, t + tail)


def _one_over_one_plus(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """1 / (1 + x) of Q0.31 values in 0..1, as Q0.31."""
    half_denominator = _round_half_sum(x, INT32_MAX)
    estimate = _48_OVER_17 + mul(half_denominator, _MINUS_32_OVER_17)
    for _ in range(3):
        correction = (1 << 29) - mul(half_denominator, estimate)
        estimate = estimate + _saturating_left_shift(mul(estimate, correction), 2)
    return _saturating_left_shift(estimate, 1)


def _round_half_sum(a: NDArray[np.int64], b: int) -> NDArray[np.int64]:
    """``(a + b) / 2``, halves away from zero."""
    return rounding_divide_by_pot(a + b, 1)


def _saturating_left_shift(x: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    shifted: NDArray[np.int64] = np.clip(x << bits, INT32_MIN, INT32_MAX)
    return shifted
