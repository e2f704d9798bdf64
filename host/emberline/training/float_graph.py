"""A float32 network between training and quantisation: batch normalisation folded, in numpy, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from emberline.model.graph import NO_PADDING, Padding

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FloatLayer:
    """One operation: reads the maps ``inputs``, writes the map that has the layer's own name."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class FloatConvolution(FloatLayer):
    """weights: float32 ``[out, kernel_h, kernel_w, in]``; bias: float32 ``[out]``; padding holds zeros."""

    weights: Floats
    bias: Floats
    stride: int = 1
    padding: Padding = NO_PADDING
    relu: bool = True

    def __post_init__(self) -> None:
        if self.weights.ndim != 4 or self.bias.shape != self.weights.shape[:1]:
            raise ValueError(f"layer '{self.name}': weights {self.weights.shape} do not fit bias {self.bias.shape}")


@dataclass(frozen=True)
class FloatAdd(FloatLayer):
    """Sum of two maps of one shape."""

    relu: bool = False


@dataclass(frozen=True)
class FloatConcatenation(FloatLayer):
    """The inputs' channels one after another."""


@dataclass(frozen=True)
class FloatGlobalAverage(FloatLayer):
    """Mean over all pixels: ``[N, H, W, C]`` to ``[N, 1, 1, C]``."""


@dataclass(frozen=True)
class FloatGraph:
    """Layers in topological order; the last one's map is the logits.

    Parameters: ``input_shape`` is (height, width, channels) of the map ``input``.
    """

    name: str
    input: str
    input_shape: tuple[int, int, int]
    layers: tuple[FloatLayer, ...]

    def __post_init__(self) -> None:
        known = {self.input}
        for layer in self.layers:
            if layer.name in known:
                raise ValueError(f"layer '{layer.name}' exists twice")
            for name in layer.inputs:
                if name not in known:
                    raise ValueError(f"layer '{layer.name}' reads '{name}', which no layer before it writes")
            known.add(layer.name)


def run_float(graph: FloatGraph, frames: Floats) -> dict[str, Floats]:
    """Every map, float32 ``[N, H, W, C]``, by name. frames: float32 ``[N, H, W, C]``."""
    if frames.shape[1:] != graph.input_shape:
        raise ValueError(f"frames must be (N, *{graph.input_shape}), not {frames.shape}")
    maps = {graph.input: frames.astype(np.float32)}
    for layer in graph.layers:
        maps[layer.name] = _run_layer(layer, [maps[name] for name in layer.inputs])
    return maps


def _run_layer(layer: FloatLayer, inputs: list[Floats]) -> Floats:
    match layer:
        case FloatConvolution():
            y = _convolve(inputs[0], layer)
            return np.maximum(y, 0) if layer.relu else y
        case FloatAdd():
            y = inputs[0] + inputs[1]
            return np.maximum(y, 0) if layer.relu else y
        case FloatConcatenation():
            return np.concatenate(inputs, axis=-1)
        case FloatGlobalAverage():
            mean: Floats = inputs[0].mean(axis=(1, 2), keepdims=True)
            return mean
    raise TypeError(f"layer '{layer.name}': no arithmetic for a {type(layer).__name__}")


def _convolve(x: Floats, layer: FloatConvolution) -> Floats:
    out, kernel_h, kernel_w, _ = layer.weights.shape
    p = layer.padding
    padded = np.pad(x, ((0, 0), (p.top, p.bottom), (p.left, p.right), (0, 0)))
    windows = sliding_window_view(padded, (kernel_h, kernel_w), axis=(1, 2))[:, :: layer.stride, :: layer.stride]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)
    y: Floats = patches @ layer.weights.reshape(out, -1).T + layer.bias
    return y
