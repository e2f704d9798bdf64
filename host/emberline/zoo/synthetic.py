"""Networks with random weights, for measuring: published topologies, a SqueezeNet-style stack, single layers.

Every network is the same each time it is built. Nothing about its speed depends on its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    Padding,
    Quantisation,
    Select,
    output_extent,
)

SEED = 20
_QUANTISATION = Quantisation(float(np.float32(0.05)), -7)
_SAME_3X3 = Padding(1, 1, 1, 1)
_LATE_3X3 = Padding(0, 1, 0, 1)
"""SAME for an even map and a stride of 2: the odd row and column are the last."""


class _Stack:
    """Layers one after another; each method returns the name of its feature map."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self._rng = np.random.default_rng(SEED)
        self._maps = {"input": FeatureMap("input", height, width, channels, _QUANTISATION)}
        self._layers: list[Layer] = []

    def convolution(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: Padding = NO_PADDING,
        *,
        depthwise: bool = False,
        groups: int = 1,
    ) -> str:
        groups = self._maps[x].channels if depthwise else groups
        weights = self._rng.integers(-127, 128, (channels, kernel, kernel, self._maps[x].channels // groups), np.int8)
        # Sums of so many products of codes spread like this; results shall use much of int8, layer after layer.
        spread = 60 if x == "input" else 25
        scale = numerics.quantise_multiplier(float(30 / (73 * spread * np.sqrt(weights[0].size))))
        self._window(name, x, kernel, stride, padding, channels)
        self._layers.append(
            Convolution(
                name,
                (x,),
                name,
                weights,
                self._rng.integers(-2000, 2000, channels, dtype=np.int32),
                np.ones(1, np.float32),
                np.full(channels, scale.multiplier, np.int32),
                np.full(channels, scale.shift, np.int32),
                stride=(stride, stride),
                padding=padding,
                groups=groups,
                activation_min=_QUANTISATION.zero_point,
            )
        )
        return name

    def fire(self, x: str, name: str, squeeze: int, expand: int) -> str:
        """A fire module: 1x1 to ``squeeze`` channels, 1x1 and 3x3 to ``expand`` channels each, side by side."""
        narrow = self.convolution(x, f"{name}/squeeze1x1", squeeze, 1)
        parts = (
            self.convolution(narrow, f"{name}/expand1x1", expand, 1),
            self.convolution(narrow, f"{name}/expand3x3", expand, 3, 1, _SAME_3X3),
        )
        return self.concatenate(name, *parts)

    def max_pool(self, x: str, name: str, padding: Padding = NO_PADDING) -> str:
        self._window(name, x, 3, 2, padding, self._maps[x].channels)
        self._layers.append(MaxPool(name, (x,), name, (3, 3), (2, 2), padding))
        return name

    def average_pool(self, x: str, name: str) -> str:
        self._window(name, x, 3, 2, _SAME_3X3, self._maps[x].channels)
        self._layers.append(AveragePool(name, (x,), name, (3, 3), (2, 2), _SAME_3X3))
        return name

    def shuffle(self, x: str, name: str, groups: int) -> str:
        source = self._maps[x]
        order = np.arange(source.channels).reshape(groups, -1).T.reshape(-1)
        self._maps[name] = FeatureMap(name, *source.shape, _QUANTISATION)
        self._layers.append(Select(name, (x,), name, tuple(order.tolist())))
        return name

    def concatenate(self, name: str, *parts: str) -> str:
        source = self._maps[parts[0]]
        channels = sum(self._maps[part].channels for part in parts)
        self._maps[name] = FeatureMap(name, source.height, source.width, channels, _QUANTISATION)
        self._layers.append(Concatenation(name, parts, name))
        return name

    def add(self, name: str, a: str, b: str) -> str:
        rule = numerics.add_parameters(*[_QUANTISATION.scale] * 3)
        self._maps[name] = FeatureMap(name, *self._maps[a].shape, _QUANTISATION)
        self._layers.append(Add(name, (a, b), name, **rule._asdict(), activation_min=_QUANTISATION.zero_point))
        return name

    def global_average(self, x: str, name: str) -> str:
        source = self._maps[x]
        self._maps[name] = FeatureMap(name, 1, 1, source.channels, _QUANTISATION)
        self._layers.append(AveragePool(name, (x,), name, (source.height, source.width), (1, 1), NO_PADDING))
        return name

    def graph(self, name: str) -> Graph:
        return Graph(name, ("input",), (self._layers[-1].output,), tuple(self._layers), self._maps)

    def _window(self, name: str, x: str, kernel: int, stride: int, padding: Padding, channels: int) -> None:
        source = self._maps[x]
        height = output_extent(source.height, kernel, stride, padding.top + padding.bottom)
        width = output_extent(source.width, kernel, stride, padding.left + padding.right)
        self._maps[name] = FeatureMap(name, height, width, channels, _QUANTISATION)


def squeezenet_style(name: str) -> Graph:
    """SqueezeNet v1.1's kinds of layers in its order, sized so that weights and maps fit the ulx3s-85f preset."""
    stack = _Stack(99, 99, 3)
    x = stack.max_pool(stack.convolution("input", "conv1", 64, 3, 2), "pool1")
    x = stack.fire(x, "fire2", 16, 64)
    x = stack.max_pool(stack.fire(x, "fire3", 16, 64), "pool3")
    x = stack.fire(x, "fire4", 32, 96)
    x = stack.fire(x, "fire5", 32, 80)
    stack.global_average(stack.convolution(x, "conv10", 64, 1), "pool10")
    return stack.graph(name)


def squeezedet(name: str) -> Graph:
    """SqueezeDet (Wu et al., arXiv:1612.01051), its SqueezeNet backbone with fire10 and fire11, before 9 anchors.

    A third of KITTI's 1248x384 pixels in each direction, as its first layer's maps alone would take 7.5 MB.
    """
    stack = _Stack(128, 416, 3)
    x = stack.max_pool(stack.convolution("input", "conv1", 64, 3, 2, _SAME_3X3), "pool1", _LATE_3X3)
    sizes = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256), (96, 384), (96, 384))
    for number, (squeeze, expand) in enumerate(sizes, 2):
        x = stack.fire(x, f"fire{number}", squeeze, expand)
        if number in (3, 5):
            x = stack.max_pool(x, f"pool{number}", _LATE_3X3)
    stack.convolution(x, "conv12", 9 * (4 + 1 + 3), 3, 1, _SAME_3X3)
    return stack.graph(name)


def shufflenet(name: str) -> Graph:
    """ShuffleNet v1 0.5x with 3 groups, 224x224 (Zhang et al., arXiv:1707.01083): 38 million MACs, 16 shuffles."""
    groups = 3
    stack = _Stack(224, 224, 3)
    x = stack.max_pool(stack.convolution("input", "conv1", 24, 3, 2, _SAME_3X3), "pool1", _LATE_3X3)
    before = 24
    for stage, (units, channels) in enumerate(((4, 120), (8, 240), (4, 480)), 2):
        narrow = channels // 4
        for unit in range(units):
            prefix = f"stage{stage}/{unit}"
            first = 1 if (stage, unit) == (2, 0) else groups
            y = stack.convolution(x, f"{prefix}/reduce", narrow, 1, groups=first)
            y = stack.shuffle(y, f"{prefix}/shuffle", groups)
            y = stack.convolution(y, f"{prefix}/depthwise", narrow, 3, 1 if unit else 2, _SAME_3X3, depthwise=True)
            if unit:
                y = stack.convolution(y, f"{prefix}/expand", channels, 1, groups=groups)
                x = stack.add(f"{prefix}/sum", x, y)
            else:
                y = stack.convolution(y, f"{prefix}/expand", channels - before, 1, groups=groups)
                x = stack.concatenate(f"{prefix}/join", stack.average_pool(x, f"{prefix}/pool"), y)
        before = channels
    stack.convolution(stack.global_average(x, "pool5"), "fc", 1000, 1)
    return stack.graph(name)


def _layer(size: Sequence[int], channels: int, kernel: int, *, depthwise: bool = False) -> Callable[[str], Graph]:
    """One layer with stride 1 and zero points around it, from a map of ``size`` (height, width, channels)."""

    def build(name: str) -> Graph:
        stack = _Stack(*size)
        padding = Padding(*[kernel // 2] * 4)
        stack.convolution("input", "layer", channels, kernel, padding=padding, depthwise=depthwise)
        return stack.graph(name)

    return build


SYNTHETIC: dict[str, tuple[str, Callable[[str], Graph]]] = {
    "synthetic-squeezenet": (
        "3x3/2 convolution, maximum, fire modules, maximum, 1x1 convolution, global average",
        squeezenet_style,
    ),
    "synthetic-squeezedet": ("SqueezeDet's topology on 416x128: fire modules before anchors", squeezedet),
    "synthetic-shufflenet": ("ShuffleNet v1 0.5x, 3 groups, 224x224: grouped convolutions and shuffles", shufflenet),
    "synthetic-3x3": ("one layer: 3x3, 32 to 32 channels, on 32x32", _layer((32, 32, 32), 32, 3)),
    "synthetic-1x1": ("one layer: 1x1, 64 to 64 channels, on 24x24", _layer((24, 24, 64), 64, 1)),
    "synthetic-first": ("one layer: 3x3, 3 to 32 channels, on 48x48", _layer((48, 48, 3), 32, 3)),
    "synthetic-depthwise": (
        "one layer: depthwise 3x3, 32 channels, on 32x32",
        _layer((32, 32, 32), 32, 3, depthwise=True),
    ),
}
"""By name: one line about each network, and what builds it."""


def synthetic_network(name: str) -> Graph:
    """The network of that name; ``KeyError`` if there is none."""
    return SYNTHETIC[name][1](name)
