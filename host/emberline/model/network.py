"""Run a whole network in numpy: the golden result that emulator, RTL and hardware must equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emberline.model import kernels
from emberline.model.graph import (
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Flatten,
    Graph,
    Layer,
    MaxPool,
    Pad,
    Select,
    Softmax,
    Upsample,
)

Frames = NDArray[np.int8]


def run(
    graph: Graph, frames: Frames | Mapping[str, Frames], *, keep: bool = False, batch: int = 16
) -> dict[str, Frames]:
    """The network's outputs for N frames, by feature map name, each int8 ``[N, H, W, C]``.

    Parameters:
        frames: int8 ``[N, H, W, C]`` of the only input, or a mapping from input names to such arrays.
        keep: return every feature map, inputs and intermediate maps included.
        batch: frames computed at a time; changes speed and memory, never a value.

    Raises ``ValueError`` for a wrong type or shape, naming both shapes.
    """
    if not isinstance(frames, Mapping):
        if len(graph.inputs) != 1:
            raise ValueError(f"network '{graph.name}' has inputs {graph.inputs}; pass a mapping")
        frames = {graph.inputs[0]: frames}
    count = _frame_count(graph, frames)
    names = tuple(graph.feature_maps) if keep else graph.outputs
    results = {name: np.empty((count, *graph.feature_maps[name].shape), np.int8) for name in names}
    for start in range(0, count, batch):
        piece = {name: frames[name][start : start + batch] for name in graph.inputs}
        for name, values in _run_batch(graph, piece, names).items():
            results[name][start : start + batch] = values
    return results


def run_layer(layer: Layer, inputs: tuple[Frames, ...], maps: Mapping[str, FeatureMap]) -> Frames:
    """The output of one layer for its inputs ``[N, H, W, C]``; ``maps`` give shapes and quantisations."""
    sources, target = [maps[name].quantisation for name in layer.inputs], maps[layer.output].quantisation
    x = inputs[0]
    match layer:
        case Convolution():
            return kernels.convolution(x, layer, sources[0].zero_point, target.zero_point)
        case Add():
            return kernels.add(x, inputs[1], layer, [source.zero_point for source in sources], target.zero_point)
        case Concatenation():
            return kernels.concatenate(inputs)
        case AveragePool() | MaxPool():
            pool = kernels.average_pool if isinstance(layer, AveragePool) else kernels.max_pool
            clamp = (layer.activation_min, layer.activation_max)
            return pool(x, layer.window, layer.stride, layer.padding, clamp)
        case Pad():
            return kernels.pad(x, layer.padding, sources[0].zero_point)
        case Select():
            return x[..., list(layer.channels)]
        case Upsample():
            return kernels.upsample(x, layer.factor)
        case Flatten():
            return x.reshape(len(x), 1, 1, -1)
        case Softmax():
            return kernels.softmax(x, sources[0].scale, layer.beta)
    raise TypeError(f"layer '{layer.name}': no arithmetic for a {type(layer).__name__}")


def _frame_count(graph: Graph, frames: Mapping[str, Frames]) -> int:
    if set(frames) != set(graph.inputs):
        raise ValueError(f"network '{graph.name}' has inputs {graph.inputs}, not {tuple(frames)}")
    for name, values in frames.items():
        expected = graph.feature_maps[name].shape
        if values.dtype != np.int8 or values.ndim != 4 or values.shape[1:] != expected:
            raise ValueError(
                f"input '{name}' takes int8 (N, {', '.join(map(str, expected))}), not {values.dtype} {values.shape}"
            )
    counts = {len(values) for values in frames.values()}
    if len(counts) != 1:
        raise ValueError(f"the inputs have different numbers of frames: {sorted(counts)}")
    return counts.pop()


def _run_batch(graph: Graph, maps: dict[str, Frames], names: tuple[str, ...]) -> dict[str, Frames]:
    """All layers on one batch; a map is dropped after its last reader unless it is in ``names``."""
    readers = Counter(name for layer in graph for name in layer.inputs)
    readers.update(names)
    for layer in graph:
        maps[layer.output] = run_layer(layer, tuple(maps[name] for name in layer.inputs), graph.feature_maps)
        for name in layer.inputs:
            readers[name] -= 1
            if not readers[name]:
                del maps[name]
    return {name: maps[name] for name in names}
