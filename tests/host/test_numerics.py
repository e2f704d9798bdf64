"""The integer rules against literal transcriptions of gemmlowp's and LiteRT's scalar C++."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emberline.errors import ModelError
from emberline.model import numerics, requantisation
from emberline.model.graph import Quantisation
from emberline.model.numerics import INT32_MAX, INT32_MIN

INT32 = st.integers(INT32_MIN, INT32_MAX) | st.sampled_from([INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX])
MULTIPLIERS = st.integers(0, INT32_MAX) | st.sampled_from([0, 1, 1 << 30, INT32_MAX])


def c_divide(a: int, b: int) -> int:
    """C's truncating division."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def gemmlowp_high_mul(a: int, b: int) -> int:
    if a == b == INT32_MIN:
        return INT32_MAX
    nudge = 1 << 30 if a * b >= 0 else 1 - (1 << 30)
    return c_divide(a * b + nudge, 1 << 31)


def gemmlowp_divide_by_pot(x: int, exponent: int) -> int:
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if (x & mask) > threshold else 0)


def to_int32(x: int) -> int:
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


@given(INT32, INT32)
@example(INT32_MIN, INT32_MIN)
@example(-1, 1 << 30)
@example(-3, 1 << 30)
def test_high_mul_is_gemmlowps(a: int, b: int) -> None:
    assert numerics.saturating_rounding_doubling_high_mul(a, b) == gemmlowp_high_mul(a, b)


@given(INT32, st.integers(0, 31))
@example(-8, 4)
@example(-1, 0)
def test_divide_by_pot_is_gemmlowps(x: int, exponent: int) -> None:
    assert numerics.rounding_divide_by_pot(x, exponent) == gemmlowp_divide_by_pot(x, exponent)


@given(INT32, MULTIPLIERS, st.integers(-31, 30))
def test_multiply_rounds_twice_and_wraps_the_left_shift(x: int, multiplier: int, shift: int) -> None:
    expected = gemmlowp_divide_by_pot(gemmlowp_high_mul(to_int32(x << max(shift, 0)), multiplier), max(-shift, 0))
    assert numerics.multiply_by_quantised_multiplier(x, multiplier, shift) == expected


@given(INT32, MULTIPLIERS, st.integers(-31, 0))
def test_single_rounding_is_half_up_of_the_product(x: int, multiplier: int, shift: int) -> None:
    exact = Fraction(x * multiplier, 1 << (31 - shift))
    actual = numerics.multiply_by_quantised_multiplier(x, multiplier, shift, single_rounding=True)
    assert actual == (exact + Fraction(1, 2)).__floor__()


@given(INT32, MULTIPLIERS, st.integers(0, 30))
def test_both_roundings_agree_without_a_right_shift(x: int, multiplier: int, shift: int) -> None:
    twice, once = (numerics.multiply_by_quantised_multiplier(x, multiplier, shift, once) for once in (False, True))
    assert twice == once


def test_parameters_are_applied_per_channel() -> None:
    x = np.array([[1000, 1000, -1000], [7, -7, 7]])
    multiplier, shift = np.array([1 << 30, 1 << 30, 3 << 29]), np.array([0, -2, 1])
    columns = [numerics.multiply_by_quantised_multiplier(x[:, c], int(multiplier[c]), int(shift[c])) for c in range(3)]
    expected = np.stack(columns, axis=1).tolist()
    assert numerics.multiply_by_quantised_multiplier(x, multiplier, shift).tolist() == expected


def test_requantise_adds_the_zero_point_and_clamps() -> None:
    sums = np.array([[-4000, -3, 0, 3, 4000]])
    result = numerics.requantise(sums, 1 << 30, 0, 10, -5, 120)
    assert result.dtype == np.int8
    assert result.tolist() == [[-5, 9, 10, 12, 120]]  # -1.5 -> -1 and 1.5 -> 2: halves up


@given(st.integers(-(1 << 24), 1 << 24), st.integers(1, 1 << 12))
@example(-3, 2)
@example(3, 2)
def test_rounded_mean_is_cs(total: int, count: int) -> None:
    nudge = count // 2 if total > 0 else -(count // 2)
    assert numerics.rounded_mean(total, count) == c_divide(total + nudge, count)


@given(st.integers(-(1 << 40), 1 << 40))
def test_wrap_keeps_the_low_32_bits(x: int) -> None:
    assert numerics.wrap_int32(x) == to_int32(x)


# --- derivations


@given(st.floats(2.0**-31, 2.0**29))
def test_quantised_multiplier_is_normalised_and_close(real: float) -> None:
    multiplier, shift = numerics.quantise_multiplier(real)
    assert 1 << 30 <= multiplier <= INT32_MAX
    assert abs(Fraction(multiplier, 1 << 31) * Fraction(2) ** shift / Fraction(real) - 1) <= Fraction(1, 1 << 31)


def test_quantised_multiplier_examples() -> None:
    assert numerics.quantise_multiplier(1.0) == (1 << 30, 1)
    assert numerics.quantise_multiplier(0.0) == (0, 0)
    assert numerics.quantise_multiplier(1 - 2**-40) == (1 << 30, 1)  # the fraction rounds up to 1
    assert numerics.quantise_multiplier(2.0**-32) == (1 << 30, -31)
    assert numerics.quantise_multiplier(2.0**-33) == (0, 0)


@pytest.mark.parametrize("real", [-1.0, float("inf"), float("nan"), 2.0**30])
def test_quantised_multiplier_errors(real: float) -> None:
    with pytest.raises(ModelError, match="scale ratio"):
        numerics.quantise_multiplier(real)


def test_add_parameters_bring_both_inputs_to_twice_the_larger_scale() -> None:
    parameters = numerics.add_parameters(0.25, 0.5, 0.5)
    assert parameters == ((1 << 30, 1 << 30), (-1, 0), 1 << 30, -18, 20)
    with pytest.raises(ModelError, match="too small for an ADD"):
        numerics.add_parameters(0.25, 0.5, 2.0**-20)


def test_activation_ranges() -> None:
    q = Quantisation(0.05000000074505806, -10)
    assert numerics.activation_range("NONE", q) == (-128, 127)
    assert numerics.activation_range("RELU", q) == (-10, 127)
    assert numerics.activation_range("RELU6", q) == (-10, 110)
    assert numerics.activation_range("RELU_N1_TO_1", q) == (-30, 10)
    assert numerics.activation_range("RELU6", Quantisation(0.0078125, -128)) == (-128, 127)
    with pytest.raises(ModelError, match="too small for a fused RELU6"):
        numerics.activation_range("RELU6", Quantisation(2.0**-40, 0))


def test_mean_multiplier_divides_the_31_bits() -> None:
    multiplier, shift = numerics.quantise_multiplier(0.7)
    assert numerics.mean_multiplier(0.7, 1.0, 1) == (multiplier, shift)
    assert numerics.mean_multiplier(0.7, 1.0, 49) == ((multiplier << 5) // 49, shift - 5)


# --- fully connected layers


def litert_fully_connected(accumulator: int, ratio: float) -> int:
    """``std::round(double(acc) * ratio)``."""
    value = Fraction(float(accumulator) * ratio)
    magnitude = (abs(value) + Fraction(1, 2)).__floor__()
    return magnitude if value >= 0 else -magnitude


RATIOS = st.floats(2.0**-16, 2.0) | st.integers(-16, 1).map(lambda exponent: 2.0**exponent)


@given(RATIOS, st.integers(-128, 127), st.data())
def test_fully_connected_integers_equal_litert(ratio: float, zero_point: int, data: st.DataObject) -> None:
    scale = np.float32(ratio)
    output = Quantisation(1.0, zero_point)
    rule = requantisation.fully_connected(1.0, np.array([scale]), output, (-128, 127), 1)
    codes = data.draw(st.lists(st.integers(-130, 129), max_size=20))
    near = [round((code - zero_point + half) / float(scale)) for code in codes for half in (-0.5, 0.0)]
    accumulators = [value + offset for value in near for offset in (-1, 0, 1)]
    accumulators += data.draw(st.lists(st.integers(-(1 << 29), 1 << 29)))
    sums = np.array(accumulators, np.int64).reshape(-1, 1)
    actual = numerics.requantise(sums, *rule[:2], zero_point, -128, 127, rule.single_rounding)
    expected = [min(max(litert_fully_connected(value, float(scale)) + zero_point, -128), 127) for value in accumulators]
    assert actual.reshape(-1).tolist() == expected


def test_fully_connected_prefers_two_roundings_and_never_mixes() -> None:
    output = Quantisation(1.0, 0)
    plain = requantisation.fully_connected(1.0, np.array([0.03], np.float32), output, (-128, 127), 4)
    assert not plain.single_rounding
    mixed = requantisation.fully_connected(1.0, np.array([0.03, 1e-5], np.float32), output, (-128, 127), 2)
    assert mixed.single_rounding
    assert mixed.multiplier.min() >= 1 << 30


@pytest.mark.parametrize("bits", range(1, 12))
def test_power_of_two_rounds_half_away(bits: int) -> None:
    output = Quantisation(1.0, 0)
    rule = requantisation.fully_connected(1.0, np.array([2.0**-bits], np.float32), output, (-128, 127), 1)
    assert (rule.multiplier.tolist(), rule.shift.tolist()) == ([(1 << (31 - bits)) + 1], [0])
    sums = np.arange(-300 << bits, 300 << bits)
    exact = np.sign(sums) * ((np.abs(sums) + (1 << (bits - 1))) >> bits)
    actual = numerics.requantise(sums[:, None], rule.multiplier, rule.shift, 0, -128, 127)
    np.testing.assert_array_equal(actual[:, 0], np.clip(exact, -128, 127))


def test_fully_connected_extremes() -> None:
    output = Quantisation(1.0, 0)
    zero = requantisation.fully_connected(1.0, np.array([0.0, 1e-30], np.float32), output, (-128, 127), 2)
    assert zero.multiplier.tolist() == [0, 0]
    with pytest.raises(ModelError, match="no integers round like LiteRT's"):
        requantisation.fully_connected(1.0, np.array([2.0**31], np.float32), output, (-128, 127), 1)
    with pytest.raises(ModelError, match="must be finite"):
        requantisation.fully_connected(1.0, np.array([np.inf], np.float32), output, (-128, 127), 1)
