"""Pass: convolutions cut into pieces of their output channels, each followed by its part of the pool behind it.

The pieces are put together by placement. A map that is only averaged then never exists as a whole, and weights that do
not fit the weight memory at once are needed piece by piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from emberline.arch.architecture import Architecture
from emberline.model.graph import Add, AveragePool, Concatenation, Convolution, FeatureMap, Graph, Layer, MaxPool


def cut_channels(graph: Graph, pieces: Mapping[str, int], architecture: Architecture) -> Graph:
    """The graph with the convolutions named in ``pieces`` cut into so many pieces: at whole words of their channels, or
    at whole groups where these words are fewer."""
    maps = dict(graph.feature_maps)
    layers: list[Layer] = []
    moved: set[str] = set()
    for layer in graph.layers:
        if layer.name in moved:
            continue
        if not (isinstance(layer, Convolution) and layer.name in pieces):
            layers.append(layer)
            continue
        pool = mean_behind(graph, layer) or _maximum_behind(graph, layer)
        last = pool or layer
        parts = []
        for first, end in channel_ranges(layer.output_channels, pieces[layer.name], architecture):
            layers.append(_part(layer, layer.inputs[0], first, end))
            if pool:
                _add_part(maps, layer.output, first, end)
                layers.append(_part(pool, layers[-1].output, first, end))
            parts.append(_add_part(maps, last.output, first, end))
        if pool:
            moved.add(pool.name)
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


def _maximum_behind(graph: Graph, layer: Convolution) -> MaxPool | None:
    """The maximum that alone reads a convolution's map: it may be computed as the rows of a piece are written."""
    readers = graph.consumers(layer.output)
    alone = len(readers) == 1 and layer.output not in graph.outputs
    return readers[0] if alone and isinstance(readers[0], MaxPool) else None


def most_pieces(layer: Convolution, unit: int) -> int:
    """Pieces of so many channels that a convolution can be cut into; grouped ones are not cut."""
    return -(-layer.output_channels // unit) if layer.groups == 1 else 1


def channel_ranges(channels: int, pieces: int, architecture: Architecture) -> list[tuple[int, int]]:
    """The channels of each piece, all of whole words, or groups, but the last."""
    unit = architecture.lanes_in if pieces <= -(-channels // architecture.lanes_in) else architecture.lanes_out
    step = -(-channels // (unit * pieces)) * unit
    return [(first, min(first + step, channels)) for first in range(0, channels, step)]


def _add_part(maps: dict[str, FeatureMap], name: str, first: int, end: int) -> str:
    part = f"{name}[{first}:{end}]"
    maps[part] = replace(maps[name], name=part, channels=end - first)
    return part


def _part(
    layer: AveragePool | MaxPool | Convolution, source: str, first: int, end: int
) -> AveragePool | MaxPool | Convolution:
    """A layer's output channels ``first`` to ``end``; of one that works channel by channel the same inputs."""
    names: dict[str, Any] = {
        "name": f"{layer.name}[{first}:{end}]",
        "inputs": (source,),
        "output": f"{layer.output}[{first}:{end}]",
    }
    if isinstance(layer, AveragePool | MaxPool):
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
    is computed behind one of them, only one is cut; what reads the frame only if it fills half of the memory, as all
    pieces need its rows.
    """
    pieces: dict[str, int] = {}
    for layer in graph.layers:
        if isinstance(layer, Convolution):
            _, rows, columns, depth = layer.weights.shape
            groups, words = -(-layer.output_channels // architecture.lanes_out), -(-depth // architecture.lanes_in)
            taps, share = rows * columns * words, weight_bytes // parts
            if layer.inputs[0] in graph.inputs:  # whose windows may be stored, the taps side by side
                taps, share = -(-rows * columns * depth // architecture.lanes_in), weight_bytes // 2
            size = groups * taps * architecture.multipliers
            unit = architecture.lanes_in if mean_behind(graph, layer) else architecture.lanes_out
            most = most_pieces(layer, unit)
            if size > share and most > 1 and not _is_added_to_any(graph, layer, pieces):
                pieces[layer.name] = min(-(-3 * size // (2 * share)), most)
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
