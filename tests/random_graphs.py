"""Random small networks: one source for the tests of model, front end, compiler, emulator and RTL.

``random_graph`` is a plain function of a seeded generator; ``graphs`` is the same as a hypothesis strategy, which
shrinks towards few, small layers. A network is a chain of blocks (a convolution, a residual sum, parallel convolutions
that are concatenated, a pool) with an optional fully connected head and softmax; scales are chosen so that results use
most of the int8 range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from emberline.model import numerics, requantisation
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
    Padding,
    Quantisation,
    Select,
    Softmax,
    Upsample,
    output_extent,
)

Pair = tuple[int, int]
BLOCKS = ("convolution", "residual", "parallel", "average_pool", "max_pool")
ARRANGING = ("grouped", "shuffled", "select", "split", "upsample")


@dataclass(frozen=True)
class Limits:
    """What a random network may contain.

    ``max_blocks`` counts blocks; a residual or parallel block has up to four layers. No map is higher or wider than
    ``max_size``; a concatenation may have three times ``max_channels``. ``heads`` above 1 gives further outputs.
    ``blocks`` chooses from ``BLOCKS`` and ``separable``, a depthwise convolution behind or before a pointwise one,
    and ``ARRANGING``: grouped convolutions, channels in another order or split into two branches, larger pixels.
    ``single_rounding`` allows fully connected layers that need it.
    """

    max_size: int = 10
    max_channels: int = 20
    max_blocks: int = 4
    max_kernel: int = 5
    max_stride: int = 2
    heads: int = 1
    blocks: tuple[str, ...] = BLOCKS
    explicit_padding: bool = True
    fully_connected: bool = True
    softmax: bool = False
    single_rounding: bool = True
    dilation: bool = False
    depthwise: bool = False


def random_graph(rng: np.random.Generator, limits: Limits = Limits()) -> Graph:
    """A network within the limits; equal generators give equal networks."""
    builder = _Builder(rng, limits)
    x = builder.input()
    for _ in range(rng.integers(1, limits.max_blocks + 1)):
        x = getattr(builder, str(rng.choice(limits.blocks)))(x)
    outputs = [builder.head(x) for _ in range(rng.integers(1, limits.heads + 1))]
    return Graph(
        "random",
        ("input",),
        tuple(dict.fromkeys(outputs)),
        tuple(builder.layers),
        builder.maps,
        tuple(builder.host_layers),
    )


def random_frames(rng: np.random.Generator, graph: Graph, count: int) -> NDArray[np.int8]:
    """int8 frames for the only input, over the whole range."""
    return rng.integers(-128, 128, (count, *graph.feature_maps[graph.inputs[0]].shape), dtype=np.int8)


@st.composite
def graphs(draw: st.DrawFn, limits: Limits = Limits()) -> Graph:
    """``random_graph`` as a strategy: sizes are drawn too, so that failures shrink."""
    limits = replace(
        limits,
        max_blocks=draw(st.integers(1, limits.max_blocks), label="max_blocks"),
        max_size=draw(st.integers(1, limits.max_size), label="max_size"),
        max_channels=draw(st.integers(1, limits.max_channels), label="max_channels"),
    )
    return random_graph(np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed")), limits)


class _Builder:
    """The network so far. Every method takes and returns the current feature map."""

    def __init__(self, rng: np.random.Generator, limits: Limits) -> None:
        self.rng, self.limits = rng, limits
        self.maps: dict[str, FeatureMap] = {}
        self.layers: list[Layer] = []
        self.host_layers: list[Layer] = []

    # --- blocks

    def input(self) -> FeatureMap:
        height, width = (int(size) for size in self.rng.integers(1, self.limits.max_size + 1, 2))
        scale, zero = self.rng.uniform(0.01, 0.1), int(self.rng.integers(-128, 128))
        return self._map("input", (height, width, self._channels()), _quantisation(scale, zero))

    def convolution(self, x: FeatureMap) -> FeatureMap:
        stride = (self._up_to(self.limits.max_stride), self._up_to(self.limits.max_stride))
        kernel = (self._kernel(), self._kernel())
        dilation = (self._up_to(2), self._up_to(2)) if self.limits.dilation and self.rng.random() < 0.3 else (1, 1)
        groups = x.channels if self.limits.depthwise and self.rng.random() < 0.4 else 1
        return self._convolve(x, kernel, stride, dilation, groups=groups)

    def residual(self, x: FeatureMap) -> FeatureMap:
        a = self._convolve(x, (3, 3), same=True)
        b = (
            x
            if a.shape == x.shape and self.rng.random() < 0.5
            else self._convolve(x, (1, 1), same=True, out=a.channels)
        )
        output = _quantisation(
            max(a.quantisation.scale, b.quantisation.scale) * self.rng.uniform(0.6, 2.5), self._zero_point()
        )
        parameters = numerics.add_parameters(a.quantisation.scale, b.quantisation.scale, output.scale)
        low, high = self._clamp(output)
        names = (a.name, b.name) if self.rng.random() < 0.5 else (b.name, a.name)
        if names[0] == b.name:
            parameters = numerics.add_parameters(b.quantisation.scale, a.quantisation.scale, output.scale)
        y = self._map("sum", a.shape, output)
        self.layers.append(Add(y.name, names, y.name, **parameters._asdict(), activation_min=low, activation_max=high))
        return y

    def parallel(self, x: FeatureMap) -> FeatureMap:
        first = self._convolve(x, (1, 1), same=True)
        parts = [first]
        for _ in range(self._up_to(2)):
            kernel = (int(self.rng.choice([1, 3])), int(self.rng.choice([1, 3])))
            parts.append(self._convolve(x, kernel, same=True, output=first.quantisation))
        y = self._map("parallel", (x.height, x.width, sum(part.channels for part in parts)), first.quantisation)
        self.layers.append(Concatenation(y.name, tuple(part.name for part in parts), y.name))
        return y

    def separable(self, x: FeatureMap) -> FeatureMap:
        if x.name == "input" or self.rng.random() < 0.3:
            x = self._convolve(x, (1, 1), same=True)
        kernel = (int(self.rng.choice([1, 2, 3, 3, 3])), int(self.rng.choice([1, 2, 3, 3, 3])))
        stride = (self._up_to(self.limits.max_stride), self._up_to(self.limits.max_stride))
        x = self._convolve(x, kernel, stride, groups=x.channels, out=x.channels)
        return x if self.rng.random() < 0.5 else self._convolve(x, (1, 1), same=True)

    def grouped(self, x: FeatureMap) -> FeatureMap:
        groups = self._up_to(3)
        x = self._convolve(x, (1, 1), same=True, out=groups * self._up_to(max(1, self.limits.max_channels // groups)))
        return self._convolve(x, (self._up_to(3), 1), same=True, groups=groups)

    def shuffled(self, x: FeatureMap) -> FeatureMap:
        """Two grouped convolutions, a shuffle and perhaps a depthwise one between, as in ShuffleNet."""
        groups = self._up_to(3)
        x = self._convolve(x, (1, 1), same=True, out=groups * self._up_to(max(1, self.limits.max_channels // groups)))
        x = self._convolve(x, (1, 1), same=True, groups=groups, out=x.channels)
        x = self._select(x, np.arange(x.channels).reshape(groups, -1).T.reshape(-1))
        if self.rng.random() < 0.7:
            x = self._convolve(x, (3, 3), same=True, groups=x.channels, out=x.channels)
        return self._convolve(x, (1, 1), same=True, groups=groups)

    def select(self, x: FeatureMap) -> FeatureMap:
        order = self.rng.permutation(x.channels)
        return self._select(x, order if self.rng.random() < 0.5 else order[: self._up_to(x.channels)])

    def split(self, x: FeatureMap) -> FeatureMap:
        """Two parts, one behind a convolution, side by side again; or their sum."""
        x = self._convolve(x, (1, 1), same=True, out=2 * self._up_to(self.limits.max_channels))
        half = x.channels // 2
        a, b = self._select(x, np.arange(half)), self._select(x, np.arange(half, x.channels))
        b = self._convolve(b, (3, 3), same=True, out=half, output=a.quantisation)
        if self.rng.random() < 0.3:
            rule = numerics.add_parameters(*[x.quantisation.scale] * 3)
            y = self._map("sum", a.shape, a.quantisation)
            self.layers.append(Add(y.name, (a.name, b.name), y.name, **rule._asdict()))
            return y
        y = self._map("joined", (x.height, x.width, x.channels), x.quantisation)
        self.layers.append(Concatenation(y.name, (a.name, b.name), y.name))
        return y

    def upsample(self, x: FeatureMap) -> FeatureMap:
        factor = (self._up_to(3), self._up_to(3))
        if max(x.height * factor[0], x.width * factor[1]) > 2 * self.limits.max_size:
            return self.convolution(x)
        y = self._map("larger", (x.height * factor[0], x.width * factor[1], x.channels), x.quantisation)
        self.layers.append(Upsample(y.name, (x.name,), y.name, factor))
        return y

    def average_pool(self, x: FeatureMap) -> FeatureMap:
        return self._pool(AveragePool, x)

    def max_pool(self, x: FeatureMap) -> FeatureMap:
        return self._pool(MaxPool, x)

    def head(self, x: FeatureMap) -> str:
        """An optional fully connected layer and softmax; the name of the output."""
        if self.limits.fully_connected and self.rng.random() < 0.5:
            x = self._convolve(x, (x.height, x.width), fully_connected=True)
        if self.limits.softmax and self.rng.random() < 0.5:
            y = self._map("softmax", x.shape, Quantisation(1 / 256, -128))
            self.host_layers.append(Softmax(y.name, (x.name,), y.name, beta=float(self.rng.choice([1.0, 0.5]))))
            return y.name
        return x.name

    # --- layers

    def _convolve(
        self,
        x: FeatureMap,
        kernel: Pair,
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        *,
        same: bool = False,
        out: int | None = None,
        groups: int = 1,
        output: Quantisation | None = None,
        fully_connected: bool = False,
    ) -> FeatureMap:
        rng = self.rng
        spread = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
        padding = NO_PADDING if fully_connected else self._padding(x, spread, stride, same)
        channels = out or (groups * self._up_to(2) if groups > 1 else self._channels())
        weights = rng.integers(-127, 128, (channels, *kernel, x.channels // groups), dtype=np.int8)
        size = int(rng.choice([1, channels]))
        scales = rng.uniform(0.001, 0.004, size).astype(np.float32)
        deviation = 60 * 73 * sqrt(weights[0].size)  # of an accumulator, in products of codes
        if output is None:
            scale = x.quantisation.scale * float(scales.mean()) * deviation / rng.uniform(20, 60)
            output = _quantisation(scale, self._zero_point())
            while fully_connected and not self.limits.single_rounding and _rounds_once(x, scales, output):
                output = _quantisation(output.scale / 2, output.zero_point)
        low, high = self._clamp(output)
        layer = Convolution(
            name := self._name("dense" if fully_connected else "conv"),
            (x.name,),
            name,
            weights,
            rng.integers(-int(deviation), int(deviation) + 1, channels, dtype=np.int32),
            scales,
            np.zeros(channels, np.int32),
            np.zeros(channels, np.int32),
            stride=stride,
            dilation=dilation,
            padding=padding,
            groups=groups,
            fully_connected=fully_connected,
            activation_min=low,
            activation_max=high,
        )
        rule = requantisation.litert_requantisation(layer, x.quantisation, output)
        self.layers.append(replace(layer, **rule._asdict()))
        extents = _extents(x, spread, stride, padding)
        self.maps[name] = FeatureMap(name, *extents, channels, output)
        return self.maps[name]

    def _select(self, x: FeatureMap, channels: NDArray[np.int64]) -> FeatureMap:
        y = self._map("selected", (x.height, x.width, len(channels)), x.quantisation)
        self.layers.append(Select(y.name, (x.name,), y.name, tuple(int(each) for each in channels)))
        return y

    def _pool(self, kind: type[AveragePool] | type[MaxPool], x: FeatureMap) -> FeatureMap:
        if self.rng.random() < 0.3:
            window, stride, padding = (x.height, x.width), (1, 1), NO_PADDING
        else:
            window = (min(self._up_to(3), x.height), min(self._up_to(3), x.width))
            stride = (self._up_to(self.limits.max_stride), self._up_to(self.limits.max_stride))
            padding = NO_PADDING if self.rng.random() < 0.5 else same_padding(x, window, stride)
        low, high = self._clamp(x.quantisation)
        y = self._map("pool", (*_extents(x, window, stride, padding), x.channels), x.quantisation)
        self.layers.append(
            kind(y.name, (x.name,), y.name, window, stride, padding, activation_min=low, activation_max=high)
        )
        return y

    # --- choices

    def _padding(self, x: FeatureMap, window: Pair, stride: Pair, same: bool) -> Padding:
        """SAME, VALID or explicit; SAME where the window would not fit otherwise."""
        fits = window[0] <= x.height and window[1] <= x.width
        choices = ["same"] if same or not fits else ["same", "valid"]
        if self.limits.explicit_padding and fits and not same:
            choices.append("explicit")
        match str(self.rng.choice(choices)):
            case "same":
                return same_padding(x, window, stride)
            case "explicit":
                padding = Padding(*(int(side) for side in self.rng.integers(0, 3, 4)))
                if max(_extents(x, window, stride, padding)) <= self.limits.max_size:
                    return padding
        return NO_PADDING

    def _kernel(self) -> int:
        return (1, 3, self._up_to(self.limits.max_kernel))[self.rng.integers(3)]

    def _channels(self) -> int:
        return self._up_to(self.limits.max_channels)

    def _zero_point(self) -> int:
        return (-128, 0, int(self.rng.integers(-128, 128)))[self.rng.integers(3)]

    def _clamp(self, output: Quantisation) -> Pair:
        names: tuple[numerics.Activation, ...] = ("NONE", "NONE", "RELU", "RELU6", "RELU_N1_TO_1")
        low, high = numerics.activation_range(names[self.rng.integers(len(names))], output)
        return (low, high) if high - low > 50 else (-128, 127)

    def _up_to(self, most: int) -> int:
        return int(self.rng.integers(1, most + 1))

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.maps)}"

    def _map(self, kind: str, shape: tuple[int, int, int], quantisation: Quantisation) -> FeatureMap:
        name = kind if kind == "input" else self._name(kind)
        self.maps[name] = FeatureMap(name, *shape, quantisation)
        return self.maps[name]


def same_padding(x: FeatureMap, window: Pair, stride: Pair) -> Padding:
    """TensorFlow's SAME for a window of this extent: as many outputs as strides begin, the odd side last."""
    sides = []
    for extent, taps, step in zip((x.height, x.width), window, stride, strict=True):
        total = max(0, (-(-extent // step) - 1) * step + taps - extent)
        sides += [total // 2, total - total // 2]
    return Padding(*sides)


def _rounds_once(x: FeatureMap, scales: NDArray[np.float32], output: Quantisation) -> bool:
    rule = requantisation.fully_connected(x.quantisation.scale, scales, output, (-128, 127), scales.size)
    return rule.single_rounding


def _extents(x: FeatureMap, window: Pair, stride: Pair, padding: Padding) -> Pair:
    return (
        output_extent(x.height, window[0], stride[0], padding.top + padding.bottom),
        output_extent(x.width, window[1], stride[1], padding.left + padding.right),
    )


def _quantisation(scale: float, zero_point: int) -> Quantisation:
    return Quantisation(float(np.float32(scale)), int(zero_point))
