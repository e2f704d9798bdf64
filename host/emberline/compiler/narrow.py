"""Pass: a wide maximum becomes a chain of narrow ones, as the machine takes maxima of a few columns."""

from __future__ import annotations

from dataclasses import replace

from emberline.arch.isa import MAX_POOL_WINDOW
from emberline.model.graph import FeatureMap, Graph, Layer, MaxPool, Padding

_WIDENING = MAX_POOL_WINDOW - 1
"""Columns by which a maximum of neighbours makes a window wider."""


def narrow_maxima(graph: Graph) -> Graph:
    """The same network, value for value; only the last of a chain is clamped and has rows and strides.

    The padding is dealt out along the chain, as every window must hold a column of its map and only the last window of
    a row may reach beyond it. A maximum whose padding cannot be dealt out stays, and is refused later.
    """
    maps = dict(graph.feature_maps)
    layers: list[Layer] = []
    for layer in graph.layers:
        layers += _chain(layer, maps) if isinstance(layer, MaxPool) else [layer]
    return replace(graph, layers=tuple(layers), feature_maps=maps)


def _chain(layer: MaxPool, maps: dict[str, FeatureMap]) -> list[MaxPool]:
    """The narrow maxima of a wide one; adds the maps between them."""
    count = -(-(layer.window[1] - 1) // _WIDENING) - 1
    source = maps[layer.inputs[0]]
    left, right = layer.padding.left, _used_padding(layer, maps)
    paddings = []
    for _ in range(count):
        paddings.append(Padding(0, 0, min(left, _WIDENING), min(right, 1)))
        left, right = left - paddings[-1].left, right - paddings[-1].right
    last = layer.window[1] - count * _WIDENING
    if count < 1 or left >= last or right >= min(last, layer.stride[1] + 1):
        return [layer]
    chain, x, width = [], source.name, source.width
    for index, padding in enumerate(paddings):
        width += padding.left + padding.right - _WIDENING
        if width < 1:
            return [layer]
        name = f"{layer.name}[{index}]"
        chain.append(MaxPool(name, (x,), name, (1, MAX_POOL_WINDOW), (1, 1), padding))
        x = name
        maps[name] = FeatureMap(name, source.height, width, source.channels, maps[layer.output].quantisation)
    rest = Padding(layer.padding.top, layer.padding.bottom, left, right)
    return [*chain, replace(layer, inputs=(x,), window=(layer.window[0], last), padding=rest)]


def _used_padding(layer: MaxPool, maps: dict[str, FeatureMap]) -> int:
    """Columns right of the map that a window reaches."""
    reach = (maps[layer.output].width - 1) * layer.stride[1] + layer.window[1] - layer.padding.left
    return max(0, reach - maps[layer.inputs[0]].width)
