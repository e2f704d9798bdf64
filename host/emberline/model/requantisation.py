"""The integers that requantise a convolution's sums, as LiteRT's reference kernels define the result.

CONV_2D and DEPTHWISE_CONV_2D define it by integers: a 31-bit multiplier and two roundings. FULLY_CONNECTED multiplies
the accumulator by a double and rounds once, half away from zero. That is a step function of an integer, so it is
described completely by the accumulator at which each int8 code begins, and an integer rule with the same thresholds
is the same function. ``fully_connected`` finds such a rule and thereby proves it, or refuses.

Source: LiteRT's ``kernel_util.cc`` and ``reference/integer_ops/fully_connected.h`` (2.3.0; older releases
requantise fully connected layers like convolutions).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, frexp, trunc
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model import numerics
from emberline.model.layers import Convolution, Pair, Quantisation
from emberline.model.numerics import INT32_MAX, INT32_MIN


class Requantisation(NamedTuple):
    """Fields of a ``Convolution``: int32 ``[out]`` multipliers and shifts, and how often is rounded."""

    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    single_rounding: bool = False

    def is_used_by(self, layer: Convolution) -> bool:
        """Whether the layer requantises by just these integers."""
        return (
            np.array_equal(self.multiplier, layer.multiplier)
            and np.array_equal(self.shift, layer.shift)
            and self.single_rounding == layer.single_rounding
        )


def litert_requantisation(layer: Convolution, source: Quantisation, target: Quantisation) -> Requantisation:
    """What LiteRT derives for a layer from its scales, whatever the layer's own integers are."""
    if layer.fully_connected:
        clamp = (layer.activation_min, layer.activation_max)
        return fully_connected(source.scale, layer.weight_scales, target, clamp, layer.output_channels)
    return convolution(source.scale, layer.weight_scales, target.scale, layer.output_channels)


def convolution(
    input_scale: float, weight_scales: NDArray[np.float32], output_scale: float, channels: int
) -> Requantisation:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    return Requantisation(*numerics.convolution_multipliers(input_scale, weight_scales, output_scale, channels))


def fully_connected(
    input_scale: float, weight_scales: NDArray[np.float32], output: Quantisation, clamp: Pair, channels: int
) -> Requantisation:
    """FULLY_CONNECTED, per tensor or per channel: integers that give LiteRT's code for every int32 accumulator.

    A multiplier without a right shift is preferred: it rounds once anyway, so that ``single_rounding`` stays False.
    It has too few bits for small ratios; then 31 bits are used and rounded once.

    Raises ``ModelError`` where neither can equal LiteRT, which takes a scale ratio that is extremely small or large.
    """
    ratios = float(input_scale) * weight_scales.astype(np.float64) / float(output.scale)
    unique, positions = np.unique(ratios, return_inverse=True)
    codes = range(clamp[0] + 1 - output.zero_point, clamp[1] + 1 - output.zero_point)
    bounds = [_thresholds(float(ratio), codes) for ratio in unique]
    for single_rounding in (False, True):
        found = [_equivalent(float(ratio), steps, single_rounding) for ratio, steps in zip(unique, bounds, strict=True)]
        if None not in found:
            pairs = np.array(found, np.int32)[np.broadcast_to(positions.reshape(-1), (channels,))]
            return Requantisation(pairs[:, 0].copy(), pairs[:, 1].copy(), single_rounding)
    raise ModelError(f"no integers round like LiteRT's for the scale ratios {unique.min()} to {unique.max()}")


def _thresholds(ratio: float, codes: range) -> list[tuple[int, int]]:
    """``(code, accumulator)``: the smallest accumulator for which LiteRT's result is at least the code."""
    if not 0.0 <= ratio < float("inf"):
        raise ModelError(f"a scale ratio must be finite and not negative, not {ratio}")
    found = []
    for code in codes:
        guess = (code - 0.5) / ratio if ratio else float("inf") * (code - 0.5)
        accumulator = ceil(min(max(guess, INT32_MIN - 2.0), INT32_MAX + 2.0))
        if INT32_MIN <= accumulator <= INT32_MAX:
            while _round(accumulator * ratio) < code:
                accumulator += 1
            while _round((accumulator - 1) * ratio) >= code:
                accumulator -= 1
        found.append((code, accumulator))
    return found


def _round(value: float) -> int:
    """C's ``round``: halves away from zero."""
    whole = trunc(value)
    rest = value - whole
    return whole + (rest >= 0.5) - (rest <= -0.5)


def _equivalent(ratio: float, thresholds: list[tuple[int, int]], single_rounding: bool) -> Pair | None:
    """Multiplier and shift whose ``(acc * multiplier + half) >> (31 - shift)`` has just these thresholds, or None."""
    shift = frexp(ratio)[1]
    if not single_rounding:
        shift = max(shift, 0)
    if shift < -31 or ratio == 0:
        return (0, 0) if _equivalent_zero(thresholds) else None
    if shift > 30:
        return None
    one = 1 << (31 - shift)
    low, high = 0, INT32_MAX
    for factor, bound in _constraints(thresholds, one):
        if factor > 0:
            low = max(low, -(-bound // factor))
        elif factor < 0:
            high = min(high, bound // factor)
        elif bound > 0:
            return None
    return (min(max(round(ratio * one), low), high), shift) if low <= high else None


def _constraints(thresholds: list[tuple[int, int]], one: int) -> Iterator[tuple[int, int]]:
    """``(factor, bound)``: the multiplier times ``factor`` must be at least ``bound``.

    Two for each threshold: from there on the code is reached, one accumulator before it is not.
    """
    for code, accumulator in thresholds:
        needed = code * one - one // 2
        if accumulator <= INT32_MAX:
            yield max(accumulator, INT32_MIN), needed
        if accumulator > INT32_MIN:
            yield -min(accumulator - 1, INT32_MAX), 1 - needed


def _equivalent_zero(thresholds: list[tuple[int, int]]) -> bool:
    """Whether no accumulator reaches any code but 0."""
    return all(acc > INT32_MAX if code > 0 else acc <= INT32_MIN for code, acc in thresholds)
