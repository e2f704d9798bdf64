"""A small network for every operator, by name: what model, compiler, emulator and RTL must all have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from graph_cases import Network, same

from emberline.model import numerics
from emberline.model.graph import NO_PADDING, FeatureMap, Graph, Padding, Quantisation, Select, Upsample


def _grown(net: Network, channels: int = 20) -> str:
    """A map behind the frame, with more channels than a word."""
    return net.convolution("input", channels, (1, 1))


def _select(net: Network, x: str, channels: tuple[int, ...]) -> str:
    source, name = net.maps[x], f"select{len(net.layers)}"
    net.maps[name] = FeatureMap(name, source.height, source.width, len(channels), source.quantisation)
    net.layers.append(Select(name, (x,), name, channels))
    return name


def _upsample(net: Network, x: str, factor: tuple[int, int]) -> str:
    source, name = net.maps[x], f"upsample{len(net.layers)}"
    shape = (source.height * factor[0], source.width * factor[1], source.channels)
    net.maps[name] = FeatureMap(name, *shape, source.quantisation)
    net.layers.append(Upsample(name, (x,), name, factor))
    return name


def depthwise(kernel: tuple[int, int], multiplier: int = 1, **options: object) -> Callable[[], Graph]:
    def build() -> Graph:
        net = Network(9, 11, 3)
        x = _grown(net)
        net.convolution(x, 20 * multiplier, kernel, groups=20, **options)  # type: ignore[arg-type]
        return net.graph()

    return build


def convolution(
    kernel: tuple[int, int], size: tuple[int, int, int] = (13, 11, 3), **options: object
) -> Callable[[], Graph]:
    def build() -> Graph:
        net = Network(*size)
        net.convolution("input", 10, kernel, **options)  # type: ignore[arg-type]
        return net.graph()

    return build


def pool(
    kind: str, window: tuple[int, int], stride: tuple[int, int], padding: Padding = NO_PADDING, *, alone: bool = False
) -> Callable[[], Graph]:
    """``alone``: of the frame, not behind a convolution."""

    def build() -> Graph:
        net = Network(9, 10, 3)
        getattr(net, f"{kind}_pool")("input" if alone else _grown(net), window, stride, padding)
        return net.graph()

    return build


def sum_of_different_scales() -> Graph:
    net = Network(5, 7, 3)
    a, b = net.convolution("input", 12), net.convolution("input", 12)
    scales = [float(np.float32(scale)) for scale in (0.03, 0.11, 0.08)]
    for name, scale, zero in ((a, scales[0], 9), (b, scales[1], -128)):
        net.maps[name] = replace(net.maps[name], quantisation=Quantisation(scale, zero))
    total = net.add(a, b, **numerics.add_parameters(*scales)._asdict())
    net.maps[total] = replace(net.maps[total], quantisation=Quantisation(scales[2], 17))
    return net.graph()


def split_and_concatenated() -> Graph:
    net = Network(4, 5, 3)
    x = _grown(net, 32)
    a, b = _select(net, x, tuple(range(16))), _select(net, x, tuple(range(16, 32)))
    net.concatenate([net.convolution(a, 9, (1, 1)), net.convolution(b, 7, padding=same(3))])
    return net.graph()


def shuffled_groups() -> Graph:
    net = Network(4, 5, 3)
    x = net.convolution(_grown(net, 24), 24, (1, 1), groups=3)
    x = _select(net, x, tuple(group * 8 + index for index in range(8) for group in range(3)))
    net.convolution(net.convolution(x, 24, groups=24, padding=same(3)), 30, (1, 1), groups=3)
    return net.graph()


def grouped() -> Graph:
    net = Network(5, 6, 3)
    net.convolution(_grown(net, 24), 32, (3, 3), groups=4, padding=same(3), stride=(2, 1))
    return net.graph()


def upsampled() -> Graph:
    """A feature pyramid's step: small and large maps joined."""
    net = Network(6, 8, 3)
    large = _grown(net)
    small = net.convolution(large, 12, (2, 2), stride=(2, 2))
    net.convolution(net.concatenate([_upsample(net, small, (2, 2)), large]), 9, padding=same(3))
    return net.graph()


def upsampled_unequally() -> Graph:
    net = Network(2, 3, 5)
    _upsample(net, "input", (3, 4))
    return net.graph()


def fully_connected() -> Graph:
    net = Network(3, 4, 6)
    net.convolution(_grown(net, 5), 21, (3, 4))
    return net.graph()


def clamped(low: int, high: int) -> Callable[[], Graph]:
    """ReLU and ReLU6 are ranges of codes."""

    def build() -> Graph:
        net = Network(5, 6, 3)
        net.convolution("input", 9)
        net.layers[-1] = replace(net.layers[-1], activation_min=low, activation_max=high)
        return net.graph()

    return build


def detector() -> Graph:
    """Heads of two resolutions, classes and boxes each."""
    net = Network(8, 10, 3)
    fine = _grown(net, 16)
    coarse = net.convolution(fine, 16, stride=(2, 2), padding=same(3))
    heads = [net.convolution(x, channels, padding=same(3)) for x in (fine, coarse) for channels in (4, 6)]
    return net.graph(*heads)


def padded() -> Graph:
    """A frame of zero points that is read twice."""
    net = Network(5, 6, 3)
    x = net.pad("input", Padding(1, 2, 0, 3))
    net.add(net.convolution(x, 8, (1, 1)), net.convolution(x, 8, padding=same(3)))
    return net.graph()


CEILING = Padding(0, 1, 0, 1)
CASES: dict[str, Callable[[], Graph]] = {
    "depthwise 3x3": depthwise((3, 3), padding=same(3)),
    "depthwise 3x3/2": depthwise((3, 3), stride=(2, 2), padding=CEILING),
    "depthwise 5x5": depthwise((5, 5), padding=same(5)),
    "depthwise 7x2": depthwise((7, 2), padding=Padding(3, 3, 0, 1)),
    "depthwise 3x3, multiplier 2": depthwise((3, 3), 2, padding=same(3)),
    "depthwise 3x3, dilated": depthwise((3, 3), dilation=(2, 2), padding=Padding(2, 2, 2, 2)),
    "grouped 3x3": grouped,
    "grouped 1x1, shuffle, depthwise, grouped 1x1": shuffled_groups,
    "split and concatenation": split_and_concatenated,
    "7x7/2": convolution((7, 7), stride=(2, 2)),
    "5x5": convolution((5, 5), padding=same(5)),
    "10x4/2 on 49x10x1": convolution((10, 4), (49, 10, 1), stride=(2, 2), padding=Padding(4, 5, 1, 1)),
    "3x3, dilated": convolution((3, 3), dilation=(2, 3), padding=Padding(2, 2, 3, 3)),
    "1x3 on one row": convolution((1, 3), (1, 17, 20)),
    "3x1 on one column": convolution((3, 1), (17, 1, 20), padding=Padding(1, 1, 0, 0)),
    "padding with the zero point": padded,
    "maximum 2x2/2": pool("max", (2, 2), (2, 2)),
    "maximum 3x3/2, ceiling": pool("max", (3, 3), (2, 2), CEILING),
    "maximum 3x3/1": pool("max", (3, 3), (1, 1), same(3)),
    "maximum 3x3/3": pool("max", (3, 3), (3, 3)),
    "maximum 2x3/1x4": pool("max", (2, 3), (1, 4)),
    "maximum 5x5/2": pool("max", (5, 5), (2, 2), Padding(2, 2, 2, 2)),
    "maximum 2x2/2 of the frame": pool("max", (2, 2), (2, 2), alone=True),
    "average 2x2/2": pool("average", (2, 2), (2, 2)),
    "average 3x3/2, padded": pool("average", (3, 3), (2, 2), same(3)),
    "average 4x3/3 of the frame": pool("average", (4, 3), (3, 3), alone=True),
    "global average": pool("average", (9, 10), (1, 1)),
    "sum of different scales": sum_of_different_scales,
    "upsampling and concatenation": upsampled,
    "upsampling 3x4 of the frame": upsampled_unequally,
    "fully connected": fully_connected,
    "ReLU": clamped(-7, 127),
    "ReLU6": clamped(-7, 40),
    "detector with four outputs": detector,
}
