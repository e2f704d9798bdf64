"""What a tensor of an ONNX file stands for while it is read: a view of a feature map, a constant, or a pending result.

ONNX lays maps out as ``[1, C, H, W]``, the machine as pixels of channels. A view is a feature map under the dimensions
that the file gives it; reshaping and transposing only change the view, as long as the values can still be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from emberline.errors import ModelError
from emberline.model.graph import FeatureMap, Quantisation
from emberline.model.layers import INT8_MAX, INT8_MIN, Pair

Dims = tuple[int, ...]


class Order(Enum):
    """How the dimensions of a view follow the feature map's values."""

    PLANES = "[1, C, H, W], or [1, C] of a single pixel"
    FLAT = "[1, C * H * W]"
    GROUPED = "[1, groups, C / groups, H, W]"
    SHUFFLED = "[1, C / groups, groups, H, W]"
    PIXELS = "[1, H, W, C], under any dimensions"


@dataclass(frozen=True)
class View:
    """A feature map under dimensions; ``real``: behind a DequantizeLinear."""

    map: FeatureMap
    dims: Dims
    order: Order = Order.PLANES
    real: bool = True

    def reshape(self, dims: Dims) -> View:
        """The view under other dimensions; ``ModelError`` where the map could not be read in that order."""
        if dims == self.dims:
            return self
        height, width, channels = self.map.shape
        single = height == width == 1
        if self.order is Order.PIXELS:
            return replace(self, dims=dims)
        if self.order in (Order.PLANES, Order.FLAT):
            if dims == (1, channels, height, width) or (single and dims == (1, channels)):
                return replace(self, dims=dims, order=Order.PLANES)
            if dims == (1, self.map.size):
                return replace(self, dims=dims, order=Order.FLAT)
        if self.order is Order.PLANES and len(dims) == 5 and dims[0] == 1 and dims[3:] == (height, width):
            return replace(self, dims=dims, order=Order.GROUPED)
        raise ModelError(f"reshaping {list(self.dims)} to {list(dims)} is not supported")

    def transpose(self, permutation: tuple[int, ...]) -> View:
        """The view with permuted dimensions; ``ModelError`` except for a channel shuffle and for ``[1, H, W, C]``."""
        if sorted(permutation) != list(range(len(self.dims))):
            raise ModelError(f"transposing {list(self.dims)} by {list(permutation)} is impossible")
        dims = tuple(self.dims[axis] for axis in permutation)
        if permutation == tuple(range(len(self.dims))):
            return self
        if self.order is Order.PLANES and permutation == (0, 2, 3, 1):
            return replace(self, dims=dims, order=Order.PIXELS)
        if self.order is Order.PIXELS and permutation == (0, 3, 1, 2) and self.dims == (1, *self.map.shape):
            return replace(self, dims=dims, order=Order.PLANES)
        if self.order is Order.GROUPED and permutation == (0, 2, 1, 3, 4):
            return replace(self, dims=dims, order=Order.SHUFFLED)
        raise ModelError(f"transposing {list(self.dims)} by {list(permutation)} is not supported")

    def shuffle(self) -> tuple[int, ...]:
        """Of a shuffled view: the channel of the map that is behind each channel of ``[1, C, H, W]``."""
        inner, groups = self.dims[1:3]
        return tuple(group * inner + index for index in range(inner) for group in range(groups))


@dataclass(frozen=True)
class Constant:
    """A constant's real values, and the codes behind them where it is quantised.

    Parameters:
        values: float64.
        codes: int8 (of uint8, 128 less) or int32 codes of the same shape.
        scales: float32, one, or one per slice of ``axis``.
    """

    values: NDArray[np.float64]
    codes: NDArray[np.generic] | None = None
    scales: NDArray[np.float32] | None = None
    axis: int = 0


@dataclass(frozen=True)
class Pending:
    """A float result that becomes a layer when it is quantised.

    Parameters:
        layer: the layer's name.
        dims: as ONNX has them.
        shape: of the feature map.
        finish: makes the layer that writes the given map with the given clamp.
        low, high: of the activation function behind it, as real values.
        parts: of a convolution, so that a bias or a batch normalisation can still be folded into it.
    """

    layer: str
    dims: Dims
    shape: tuple[int, int, int]
    finish: Callable[[FeatureMap, Pair], None]
    low: float = -inf
    high: float = inf
    parts: object | None = field(default=None, repr=False)

    def clip(self, low: float, high: float) -> Pending:
        """The result clipped once more."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low), parts=None)

    def clamp(self, quantisation: Quantisation) -> Pair:
        """The codes between which the result lies."""
        return clamp_codes(self.low, self.high, quantisation)


@dataclass(frozen=True)
class Unquantised:
    """A network input, before its first QuantizeLinear, or before its first use as codes."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]


Value = View | Constant | Pending | Unquantised


def clamp_codes(low: float, high: float, quantisation: Quantisation) -> Pair:
    """The codes of two real bounds, rounded as ONNX does: to nearest, halves to even."""

    def code(value: float) -> int:
        steps = np.rint(np.float32(value) / np.float32(quantisation.scale)) + quantisation.zero_point
        return int(min(max(float(steps), INT8_MIN), INT8_MAX))

    return (INT8_MIN if low == -inf else code(low), INT8_MAX if high == inf else code(high))


def map_shape(dims: Dims) -> tuple[int, int, int]:
    """``[1, C, H, W]`` or ``[1, C]`` as height, width, channels."""
    if len(dims) not in (2, 4) or dims[0] != 1 or min(dims) < 1 or prod(dims) > 1 << 26:
        raise ModelError(f"{list(dims)} are not supported dimensions, only [1, channels, height, width], [1, channels]")
    return (1, 1, dims[1]) if len(dims) == 2 else (dims[2], dims[3], dims[1])
