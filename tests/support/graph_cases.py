"""Hand-made networks for the compiler's tests: a chain that is built call by call, requantised sensibly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emberline.model import numerics
from emberline.model.graph import (
    NO_PADDING,
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Graph,
    Layer,
    MaxPool,
    Pad,
    Padding,
    Quantisation,
    output_extent,
)

SCALE = float(np.float32(0.05))


class Network:
    """Layers one after another, by name; each method returns the name of its output map."""

    def __init__(self, height: int, width: int, channels: int, *, seed: int = 0, zero_point: int = -7) -> None:
        self.rng = np.random.default_rng(seed)
        self.quantisation = Quantisation(SCALE, zero_point)
        self.maps = {"input": FeatureMap("input", height, width, channels, self.quantisation)}
        self.layers: list[Layer] = []

    def convolution(
        self,
        x: str,
        channels: int,
        kernel: tuple[int, int] = (3, 3),
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: Padding = NO_PADDING,
        groups: int = 1,
        multiplier: int | None = None,
        shift: int | None = None,
        single_rounding: bool = False,
    ) -> str:
        source = self.maps[x]
        depth = source.channels // groups
        weights = self.rng.integers(-127, 128, (channels, *kernel, depth), dtype=np.int8)
        real = 30 / (73 * 60 * np.sqrt(weights[0].size))
        found = numerics.quantise_multiplier(float(real))
        name = f"conv{len(self.layers)}"
        self._add_map(name, x, kernel, stride, padding, channels, dilation)
        self.layers.append(
            Convolution(
                name,
                (x,),
                name,
                weights,
                self.rng.integers(-2000, 2000, channels, dtype=np.int32),
                np.ones(1, np.float32),
                np.full(channels, found.multiplier if multiplier is None else multiplier, np.int32),
                np.full(channels, found.shift if shift is None else shift, np.int32),
                stride=stride,
                dilation=dilation,
                padding=padding,
                groups=groups,
                single_rounding=single_rounding,
            )
        )
        return name

    def add(self, a: str, b: str, **changes: object) -> str:
        name = f"add{len(self.layers)}"
        fields = numerics.add_parameters(SCALE, SCALE, SCALE)._asdict() | changes
        self.maps[name] = FeatureMap(name, *self.maps[a].shape, self.quantisation)
        self.layers.append(Add(name, (a, b), name, **fields))
        return name

    def concatenate(self, parts: Sequence[str]) -> str:
        name = f"concat{len(self.layers)}"
        height, width, _ = self.maps[parts[0]].shape
        channels = sum(self.maps[part].channels for part in parts)
        self.maps[name] = FeatureMap(name, height, width, channels, self.quantisation)
        self.layers.append(Concatenation(name, tuple(parts), name))
        return name

    def average_pool(
        self, x: str, window: tuple[int, int], stride: tuple[int, int] = (1, 1), padding: Padding = NO_PADDING
    ) -> str:
        return self._pool(AveragePool, x, window, stride, padding)

    def max_pool(
        self, x: str, window: tuple[int, int], stride: tuple[int, int] = (1, 1), padding: Padding = NO_PADDING
    ) -> str:
        return self._pool(MaxPool, x, window, stride, padding)

    def pad(self, x: str, padding: Padding) -> str:
        source, name = self.maps[x], f"pad{len(self.layers)}"
        height, width = source.height + padding.top + padding.bottom, source.width + padding.left + padding.right
        self.maps[name] = FeatureMap(name, height, width, source.channels, self.quantisation)
        self.layers.append(Pad(name, (x,), name, padding))
        return name

    def graph(self, *outputs: str) -> Graph:
        return Graph("test", ("input",), outputs or (self.layers[-1].output,), tuple(self.layers), self.maps)

    def _pool(self, kind: type, x: str, window: tuple[int, int], stride: tuple[int, int], padding: Padding) -> str:
        name = f"pool{len(self.layers)}"
        self._add_map(name, x, window, stride, padding, self.maps[x].channels)
        self.layers.append(kind(name, (x,), name, window, stride, padding))
        return name

    def _add_map(
        self,
        name: str,
        x: str,
        window: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
        channels: int,
        dilation: tuple[int, int] = (1, 1),
    ) -> None:
        source = self.maps[x]
        height = output_extent(source.height, window[0], stride[0], padding.top + padding.bottom, dilation[0])
        width = output_extent(source.width, window[1], stride[1], padding.left + padding.right, dilation[1])
        self.maps[name] = FeatureMap(name, height, width, channels, self.quantisation)


def same(kernel: int) -> Padding:
    """SAME padding of an odd kernel with stride 1."""
    return Padding(*[kernel // 2] * 4)
