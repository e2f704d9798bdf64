"""After an ONNX file is read: an activation function that stands alone is given to the layer before it.

Models quantised with symmetric activations keep QuantizeLinear and DequantizeLinear between a convolution and its Relu.
Where both sides have one quantisation, the Relu is a layer that changes nothing but the range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from emberline.model.graph import FeatureMap, Graph, Layer
from emberline.model.layers import Add, AveragePool, Convolution, MaxPool

_Clamped = Add | AveragePool | Convolution | MaxPool


def fold_clamps(graph: Graph) -> Graph:
    """The network without layers that only clamp what a layer before them computes for nobody else."""
    layers: list[Layer] = []
    removed: set[str] = set()
    producers: dict[str, int] = {}
    for layer in graph.layers:
        position = producers.get(layer.inputs[0])
        before = layers[position] if position is not None else None
        if (
            isinstance(layer, Convolution)
            and isinstance(before, _Clamped)
            and position is not None
            and only_clamps(layer, graph.feature_maps)
            and len(graph.consumers(before.output)) == 1
            and before.output not in graph.outputs
        ):
            removed.add(before.output)
            low = min(max(before.activation_min, layer.activation_min), layer.activation_max)
            high = max(min(before.activation_max, layer.activation_max), layer.activation_min)
            layers[position] = replace(before, output=layer.output, activation_min=low, activation_max=high)
            producers[layer.output] = position
        else:
            producers[layer.output] = len(layers)
            layers.append(layer)
    maps = {name: x for name, x in graph.feature_maps.items() if name not in removed}
    return replace(graph, layers=tuple(layers), feature_maps=maps)


def only_clamps(layer: Convolution, maps: Mapping[str, FeatureMap]) -> bool:
    """Whether a layer gives back every code as it is, within its range."""
    source, target = maps[layer.inputs[0]], maps[layer.output]
    return (
        source.quantisation == target.quantisation
        and source.shape == target.shape
        and layer.weights.shape == (source.channels, 1, 1, 1)
        and layer.groups == source.channels
        and bool((layer.weights == 1).all())
        and not layer.bias.any()
        and bool(np.all(layer.multiplier.astype(np.int64) << np.maximum(layer.shift, 0) == 1 << 31))
        and bool((layer.shift >= 0).all())
    )
