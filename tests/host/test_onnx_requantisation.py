"""onnxruntime's float32 requantisation by integers, for every sum near a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberline.errors import ModelError
from emberline.model import numerics
from emberline.model.layers import Quantisation
from emberline.model.onnx_requantisation import convolution_ratios, requantisation, round_product


@given(st.integers(0, 2**32 - 1), st.integers(-128, 127))
def test_rule_is_float32_s_except_beside_its_bent_steps(seed: int, zero_point: int) -> None:
    rng = np.random.default_rng(seed)
    ratios = np.exp2(rng.uniform(-14, 1, 8)).astype(np.float32)
    rule, inexact = requantisation(ratios, Quantisation(0.5, zero_point), (-128, 127))
    assert rule.single_rounding
    differing = 0
    for channel, ratio in enumerate(ratios):
        steps = (np.arange(-128, 128) - zero_point - 0.5) / np.float64(ratio)
        sums = np.unique(np.rint(steps).astype(np.int64)[:, None] + np.arange(-3, 4))
        expected = np.clip(round_product(sums, ratio) + zero_point, -128, 127)
        arguments = (rule.multiplier[channel], rule.shift[channel], zero_point, -128, 127, True)
        ours = numerics.requantise(sums, *arguments)
        distances = np.abs(ours - expected)
        assert distances.max() <= 1
        differing += bool(distances.any())
    assert differing <= inexact


def test_ratio_is_computed_in_float32() -> None:
    scales = np.array([0.1, 0.3], np.float32)
    expected = [np.float32(0.7) * scale / np.float32(0.9) for scale in scales]
    assert convolution_ratios(float(np.float32(0.7)), scales, float(np.float32(0.9))).tolist() == expected


@pytest.mark.parametrize("ratio", [-1.0, np.inf, np.nan, 2.0**21, 2.0**-40])
def test_impossible_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ModelError, match="scale ratios"):
        requantisation(np.array([0.5, ratio], np.float32), Quantisation(0.5, 0), (-128, 127))


def test_ratio_of_zero_gives_the_zero_point() -> None:
    rule, inexact = requantisation(np.zeros(2, np.float32), Quantisation(0.5, 7), (-128, 127))
    sums = np.array([[5, -100000]])
    assert (numerics.requantise(sums, rule.multiplier, rule.shift, 7, -128, 127, True) == 7).all()
    assert inexact == 0
