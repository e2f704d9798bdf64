"""Selections of channels that cost nothing: the convolution before them writes its channels in their order."""

from __future__ import annotations

from dataclasses import replace

from emberline.model.graph import Convolution, Graph, Layer, Select


def fold_selections(graph: Graph) -> Graph:
    """The network with every selection from an ungrouped convolution's output computed by a convolution of its own.

    The convolution itself goes where nobody else reads it. Values do not change.
    """
    layers: list[Layer] = list(graph.layers)
    for layer in graph.layers:
        producer = graph.producer(layer.inputs[0])
        if isinstance(layer, Select) and isinstance(producer, Convolution) and producer.groups == 1:
            layers[layers.index(layer)] = select_outputs(producer, layer)
    read = {name for layer in (*layers, *graph.host_layers) for name in layer.inputs}.union(graph.outputs)
    kept = tuple(layer for layer in layers if layer.output in read)
    written = {layer.output for layer in (*kept, *graph.host_layers)}.union(graph.inputs)
    maps = {name: x for name, x in graph.feature_maps.items() if name in written}
    return replace(graph, layers=kept, feature_maps=maps)


def select_outputs(producer: Convolution, selection: Select) -> Convolution:
    """The convolution that computes just the selected channels, in their order."""
    channels = list(selection.channels)
    scales = producer.weight_scales
    return replace(
        producer,
        name=selection.name,
        output=selection.output,
        weights=producer.weights[channels],
        bias=producer.bias[channels],
        weight_scales=scales if scales.size == 1 else scales[channels],
        multiplier=producer.multiplier[channels],
        shift=producer.shift[channels],
    )
