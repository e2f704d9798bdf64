"""Which byte of a pixel holds which channel, where a channel shuffle lies between two grouped convolutions.

The lanes read whole words and write whole groups. A grouped convolution is fast where each of its output groups reads
few words, so where neighbouring bytes belong to one of its groups, on either side. Between two of them a shuffle deals
every group's channels out to all groups of the second. Channels of one group of the first *and* one of the second, in
bytes of their own, serve both.
"""

from __future__ import annotations

from collections.abc import Sequence

from emberline.arch.architecture import Architecture
from emberline.compiler.rows import Layout
from emberline.model.graph import Convolution, Graph, Layer, Select


def choose_layout(graph: Graph, layer: Convolution, source: Layout, architecture: Architecture) -> Layout:
    """The layout of a convolution's result: dense, unless it is shuffled for a grouped convolution.

    Of the dense layouts in both orders, and the one of blocks that start at whole groups, that with the fewest taps of
    a pixel in all the layers concerned.
    """
    channels = layer.output_channels
    dense = Layout.dense(channels, architecture.lanes_out)
    found = _grouped_reader(graph, layer.output)
    if found is None or layer.groups == 1 == found[1].groups:
        return dense
    order, reader, between = found
    blocks: dict[tuple[int, int], list[int]] = {}
    for index, channel in enumerate(order):
        key = index // (channels // reader.groups), channel // (channels // layer.groups)
        blocks.setdefault(key, []).append(channel)
    shuffled = Layout(tuple(order.index(channel) for channel in range(channels)), dense.groups)
    candidates = (dense, shuffled, _aligned([blocks[key] for key in sorted(blocks)], channels, architecture))

    def cost(layout: Layout) -> int:
        read = Layout(tuple(layout.positions[channel] for channel in order), layout.groups)
        after = Layout.dense(reader.output_channels, architecture.lanes_out)
        return (
            taps(layer, source, layout, architecture)
            + between * layout.groups
            + taps(reader, read, after, architecture)
        )

    return min(candidates, key=cost)


def taps(layer: Convolution, source: Layout, target: Layout, architecture: Architecture) -> int:
    """Words that one pixel of a convolution's result reads, summed over its output groups."""
    depth, per_group = layer.weights.shape[3], layer.output_channels // layer.groups
    words: dict[int, set[int]] = {}
    for channel, position in enumerate(target.positions):
        first = channel // per_group * depth
        inputs = source.positions[first : first + depth]
        span = words.setdefault(position // architecture.lanes_out, set())
        span |= {each // architecture.lanes_in for each in inputs}
    kernel = layer.kernel[0] * layer.kernel[1]
    return kernel * sum(max(span) - min(span) + 1 for span in words.values())


def _grouped_reader(graph: Graph, name: str) -> tuple[list[int], Convolution, int] | None:
    """What lies behind a map that only a shuffle reads.

    The map's channel behind each channel that the next convolution reads, that convolution, and the kernel rows of the
    depthwise ones before it; None where there is something else.
    """
    select = _only_reader(graph, name)
    if not isinstance(select, Select) or len(select.channels) != graph.feature_maps[name].channels:
        return None
    rows, reader = 0, _only_reader(graph, select.output)
    while isinstance(reader, Convolution) and reader.groups == len(select.channels) == reader.output_channels:
        rows += reader.kernel[0]
        reader = _only_reader(graph, reader.output)
    return (list(select.channels), reader, rows) if isinstance(reader, Convolution) else None


def _only_reader(graph: Graph, name: str) -> Layer | None:
    readers = graph.consumers(name)
    return readers[0] if len(readers) == 1 and name not in graph.outputs else None


def _aligned(blocks: Sequence[Sequence[int]], channels: int, architecture: Architecture) -> Layout:
    """Blocks of channels one behind the other, each in groups of its own."""
    positions = [0] * channels
    group = 0
    for block in blocks:
        for index, channel in enumerate(block):
            positions[channel] = group * architecture.lanes_out + index
        group += -(-len(block) // architecture.lanes_out)
    return Layout(tuple(positions), group)
