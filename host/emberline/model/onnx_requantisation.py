"""The integers that requantise a sum as onnxruntime does: in float32, rounded once, halves to even.

onnxruntime multiplies a sum by a float32 scale and rounds the float32 product. That is a step function of an integer,
described by the sum at which each code begins. An integer rule with one rounding that has the same steps is the same
function; there nearly always is one. Where float32's own rounding bends the steps off every straight line, the nearest
rule is taken: it differs in sums that lie next to such a step.

Source: onnxruntime's ``qlinearconv.cc`` and MLAS's ``quantize.cpp``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model.layers import Pair, Quantisation
from emberline.model.requantisation import Requantisation

_LARGEST_SUM = 1 << 29
_NEIGHBOURS = np.arange(-3, 4)
_LIMIT = (1 << 31) - 1


class Approximated(NamedTuple):
    """A rule, and for how many channels it is not onnxruntime's for every sum."""

    rule: Requantisation
    inexact_channels: int


def convolution_ratios(
    input_scale: float, weight_scales: NDArray[np.float32], output_scale: float
) -> NDArray[np.float32]:
    """What onnxruntime multiplies a convolution's sums by."""
    ratios: NDArray[np.float32] = np.float32(input_scale) * weight_scales.astype(np.float32) / np.float32(output_scale)
    return ratios


def requantisation(ratios: NDArray[np.float32], output: Quantisation, clamp: Pair) -> Approximated:
    """The rule for every channel's ratio.

    Raises ``ModelError`` for a ratio that is negative, not finite, or outside 2**-30 to 2**20.
    """
    if not (np.isfinite(ratios).all() and (ratios >= 0).all()):
        raise ModelError(f"scale ratios must be finite and not negative, not {ratios.min()} to {ratios.max()}")
    unique, positions = np.unique(ratios, return_inverse=True)
    if unique[-1] >= 1 << 20 or np.any((unique > 0) & (unique < 2.0**-30)):
        raise ModelError(f"scale ratios {unique[0]} to {unique[-1]} are outside 2**-30 to 2**20")
    codes = np.arange(clamp[0] + 1 - output.zero_point, clamp[1] + 1 - output.zero_point)
    multipliers, shifts, exact = zip(*(_rule(ratio, codes) for ratio in unique), strict=True)
    positions = positions.reshape(-1)
    return Approximated(
        Requantisation(
            np.array(multipliers, np.int32)[positions], np.array(shifts, np.int32)[positions], single_rounding=True
        ),
        int((~np.array(exact)[positions]).sum()),
    )


def round_product(sums: NDArray[np.int64], ratio: np.float32) -> NDArray[np.int64]:
    """onnxruntime's result for these sums, before zero point and clamp."""
    rounded: NDArray[np.int64] = np.rint(sums.astype(np.float32) * np.float32(ratio)).astype(np.int64)
    return rounded


def _rule(ratio: np.float32, codes: NDArray[np.int64]) -> tuple[int, int, bool]:
    """Multiplier, shift, and whether ``(sum * multiplier + half) >> (31 - shift)`` is right for every sum."""
    if ratio == 0:
        return 0, 0, True
    fraction, shift = np.frexp(np.float64(ratio))
    nearest = int(fraction * (1 << 31))
    shift = int(shift)
    first, codes = _first_sums(ratio, codes)
    one = 1 << (31 - shift)
    needed = codes * one - one // 2
    low, high = 0, _LIMIT
    for factors, bounds in ((first, needed), (1 - first, 1 - needed)):
        up, down = factors > 0, factors < 0
        low = max(low, int((-(-bounds[up] // factors[up])).max(initial=0)))
        high = min(high, int((bounds[down] // factors[down]).min(initial=_LIMIT)))
        if np.any(bounds[factors == 0] > 0):
            low = high + 1
    if low > high:
        return nearest, shift, False
    return min(max(nearest, low), high), shift, True


def _first_sums(ratio: np.float32, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The smallest sum that gives at least each code; codes that no sum within 30 bits reaches are left out."""
    guesses = np.ceil((codes - 0.5) / np.float64(ratio))
    within = np.abs(guesses) < _LARGEST_SUM
    codes = codes[within]
    # float32 has 24 bits: the step may lie some sums beside the guess where sums are larger than that.
    spread = np.maximum(np.abs(guesses[within]).astype(np.int64) >> 23, 1)
    candidates = guesses[within].astype(np.int64)[:, None] + _NEIGHBOURS * spread[:, None]
    reached = round_product(candidates, ratio) >= codes[:, None]
    high = candidates[np.arange(len(codes)), reached.argmax(axis=1)]
    low = high - spread
    while np.any(high - low > 1):
        middle = (low + high) // 2
        enough = round_product(middle, ratio) >= codes
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    return high, codes
