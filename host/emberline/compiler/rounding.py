"""Pass: a convolution's requantisation as the requantiser computes it.

The requantiser shifts left, multiplies and rounds, shifts right and rounds again: LiteRT's two roundings as they are.
A layer that rounds once has no such form in general. But its sums are far from filling 32 bits, so that the left shift
can give the first rounding many fractional bits, and only the sums at which the result changes matter: each of them
bounds the multiplier from above or below. A multiplier within all bounds gives the same result for every sum.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.checks import refuse
from emberline.model.graph import INT8_MAX, INT8_MIN, Convolution
from emberline.model.numerics import INT32_MAX


class Scaling(NamedTuple):
    """int64 ``[out]`` in the ranges of ``isa.PARAMETERS``."""

    multiplier: NDArray[np.int64]
    left_shift: NDArray[np.int64]
    right_shift: NDArray[np.int64]


def plan_scaling(layer: Convolution, source_zero: int, target_zero: int) -> Scaling:
    """The parameters of a layer; ``CompileError`` for one that rounds once and has no equivalent."""
    multiplier, shift = layer.multiplier.astype(np.int64), layer.shift.astype(np.int64)
    scaling = Scaling(multiplier, np.maximum(shift, 0), np.maximum(-shift, 0))
    if not layer.single_rounding:
        return scaling
    low, high = sum_range(layer, source_zero)
    codes = range(layer.activation_min + 1 - target_zero, layer.activation_max + 1 - target_zero)
    for channel in np.flatnonzero(shift < 0):
        found = _scale_channel(
            int(multiplier[channel]), int(shift[channel]), codes, int(low[channel]), int(high[channel])
        )
        if found is None:
            raise refuse(layer, f"output channel {channel}: its single rounding has no equivalent with two")
        for array, value in zip(scaling, found, strict=True):
            array[channel] = value
    return scaling


@lru_cache(maxsize=1 << 16)
def _scale_channel(multiplier: int, shift: int, codes: range, low: int, high: int) -> tuple[int, int, int] | None:
    """`_two_roundings` of a channel. Kept, as a network is lowered again and again for the best schedule."""
    steps = _steps(multiplier, shift, codes, low, high)
    return _two_roundings(multiplier, shift, steps, max(abs(low), abs(high)).bit_length())


def sum_range(layer: Convolution, source_zero: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest sum, bias included, of every output channel."""
    flat = layer.weights.reshape(layer.output_channels, -1).astype(np.int64)
    positive, negative = np.maximum(flat, 0).sum(axis=1), np.minimum(flat, 0).sum(axis=1)
    down, up = INT8_MIN - source_zero, INT8_MAX - source_zero
    return layer.bias + positive * down + negative * up, layer.bias + positive * up + negative * down


class _Step(NamedTuple):
    """From the sum ``first`` on, and not before, the result is at least ``code``; None: never among the sums."""

    code: int
    first: int | None
    last_before: int | None


def _steps(multiplier: int, shift: int, codes: range, low: int, high: int) -> list[_Step]:
    """Where ``(sum * multiplier + half) >> (31 - shift)`` reaches each code, for sums from low to high."""
    one = 1 << (31 - shift)
    steps = []
    for code in codes:
        needed = code * one - one // 2
        if multiplier:
            first = -(-needed // multiplier)
        else:
            first = low if needed <= 0 else high + 1
        steps.append(
            _Step(code, max(first, low) if first <= high else None, min(first - 1, high) if first > low else None)
        )
    return steps


def _two_roundings(multiplier: int, shift: int, steps: list[_Step], widest: int) -> tuple[int, int, int] | None:
    """Multiplier, left and right shift with these steps, the finest first rounding that there is; or None."""
    for left in range(min(31 - widest, 31 + shift), -1, -1):
        right = left - shift
        least, most = 0, INT32_MAX
        for code, first, last_before in steps:
            # The result is at least `code` where the first rounding gives at least this.
            threshold = code * (1 << right) - ((1 << right) >> 1) + (right > 0 and code <= 0)
            bound = (threshold << 31) - (1 << 30)
            if first is not None:
                least, most = _at_least(first << left, bound, least, most)
            if last_before is not None:
                least, most = _at_least(-(last_before << left), 1 - bound, least, most)
        if least <= most:
            return min(max(multiplier, least), most), left, right
    return None


def _at_least(factor: int, bound: int, least: int, most: int) -> tuple[int, int]:
    """The interval of multipliers, narrowed to those for which ``factor * multiplier >= bound``."""
    if factor > 0:
        return max(least, -(-bound // factor)), most
    if factor < 0:
        return least, min(most, bound // factor)
    return (least, most) if bound <= 0 else (1, 0)
