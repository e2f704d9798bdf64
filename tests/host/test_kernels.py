"""Kernels against loops that follow the definition, one output value at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberline.model import kernels, numerics
from emberline.model.graph import Add, Convolution, Padding

SIDES = st.builds(Padding, *[st.integers(0, 2)] * 4)
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
SHAPES = [(1, 5, 3), (2, 3, 4), (6, 1, 1), (6, 1, 2)]  # groups, input channels of each, output channels of each
SEEDS = st.integers(0, 2**32 - 1)


def int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def naive_sums(x, weights, bias, zero, stride, dilation, padding, groups):  # type: ignore[no-untyped-def]
    """The definition: taps outside the map are left out."""
    frames, height, width, _ = x.shape
    out, kernel_h, kernel_w, depth = weights.shape
    out_h = (height + padding.top + padding.bottom - dilation[0] * (kernel_h - 1) - 1) // stride[0] + 1
    out_w = (width + padding.left + padding.right - dilation[1] * (kernel_w - 1) - 1) // stride[1] + 1
    sums = np.zeros((frames, out_h, out_w, out), np.int64) + bias
    for n, row, column, o in product(range(frames), range(out_h), range(out_w), range(out)):
        first = o // (out // groups) * depth
        for tap_y, tap_x in product(range(kernel_h), range(kernel_w)):
            y = row * stride[0] - padding.top + tap_y * dilation[0]
            at = column * stride[1] - padding.left + tap_x * dilation[1]
            if 0 <= y < height and 0 <= at < width:
                values = x[n, y, at, first : first + depth].astype(np.int64) - zero
                sums[n, row, column, o] += values @ weights[o, tap_y, tap_x].astype(np.int64)
    return sums


@settings(max_examples=40)
@given(
    SEEDS,
    PAIRS,
    PAIRS,
    st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    SIDES,
    st.sampled_from([(1, 5, 3), (2, 3, 4), (6, 1, 1), (6, 1, 2)]),
)
def test_convolution_sums(seed, kernel, stride, dilation, padding, shape):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    groups, depth, per_group = shape
    x = int8(rng, 2, 5, 6, groups * depth)
    weights = int8(rng, groups * per_group, *kernel, depth)
    bias = rng.integers(-(1 << 20), 1 << 20, len(weights), dtype=np.int32)
    zero = int(rng.integers(-128, 128))
    actual = kernels.convolution_accumulators(
        x, weights, bias, zero, stride=stride, dilation=dilation, padding=padding, groups=groups
    )
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, naive_sums(x, weights, bias, zero, stride, dilation, padding, groups))


@pytest.mark.parametrize("depth, real", [(1024, "float32"), (1025, "float64"), (9000, "float64")])
def test_largest_possible_sums_are_exact(depth: int, real: str) -> None:
    """All products at their extreme, and one less: an inexact sum would lose the odd last bit."""
    x = np.full((1, 1, 1, depth), -128, np.int8)
    weights = np.full((2, 1, 1, depth), -128, np.int8)
    weights[1, 0, 0, 0] = 127
    x[0, 0, 0, 1] = 127
    expected = x.reshape(-1).astype(np.int64) @ weights.reshape(2, -1).T.astype(np.int64)
    assert (128 * np.abs(weights.astype(int)).sum(axis=(1, 2, 3)).max() <= 1 << 24) == (real == "float32")
    sums = kernels.convolution_accumulators(x, weights, np.zeros(2, np.int32), 0)
    assert sums.reshape(-1).tolist() == expected.tolist()


def test_sums_wrap_to_32_bits() -> None:
    x, weights = np.full((1, 1, 1, 1), 100, np.int8), np.full((1, 1, 1, 1), 100, np.int8)
    sums = kernels.convolution_accumulators(x, weights, np.array([(1 << 31) - 1], np.int32), 0)
    assert sums.item() == -(1 << 31) + 9999


def test_convolution_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, weights, bias = int8(rng, 5, 9, 8, 3), int8(rng, 4, 3, 3, 3), np.arange(4, dtype=np.int32)
    whole = kernels.convolution_accumulators(x, weights, bias, 7, padding=Padding(1, 1, 1, 1))
    for size in (1, 2000, 20_000):
        monkeypatch.setattr(kernels, "_PATCH_BYTES", size)
        pieces = kernels.convolution_accumulators(x, weights, bias, 7, padding=Padding(1, 1, 1, 1))
        np.testing.assert_array_equal(pieces, whole)


def test_convolution_layer_requantises_per_channel() -> None:
    rng = np.random.default_rng(2)
    x, weights = int8(rng, 2, 4, 4, 3), int8(rng, 5, 1, 1, 3)
    multiplier = rng.integers(1 << 30, 1 << 31, 5).astype(np.int32)
    layer = Convolution(
        "c",
        ("x",),
        "y",
        weights,
        np.zeros(5, np.int32),
        np.ones(5, np.float32),
        multiplier,
        np.array([-7, -8, -9, -10, 0], np.int32),
        activation_min=-100,
        activation_max=90,
    )
    sums = kernels.convolution_accumulators(x, weights, layer.bias, 3)
    expected = np.stack(
        [
            numerics.requantise(sums[..., c], int(layer.multiplier[c]), int(layer.shift[c]), -5, -100, 90)
            for c in range(5)
        ],
        axis=-1,
    )
    np.testing.assert_array_equal(kernels.convolution(x, layer, 3, -5), expected)


def test_add_of_equal_scales_halves_exactly() -> None:
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    a, b = (values.astype(np.int8).reshape(1, 1, -1, 1) for values in (a, b))
    layer = Add("add", ("a", "b"), "y", **numerics.add_parameters(0.5, 0.5, 1.0)._asdict())
    total = (a.astype(int) - 3) + (b.astype(int) + 4)
    expected = np.clip(np.sign(total) * ((np.abs(total) + 1) // 2) - 6, -128, 127)
    np.testing.assert_array_equal(kernels.add(a, b, layer, (3, -4), -6), expected)


@settings(max_examples=40)
@given(SEEDS, PAIRS, PAIRS, st.data())
def test_pools_leave_padding_out(seed, window, stride, data):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    sides = [data.draw(st.integers(0, window[axis] - 1)) for axis in (0, 0, 1, 1)]
    padding = Padding(*sides)
    x = int8(rng, 2, 5, 6, 3)
    average = kernels.average_pool(x, window, stride, padding, (-100, 100))
    largest = kernels.max_pool(x, window, stride, padding, (-100, 100))
    for row, column in product(range(average.shape[1]), range(average.shape[2])):
        top, left = row * stride[0] - padding.top, column * stride[1] - padding.left
        inside = x[:, max(top, 0) : top + window[0], max(left, 0) : left + window[1]].astype(int)
        total, count = inside.sum(axis=(1, 2)), inside.shape[1] * inside.shape[2]
        mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
        np.testing.assert_array_equal(average[:, row, column], np.clip(mean, -100, 100))
        np.testing.assert_array_equal(largest[:, row, column], np.clip(inside.max(axis=(1, 2)), -100, 100))


def test_pad_and_concatenate() -> None:
    x = int8(np.random.default_rng(3), 2, 3, 4, 2)
    padded = kernels.pad(x, Padding(1, 2, 3, 4), -9)
    assert padded.shape == (2, 6, 11, 2)
    np.testing.assert_array_equal(padded[:, 1:4, 3:7], x)
    assert (padded[:, 0] == -9).all()
    assert (padded[:, :, 7:] == -9).all()
    joined = kernels.concatenate([x, x[..., :1]])
    np.testing.assert_array_equal(joined, x[..., [0, 1, 0]])


def test_window_larger_than_its_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window \(3, 3\) with dilation \(2, 1\) does not fit a 4x4 map"):
        kernels.convolution_accumulators(
            np.zeros((1, 4, 4, 1), np.int8), np.zeros((1, 3, 3, 1), np.int8), np.zeros(1, np.int32), 0, dilation=(2, 1)
        )


def test_softmax_is_within_one_code_of_the_real_one() -> None:
    x = int8(np.random.default_rng(4), 50, 1, 1, 10)
    for scale, beta in ((0.17, 1.0), (0.01, 1.0), (1.0, 0.5)):
        exponentials = np.exp(beta * scale * x.astype(float))
        exact = exponentials / exponentials.sum(axis=-1, keepdims=True) * 256 - 128
        codes = kernels.softmax(x, float(np.float32(scale)), beta).astype(float)
        assert np.abs(codes - np.clip(exact, -128, 127)).max() <= 1
