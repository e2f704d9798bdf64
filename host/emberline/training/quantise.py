"""Post-training quantisation of a ``FloatGraph`` to the int8 ``Graph`` that LiteRT and the accelerator run.

Weights: symmetric, one scale per output channel, -127..127. Activations: asymmetric, one scale and zero point per map,
calibrated on sample frames: of the ranges from the observed extremes down to a part of them, the one whose codes have
the least squared error. All maps of a concatenation, and both of an average pool, share one. Maps of a ReLU have zero
point -128, so that every code is used. The input is fixed: code = pixel - 128 with scale 1/255.

Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
2018; LiteRT's quantisation specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emberline.model import numerics
from emberline.model.graph import (
    INT8_MAX,
    INT8_MIN,
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Flatten,
    Graph,
    Layer,
    Quantisation,
    Softmax,
)
from emberline.training.float_graph import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatGlobalAverage,
    FloatGraph,
    FloatLayer,
    Floats,
    run_float,
)

INPUT_QUANTISATION = Quantisation(float(np.float32(1 / 255)), INT8_MIN)
"""Of frames of pixel/255: code = pixel - 128."""
SOFTMAX_QUANTISATION = Quantisation(1 / 256, INT8_MIN)
RANGE_STEPS = 41
"""Candidate ranges tried for a map: equal steps from the observed extremes down to ``RANGE_FLOOR`` of them."""
RANGE_FLOOR = 0.4


def scale_frames(pixels: NDArray[np.uint8]) -> Floats:
    """What the float network reads: pixel/255, same shape."""
    return pixels.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class QuantisedWeights:
    """codes: int8, as the weights; scales: float32 ``[out]``, positive."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantise_weights(weights: Floats) -> QuantisedWeights:
    """Symmetric int8 along the first axis: the largest magnitude of a channel becomes 127; zeros get scale 1/127."""
    largest = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    scales = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    codes = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1)))
    return QuantisedWeights(np.clip(codes, -127, 127).astype(np.int8), scales)


def quantise_bias(bias: Floats, input_scale: float, weight_scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """int32 codes of scale ``input_scale * weight_scales``. Raises ``ValueError`` beyond int32."""
    codes = np.rint(bias.astype(np.float64) / (input_scale * weight_scales.astype(np.float64)))
    if np.abs(codes).max() > numerics.INT32_MAX:
        raise ValueError(f"a bias of {np.abs(codes).max():.3g} steps does not fit int32")
    return codes.astype(np.int32)


def quantise_range(low: float, high: float) -> Quantisation:
    """The 256 codes spread over ``low..high``, widened to include zero, which is represented exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / (INT8_MAX - INT8_MIN))) or 1.0
    scale = max(scale, float(np.finfo(np.float32).tiny))  # smaller ones have too few bits to divide by
    return Quantisation(scale, int(np.clip(round(INT8_MIN - low / scale), INT8_MIN, INT8_MAX)))


def quantise_values(values: Floats, quantisation: Quantisation) -> NDArray[np.int8]:
    """The nearest codes, saturated."""
    codes = np.rint(values / quantisation.scale) + quantisation.zero_point
    return np.clip(codes, INT8_MIN, INT8_MAX).astype(np.int8)


def choose_quantisation(values: Floats) -> Quantisation:
    """The range with the least squared error on ``values``; on a tie the wider one."""
    extremes = min(float(values.min()), 0.0), max(float(values.max()), 0.0)

    def error(quantisation: Quantisation) -> float:
        codes = quantise_values(values, quantisation).astype(np.float32)
        return float(
            np.square((codes - quantisation.zero_point) * quantisation.scale - values, dtype=np.float64).mean()
        )

    parts = np.linspace(1.0, RANGE_FLOOR, RANGE_STEPS)
    return min((quantise_range(extremes[0] * part, extremes[1] * part) for part in parts), key=error)


def share_ranges(graph: FloatGraph) -> dict[str, str]:
    """For every map the name of the map whose quantisation it has: LiteRT wants one for a concatenation or a pool."""
    shared = {name: name for name in (graph.input, *(layer.name for layer in graph.layers))}

    def root(name: str) -> str:
        while shared[name] != name:
            name = shared[name]
        return name

    for layer in graph.layers:
        if isinstance(layer, FloatConcatenation | FloatGlobalAverage):
            for name in layer.inputs:
                shared[root(name)] = root(layer.name)
    return {name: root(name) for name in shared}


def calibrate(graph: FloatGraph, frames: Floats, samples_per_map: int = 200_000) -> dict[str, Quantisation]:
    """A quantisation for every map, from float32 frames ``[N, H, W, C]`` of training images.

    A pool has its input's quantisation, so it is the input's values that decide.
    """
    maps = run_float(graph, frames)
    pooled = {layer.name for layer in graph.layers if isinstance(layer, FloatGlobalAverage)}
    shared = share_ranges(graph)
    generator = np.random.default_rng(0)
    chosen = {}
    for group in set(shared.values()):
        members = sorted(name for name, root in shared.items() if root == group and name not in pooled)
        values = np.concatenate([maps[name].ravel() for name in members])
        extremes = np.array([values.min(), values.max()])
        if len(values) > samples_per_map:
            values = np.concatenate([generator.choice(values, samples_per_map, replace=False), extremes])
        chosen[group] = INPUT_QUANTISATION if graph.input in members else choose_quantisation(values)
    return {name: chosen[root] for name, root in shared.items()}


def quantise_graph(graph: FloatGraph, quantisations: Mapping[str, Quantisation]) -> Graph:
    """The int8 network: every float layer, then flatten and softmax on the host as ``logits`` and ``scores``."""
    zeros = np.zeros((1, *graph.input_shape), np.float32)
    maps = {}
    for name, frames in run_float(graph, zeros).items():
        _, height, width, channels = frames.shape
        maps[name] = FeatureMap(name, height, width, channels, quantisations[name])
    layers = tuple(_quantise_layer(layer, maps) for layer in graph.layers)
    last = maps[graph.layers[-1].name]
    maps["logits"] = FeatureMap("logits", 1, 1, last.size, last.quantisation)
    maps["scores"] = FeatureMap("scores", 1, 1, last.size, SOFTMAX_QUANTISATION)
    host = (Flatten("flatten", (last.name,), "logits"), Softmax("softmax", ("logits",), "scores"))
    return Graph(graph.name, (graph.input,), ("scores",), layers, maps, host)


def _quantise_layer(layer: FloatLayer, maps: Mapping[str, FeatureMap]) -> Layer:
    source, target = maps[layer.inputs[0]], maps[layer.name]
    match layer:
        case FloatConvolution():
            weights = quantise_weights(layer.weights)
            multiplier, shift = numerics.convolution_multipliers(
                source.quantisation.scale, weights.scales, target.quantisation.scale, target.channels
            )
            return Convolution(
                layer.name,
                layer.inputs,
                layer.name,
                weights.codes,
                quantise_bias(layer.bias, source.quantisation.scale, weights.scales),
                weights.scales,
                multiplier,
                shift,
                stride=(layer.stride, layer.stride),
                padding=layer.padding,
                activation_min=_activation_min(layer.relu, target.quantisation),
            )
        case FloatAdd():
            scales = [maps[name].quantisation.scale for name in layer.inputs]
            parameters = numerics.add_parameters(scales[0], scales[1], target.quantisation.scale)
            return Add(
                layer.name,
                layer.inputs,
                layer.name,
                *parameters,
                activation_min=_activation_min(layer.relu, target.quantisation),
            )
        case FloatConcatenation():
            return Concatenation(layer.name, layer.inputs, layer.name)
        case FloatGlobalAverage():
            window = (source.height, source.width)
            return AveragePool(layer.name, layer.inputs, layer.name, window, window)
    raise TypeError(f"layer '{layer.name}': a {type(layer).__name__} cannot be quantised")


def _activation_min(relu: bool, output: Quantisation) -> int:
    return numerics.activation_range("RELU" if relu else "NONE", output)[0]
