"""Pass: layers that no row operation computes, expressed by layers that one does.

A selection of channels is exactly a 1x1 convolution by ones and zeros. Upsampling is no sum of its inputs at the
resolution it reads, and is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emberline.compiler.checks import refuse
from emberline.model.graph import Convolution, Graph, Layer, Select, Upsample

_IDENTITY = (1 << 30, 1)
"""The multiplier and shift that give every sum back as it is."""


def legalise(graph: Graph) -> Graph:
    """The same network, value for value, in layers that can be compiled.

    Raises ``CompileError``, naming the layer, where there are none.
    """
    return replace(graph, layers=tuple(_legalise(layer, graph) for layer in graph.layers))


def _legalise(layer: Layer, graph: Graph) -> Layer:
    match layer:
        case Select():
            return _as_convolution(layer, graph.feature_maps[layer.inputs[0]].channels)
        case Upsample():
            raise refuse(layer, "Upsample has no hardware yet")
    return layer


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
