"""LiteRT's rounded mean through the requantiser: exact, and proved for every sum before it is used."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from emberline.model.numerics import multiply_by_quantised_multiplier, rounded_mean, wrap_int32


class Division(NamedTuple):
    """``sum / count`` as ``sum << left_shift``, times ``multiplier / 2**31``, shifted right by ``right_shift``."""

    multiplier: int
    left_shift: int
    right_shift: int


@lru_cache(maxsize=256)
def divide_by(count: int) -> Division | None:
    """The requantisation that divides every sum of ``count`` int8 codes as LiteRT's AVERAGE_POOL does.

    None if there is none: every sum from ``-128 * count`` to ``127 * count`` is tried.
    """
    left_shift = 30 - (128 * count).bit_length()
    exponent = (count - 1).bit_length()
    # count is in (2**(exponent - 1), 2**exponent]: 2**exponent / count is in [1, 2).
    multiplier = ((1 << (31 + exponent)) // count + 1) // 2
    right_shift = left_shift + exponent - 1
    if left_shift < 0:
        return None
    if right_shift < 0:
        left_shift, right_shift = left_shift - right_shift, 0
    division = Division(multiplier, left_shift, right_shift)
    return division if _is_exact(division, count) else None


def _is_exact(division: Division, count: int) -> bool:
    if division.multiplier >= 1 << 31 or not 0 <= division.right_shift <= 31:
        return False
    sums = np.arange(-128 * count, 127 * count + 1)
    scaled = wrap_int32(sums << division.left_shift)
    results = multiply_by_quantised_multiplier(scaled, division.multiplier, -division.right_shift)
    return bool(np.array_equal(results, rounded_mean(sums, count)))
