"""Pass: the maximum of a concatenation becomes the concatenation of its parts' maxima.

A maximum takes each channel for itself, so nothing changes in value; and a part that a convolution computes is pooled
as its rows are written (``steps``), while the maximum of what lies there already is a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from emberline.compiler.steps import pools_on_write
from emberline.model.graph import Concatenation, Graph, MaxPool


def split_maxima(graph: Graph) -> Graph:
    """The same network, value for value; parts of parts are divided too."""
    while (divided := next(filter(None, (_divide(graph, layer) for layer in graph.layers)), None)) is not None:
        graph = divided
    return graph


def _divide(graph: Graph, layer: object) -> Graph | None:
    """The graph with this maximum divided; ``None`` where it is none, or nothing is gained."""
    whole = graph.producer(layer.inputs[0]) if isinstance(layer, MaxPool) else None
    if not isinstance(layer, MaxPool) or not isinstance(whole, Concatenation):
        return None
    if graph.consumers(whole.output) != (layer,) or whole.output in graph.outputs:
        return None
    maps = dict(graph.feature_maps)
    pooled = maps[layer.output]
    parts = []
    for name, output in zip(whole.inputs, _free_names(layer.name, graph), strict=False):
        parts.append(replace(layer, name=output, inputs=(name,), output=output))
        maps[output] = replace(pooled, name=output, channels=maps[name].channels)
    joined = Concatenation(layer.name, tuple(part.output for part in parts), layer.output)
    del maps[whole.output]
    layers = [new for old in graph.layers if old is not whole for new in ((*parts, joined) if old is layer else (old,))]
    divided = replace(graph, layers=tuple(layers), feature_maps=maps)
    written = pools_on_write(divided)
    return divided if any(part.name in written for part in parts) else None


def _free_names(name: str, graph: Graph) -> Iterator[str]:
    """``name[0]`` and so on, without those that the graph has: between the maxima of a chain lie maps of such names."""
    taken = {*graph.feature_maps, *(layer.name for layer in graph.layers)}
    return (each for index in count() if (each := f"{name}[{index}]") not in taken)
