"""The layers' arithmetic on arrays of int8 frames ``[N, H, W, C]``, bit for bit LiteRT's BUILTIN_REF.

Each function takes plain arrays and integers, so that it also serves as the oracle of a hardware unit's test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from emberline.model import numerics
from emberline.model.layers import INT8_MAX, INT8_MIN, NO_PADDING, Add, Convolution, Padding, Pair, output_extent
from emberline.model.softmax import softmax

__all__ = [
    "add",
    "average_pool",
    "concatenate",
    "convolution",
    "convolution_accumulators",
    "max_pool",
    "pad",
    "softmax",
    "upsample",
]

Frames = NDArray[np.int8]
_PATCH_BYTES = 1 << 21  # patches are gathered in pieces of about this size, which stay in the cache


def convolution(x: Frames, layer: Convolution, input_zero_point: int, output_zero_point: int) -> Frames:
    """A whole convolution layer, grouped or not: accumulate, requantise, clamp."""
    sums = convolution_accumulators(
        x,
        layer.weights,
        layer.bias,
        input_zero_point,
        stride=layer.stride,
        dilation=layer.dilation,
        padding=layer.padding,
        groups=layer.groups,
    )
    return numerics.requantise(
        sums,
        layer.multiplier,
        layer.shift,
        output_zero_point,
        layer.activation_min,
        layer.activation_max,
        layer.single_rounding,
    )


def convolution_accumulators(
    x: Frames,
    weights: NDArray[np.int8],
    bias: NDArray[np.int32],
    input_zero_point: int,
    *,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    groups: int = 1,
) -> NDArray[np.int32]:
    """``bias + Σ (x - input_zero_point) * weights``, int32 ``[N, out_h, out_w, out]``; sums beyond int32 wrap.

    The products are summed by floating-point matrix multiplication, and exactly so. Padding holds the zero point, so
    ``Σ (x - z) * w = Σ x * w - z * Σ w`` and only ``Σ x * w`` is summed in floating point. Every product and every
    partial sum, in any order and with or without fused operations, is an integer of magnitude at most
    ``128 * Σ |w|``; integers up to 2**24 are exact in float32 and up to 2**53 in float64. float32 is used where
    ``128 * Σ |w| <= 2**24`` for every output channel (always, up to 1024 weights a channel), float64 otherwise
    (enough for 5 * 10**11 weights a channel).
    """
    magnitude = 128 * int(np.abs(weights, dtype=np.int64).sum(axis=(1, 2, 3)).max())
    real: type[np.floating[Any]] = np.float32 if magnitude <= 1 << 24 else np.float64
    out, kernel_h, kernel_w, depth = weights.shape
    padded = pad(x, padding, input_zero_point).astype(real)
    windows = _windows(padded, (kernel_h, kernel_w), stride, dilation)
    sums = np.empty((*windows.shape[:3], out), real)
    if depth == 1 and groups > 1:
        _depthwise_sums(windows, weights.astype(real), sums)
    else:
        per_group = out // groups
        for group in range(groups):
            columns = slice(group * depth, (group + 1) * depth)
            rows = slice(group * per_group, (group + 1) * per_group)
            matrix = np.ascontiguousarray(weights[rows].reshape(per_group, -1).T, real)
            _gemm_sums(windows[..., columns], matrix, sums[..., rows])
    constant: NDArray[np.int64] = bias.astype(np.int64) - input_zero_point * weights.sum(axis=(1, 2, 3), dtype=np.int64)
    return (sums.astype(np.int64) + constant).astype(np.int32)


def add(a: Frames, b: Frames, layer: Add, zero_points: Sequence[int], output_zero_point: int) -> Frames:
    """Elementwise sum of two maps; ``zero_points`` are the inputs'."""
    total = sum(
        numerics.multiply_by_quantised_multiplier((x.astype(np.int64) - zero) << layer.left_shift, multiplier, shift)
        for x, zero, multiplier, shift in zip(
            (a, b), zero_points, layer.input_multipliers, layer.input_shifts, strict=True
        )
    )
    return numerics.requantise(
        total,
        layer.output_multiplier,
        layer.output_shift,
        output_zero_point,
        layer.activation_min,
        layer.activation_max,
    )


def concatenate(maps: Sequence[Frames]) -> Frames:
    """The maps' channels one after another."""
    return np.concatenate(maps, axis=-1)


def pad(x: Frames, padding: Padding, value: int) -> Frames:
    """A frame of ``value`` around every map."""
    if not any(padding):
        return x
    return np.pad(
        x, ((0, 0), (padding.top, padding.bottom), (padding.left, padding.right), (0, 0)), constant_values=value
    )


def upsample(x: Frames, factor: Pair) -> Frames:
    """Every pixel repeated ``factor`` (y, x) times."""
    return x.repeat(factor[0], axis=1).repeat(factor[1], axis=2)


def average_pool(
    x: Frames, window: Pair, stride: Pair, padding: Padding = NO_PADDING, clamp: Pair = (INT8_MIN, INT8_MAX)
) -> Frames:
    """Mean of the codes inside the map, halves away from zero, clamped. Padding is not counted."""
    total = _windows(pad(x, padding, 0), window, stride).sum(axis=(3, 4), dtype=np.int64)
    inside = np.ones((1, *x.shape[1:3], 1), np.int8)
    count = _windows(pad(inside, padding, 0), window, stride).sum(axis=(3, 4), dtype=np.int64)
    return np.clip(numerics.rounded_mean(total, count), *clamp).astype(np.int8)


def max_pool(
    x: Frames, window: Pair, stride: Pair, padding: Padding = NO_PADDING, clamp: Pair = (INT8_MIN, INT8_MAX)
) -> Frames:
    """Maximum of the codes inside the map, clamped."""
    largest = _windows(pad(x, padding, INT8_MIN), window, stride).max(axis=(3, 4))
    clamped: Frames = np.clip(largest, *clamp)
    return clamped


def _windows(x: NDArray[Any], window: Pair, stride: Pair, dilation: Pair = (1, 1)) -> NDArray[Any]:
    """A view ``[N, out_h, out_w, window_h, window_w, C]`` of every window of ``[N, H, W, C]``."""
    frames, height, width, channels = x.shape
    along_n, along_y, along_x, along_c = x.strides
    out_h = output_extent(height, window[0], stride[0], 0, dilation[0])
    out_w = output_extent(width, window[1], stride[1], 0, dilation[1])
    if min(out_h, out_w) < 1:
        raise ValueError(f"window {window} with dilation {dilation} does not fit a {height}x{width} map")
    return as_strided(
        x,
        (frames, out_h, out_w, *window, channels),
        (along_n, along_y * stride[0], along_x * stride[1], along_y * dilation[0], along_x * dilation[1], along_c),
        writeable=False,
    )


def _gemm_sums(windows: NDArray[Any], matrix: NDArray[Any], sums: NDArray[Any]) -> None:
    """``sums[n, y, x] = windows[n, y, x] @ matrix``, gathering a few output rows' patches at a time."""
    taps = matrix.shape[0]
    for frame, rows in _pieces(windows.shape, windows.dtype):
        patches = windows[frame, rows].reshape(-1, taps)
        sums[frame, rows] = (patches @ matrix).reshape(sums[frame, rows].shape)


def _pieces(shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[tuple[slice, slice]]:
    """Cut ``[N, out_h, ...]`` into runs of whole frames, or of rows of one frame, of about ``_PATCH_BYTES``."""
    frames, height = shape[:2]
    row_bytes = int(np.prod(shape[2:])) * np.dtype(dtype).itemsize
    if row_bytes * height <= _PATCH_BYTES:
        step = max(1, _PATCH_BYTES // (row_bytes * height))
        yield from ((slice(n, n + step), slice(None)) for n in range(0, frames, step))
    else:
        step = max(1, _PATCH_BYTES // row_bytes)
        yield from ((slice(n, n + 1), slice(y, y + step)) for n in range(frames) for y in range(0, height, step))


def _depthwise_sums(windows: NDArray[Any], weights: NDArray[Any], sums: NDArray[Any]) -> None:
    """One input channel per output channel: the taps are added one by one, all channels at once."""
    _, kernel_h, kernel_w, _ = weights.shape
    repeats = weights.shape[0] // windows.shape[-1]
    sums[...] = 0
    for y in range(kernel_h):
        for x in range(kernel_w):
            tap = windows[:, :, :, y, x]
            if repeats > 1:
                tap = np.repeat(tap, repeats, axis=-1)
            sums += tap * weights[:, y, x, 0]
