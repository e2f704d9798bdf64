"""Pass: convolutions cut into pieces of their output channels, each followed by its part of the mean behind it.

The pieces are put together by placement. A map that is only averaged then never exists as a whole, and weights that do
not fit the weight memory at once are needed piece by piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from emberline.arch.architecture import Architecture
from emberline.model.graph import Add, AveragePool, Concatenation, Convolution, FeatureMap, Graph, Layer


def cut_channels(graph: Graph, pieces: Mapping[str, int], lanes_in: int) -> Graph:
    """The graph with the convolutions named in ``pieces`` cut into so many pieces, at whole words of their channels."""
    maps = dict(graph.feature_maps)
    layers: list[Layer] = []
    moved: set[str] = set()
    for layer in graph.layers:
        if layer.name in moved:
            continue
        if not (isinstance(layer, Convolution) and layer.name in pieces):
            layers.append(layer)
            continue
        mean = mean_behind(graph, layer)
        last = mean or layer
        parts = []
        for first, end in channel_ranges(layer.output_channels, pieces[layer.name], lanes_in):
            layers.append(_part(layer, layer.inputs[0], first, end))
            if mean:
                _add_part(maps, layer.output, first, end)
                layers.append(_part(mean, layers[-1].output, first, end))
            parts.append(_add_part(maps, last.output, first, end))
        if mean:
            moved.add(mean.name)
            del maps[layer.output]
        layers.append(Concatenation(last.name, tuple(parts), last.output))
    return replace(graph, layers=tuple(layers), feature_maps=maps)


def mean_behind(graph: Graph, layer: Convolution) -> AveragePool | Convolution | None:
    """What alone reads a convolution's map, channel by channel, all rows at once."""
    readers = graph.consumers(layer.output)
    if len(readers) != 1 or layer.output in graph.outputs:
        return None
    height, channels = graph.feature_maps[layer.output].height, layer.output_channels
    match readers[0]:
        case AveragePool(window=(rows, _)) as mean if rows == height:
            return mean
        case Convolution(kernel=(rows, _)) as mean if rows == height and mean.groups == channels:
            return mean if mean.output_channels == channels else None
    return None


def most_pieces(layer: Convolution, lanes_in: int) -> int:
    """Pieces of whole words that a convolution can be cut into; grouped ones are not cut."""
    return -(-layer.output_channels // lanes_in) if layer.groups == 1 else 1


def channel_ranges(channels: int, pieces: int, lanes_in: int) -> list[tuple[int, int]]:
    """The channels of each piece, all of whole words but the last."""
    words = -(-channels // lanes_in)
    step = -(-words // pieces) * lanes_in
    return [(first, min(first + step, channels)) for first in range(0, channels, step)]


def _add_part(maps: dict[str, FeatureMap], name: str, first: int, end: int) -> str:
    part = f"{name}[{first}:{end}]"
    maps[part] = replace(maps[name], name=part, channels=end - first)
    return part


def _part(layer: AveragePool | Convolution, source: str, first: int, end: int) -> AveragePool | Convolution:
    """A layer's output channels ``first`` to ``end``; of one that works channel by channel the same inputs."""
    names: dict[str, Any] = {
        "name": f"{layer.name}[{first}:{end}]",
        "inputs": (source,),
        "output": f"{layer.output}[{first}:{end}]",
    }
    if isinstance(layer, AveragePool):
        return replace(layer, **names)
    arrays: dict[str, Any] = {
        name: values[first:end] if len(values := getattr(layer, name)) > 1 else values
        for name in ("weights", "bias", "weight_scales", "multiplier", "shift")
    }
    groups = end - first if layer.groups > 1 else 1
    return replace(layer, **names, **arrays, groups=groups)


def cut_for_weights(graph: Graph, weight_bytes: int, architecture: Architecture, parts: int = 2) -> dict[str, int]:
    """Pieces for the convolutions whose weights fill more than one of ``parts`` of the memory.

    They are of two thirds of that at most, so that one is computed while others come. Of the operands of a sum, which
    is computed behind one of them, only one is cut.
    """
    pieces: dict[str, int] = {}
    for layer in graph.layers:
        if isinstance(layer, Convolution):
            _, rows, columns, depth = layer.weights.shape
            groups, words = -(-layer.output_channels // architecture.lanes_out), -(-depth // architecture.lanes_in)
            size = groups * rows * columns * words * architecture.multipliers
            most = most_pieces(layer, architecture.lanes_in)
            if size > weight_bytes // parts and most > 1 and not _is_added_to_any(graph, layer, pieces):
                pieces[layer.name] = min(-(-3 * parts * size // (2 * weight_bytes)), most)
    return pieces


def _is_added_to_any(graph: Graph, layer: Layer, names: Mapping[str, int]) -> bool:
    """Whether a sum of a layer's output has an operand that one of ``names`` makes."""
    others = (
        name
        for reader in graph.consumers(layer.output)
        if isinstance(reader, Add)
        for name in reader.inputs
        if name != layer.output
    )
    return any((maker := graph.producer(name)) is not None and maker.name in names for name in others)


def cut_for_memory(
    graph: Graph, name: str, pieces: Mapping[str, int], missing_words: int, lanes_in: int
) -> dict[str, int] | None:
    """Smaller pieces of a convolution with a mean behind it: of the one that ``name``, a layer or piece, is part of.

    Parameters:
        missing_words: by how much the rows of a piece, all of which the mean needs at once, are too large.
    """
    whole = name.split("[")[0]
    for layer in graph.layers:
        if isinstance(layer, Convolution) and (mean := mean_behind(graph, layer)) is not None:
            now, most = pieces.get(layer.name, 1), most_pieces(layer, lanes_in)
            if whole in (layer.name, mean.name) and now < most:
                x = graph.feature_maps[layer.output]
                words = -(-most // now)
                room = max(1, words - -(-missing_words // (x.height * x.width)))
                return {**pieces, layer.name: min(most, max(now + 1, -(-most // room)))}
    return None
