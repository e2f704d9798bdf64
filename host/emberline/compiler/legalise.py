"""Pass: layers that no row operation computes, expressed by layers that one does, or by none at all.

A selection of channels costs nothing where it can be a matter of places: the convolution before it writes its channels
in the selected order, or else the layers behind it read them where they are (``steps``). What remains, channels of the
frame or channels that occur twice, is a 1x1 convolution by ones and zeros.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emberline.compiler.narrow import narrow_maxima
from emberline.compiler.part_maxima import split_maxima
from emberline.model.graph import Convolution, Graph, Layer, Select

_IDENTITY = (1 << 30, 1)
"""The multiplier and shift that give every sum back as it is."""


def legalise(graph: Graph) -> Graph:
    """The same network, value for value, in layers that can be compiled."""
    return split_maxima(narrow_maxima(_place_selections(graph)))


def _place_selections(graph: Graph) -> Graph:
    maps = dict(graph.feature_maps)
    layers: dict[str, Layer] = {}
    for layer in graph.layers:
        if isinstance(layer, Select):
            producer = layers.get(layer.inputs[0])
            alone = graph.consumers(layer.inputs[0]) == (layer,) and layer.inputs[0] not in graph.outputs
            if isinstance(producer, Convolution) and producer.groups == 1 and alone:
                del layers[layer.inputs[0]], maps[layer.inputs[0]]
                layers[layer.output] = select_outputs(producer, layer)
            elif layer.inputs[0] in graph.inputs or len(set(layer.channels)) < len(layer.channels):
                layers[layer.output] = _as_convolution(layer, maps[layer.inputs[0]].channels)
            else:
                layers[layer.output] = layer
        else:
            layers[layer.output] = layer
    return replace(graph, layers=tuple(layers.values()), feature_maps=maps)


def select_outputs(layer: Convolution, selection: Select) -> Convolution:
    """The ungrouped convolution that writes the selected channels."""
    channels = list(selection.channels)
    scales = layer.weight_scales
    return replace(
        layer,
        output=selection.output,
        weights=layer.weights[channels],
        bias=layer.bias[channels],
        weight_scales=scales if scales.size == 1 else scales[channels],
        multiplier=layer.multiplier[channels],
        shift=layer.shift[channels],
    )


def _as_convolution(layer: Select, channels: int) -> Convolution:
    out = len(layer.channels)
    weights = np.zeros((out, 1, 1, channels), np.int8)
    weights[range(out), 0, 0, layer.channels] = 1
    multiplier, shift = _IDENTITY
    return Convolution(
        layer.name,
        layer.inputs,
        layer.output,
        weights=weights,
        bias=np.zeros(out, np.int32),
        weight_scales=np.ones(1, np.float32),
        multiplier=np.full(out, multiplier, np.int32),
        shift=np.full(out, shift, np.int32),
    )
