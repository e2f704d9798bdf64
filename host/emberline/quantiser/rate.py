"""Steps of weights by rate against distortion: coarse where the network hardly notices, to be coded in fewer bits.

Of each convolution, calibration images tell the variance of every input channel and how much the network's outputs
change when its weights change. With these, the change of the outputs by a quantised layer is estimated as

    distortion = sensitivity * sum(variance[input channel] * (weight - step * code) ** 2)

and for a given ``slope`` every layer gets the step and the codes with the least ``distortion + slope * bits``, where
bits are the entropy of the codes. Codes are chosen one by one between the nearest, the next one towards zero, and zero
(entropy-constrained scalar quantisation: Chou, Lookabaugh and Gray, 1989). What the errors do to a channel's mean is
added to its bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.onnx_records import import_onnx
from emberline.errors import ModelError
from emberline.quantiser.calibration import Progress
from emberline.quantiser.preparation import import_onnxruntime

Values = NDArray[np.float32]

_STEPS_PER_OCTAVE = 4
_FINEST, _COARSEST = 127, 2
_ROUNDS = 3
_PROBE = 15
"""Codes on either side of zero when a layer's sensitivity is measured."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """A convolution and what calibration images say of it.

    Parameters:
        name: of its weights.
        bias: of its bias, if it has one.
        weights: ``[out, in / groups, kernel rows, kernel columns]``.
        mean, variance: of each input channel that an output channel reads, ``[out or 1, in / groups]``.
        sensitivity: change of the outputs, as a share of their variance, for each unit of weighted square error.
    """

    name: str
    bias: str | None
    weights: Values
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    sensitivity: float = 0.0

    def distortion(self, values: NDArray[np.floating[Any]]) -> float:
        """The weighted square error of other weights."""
        error = (self.weights - values).astype(np.float64)
        return float((self.variance[:, :, None, None] * error**2).sum())


@dataclass(frozen=True, eq=False)
class Choice:
    """A layer's quantised weights: int8 ``codes`` times ``step``; ``bits`` by their entropy."""

    step: float
    codes: NDArray[np.int8]
    bits: float
    distortion: float

    @property
    def values(self) -> Values:
        """The weights."""
        return self.codes.astype(np.float32) * np.float32(self.step)


def measure(model: Any, frames: Sequence[Values], progress: Progress) -> list[LayerStatistics]:
    """The statistics of every convolution with constant weights, from real inputs ``[1, C, H, W]``."""
    layers = _input_moments(model, frames, progress)
    reference = _run(model, frames)
    scale = float(np.mean((reference - reference.mean(axis=0)) ** 2)) or 1.0
    measured: list[LayerStatistics] = []
    for layer in progress(layers, "sensitivities"):  # type: ignore[arg-type]
        assert isinstance(layer, LayerStatistics)
        step = float(np.abs(layer.weights).max()) / _PROBE
        if step == 0:
            measured.append(layer)
            continue
        values = (np.rint(layer.weights / step) * step).astype(np.float32)
        outputs = _run(with_weights(model, {layer.name: values}, [layer]), frames)
        change = float(np.mean((outputs - reference) ** 2)) / scale
        measured.append(replace(layer, sensitivity=change / max(layer.distortion(values), 1e-30)))
    return measured


def choose(layers: Sequence[LayerStatistics], slope: float) -> dict[str, Choice]:
    """The quantised weights of every layer. Parameters: ``slope``, the change of the outputs that a bit is worth."""
    if slope <= 0:
        raise ValueError(f"slope must be positive, not {slope}")
    return {layer.name: _choose_step(layer, slope) for layer in layers}


def _choose_step(layer: LayerStatistics, slope: float) -> Choice:
    largest = float(np.abs(layer.weights).max())
    if largest == 0:
        return Choice(1.0, np.zeros(layer.weights.shape, np.int8), 0.0, 0.0)
    best: Choice | None = None
    worse = 0
    octaves = np.log2(_FINEST / _COARSEST)
    for index in range(int(octaves * _STEPS_PER_OCTAVE) + 1):
        step = largest / _FINEST * 2 ** (index / _STEPS_PER_OCTAVE)
        choice = _quantise(layer, float(np.float32(step)), slope)
        if best is None or choice.distortion + slope * choice.bits < best.distortion + slope * best.bits:
            best, worse = choice, 0
        else:
            worse += 1
        if worse == 2 * _STEPS_PER_OCTAVE:
            break
    assert best is not None
    return best


def _quantise(layer: LayerStatistics, step: float, slope: float) -> Choice:
    """The codes of a step, by the entropy of those of the round before."""
    scaled = layer.weights.astype(np.float64) / step
    nearest = np.clip(np.rint(scaled), -_FINEST, _FINEST).astype(np.int64)
    weight = layer.sensitivity * step**2 * np.broadcast_to(layer.variance[:, :, None, None], scaled.shape)
    codes = nearest
    candidates = [nearest, nearest - np.sign(nearest), np.zeros_like(nearest)]
    errors = [weight * (scaled - candidate) ** 2 for candidate in candidates]
    for _ in range(_ROUNDS):
        lengths = _code_lengths(codes)
        costs = np.stack(
            [error + slope * lengths[candidate + _FINEST] for error, candidate in zip(errors, candidates, strict=True)]
        )
        codes = np.choose(costs.argmin(axis=0), candidates)
    bits = float(_code_lengths(codes)[codes + _FINEST].sum())
    return Choice(step, codes.astype(np.int8), bits, float((weight * (scaled - codes) ** 2).sum()))


def _code_lengths(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The information of each code from -127 on, in bits; for those that do not occur, as if they did half a time."""
    counts = np.bincount(codes.reshape(-1) + _FINEST, minlength=2 * _FINEST + 1).astype(np.float64)
    return -np.log2(np.maximum(counts, 0.5) / codes.size)


def with_weights(model: Any, values: Mapping[str, Values], layers: Sequence[LayerStatistics]) -> Any:
    """The model with other weights, and biases that take up what the difference does to the means."""
    onnx = import_onnx()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {each.name: each for each in changed.graph.initializer}
    for layer in layers:
        if layer.name not in values:
            continue
        new = values[layer.name]
        constants[layer.name].CopyFrom(onnx.numpy_helper.from_array(new, layer.name))
        if layer.bias is not None:
            error = (layer.weights - new).astype(np.float64)
            bias = onnx.numpy_helper.to_array(constants[layer.bias]) + (error.sum(axis=(2, 3)) * layer.mean).sum(axis=1)
            constants[layer.bias].CopyFrom(onnx.numpy_helper.from_array(bias.astype(np.float32), layer.bias))
    return changed


def _input_moments(model: Any, frames: Sequence[Values], progress: Progress) -> list[LayerStatistics]:
    """Every convolution with mean and variance of its inputs."""
    onnx = import_onnx()
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in constants]
    if not nodes:
        raise ModelError("the network has no convolution with constant weights")
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    sums: dict[str, list[NDArray[np.float64]]] = {}
    session = _session(model, names)
    source = session.get_inputs()[0].name
    for frame in progress(frames, "moments"):
        computed = [name for name in names if name != source]
        tensors = dict(zip(computed, session.run(computed, {source: frame}), strict=True)) | {source: frame}
        for name in names:
            x = tensors[name].astype(np.float64)
            moments = np.stack([x.mean(axis=(0, 2, 3)), (x**2).mean(axis=(0, 2, 3))])
            sums.setdefault(name, []).append(moments)
    found = []
    for node in nodes:
        weights = constants[node.input[1]]
        mean, square = np.mean(sums[node.input[0]], axis=0)
        groups = len(mean) // weights.shape[1]
        # Every output channel reads the channels of its group.
        mean, variance = (
            np.repeat(each.reshape(groups, -1), weights.shape[0] // groups, axis=0) for each in (mean, square - mean**2)
        )
        bias = node.input[2] if len(node.input) > 2 else None
        found.append(LayerStatistics(node.input[1], bias, weights, mean, np.maximum(variance, 1e-12)))
    return found


def _session(model: Any, outputs: Sequence[str] = ()) -> Any:
    """The model in onnxruntime, with further outputs."""
    onnx, onnxruntime = import_onnx(), import_onnxruntime()
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {each.name for each in (*watched.graph.output, *watched.graph.input)}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    return onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(model: Any, frames: Sequence[Values]) -> NDArray[np.float64]:
    """The outputs of every frame, side by side."""
    session = _session(model)
    name = session.get_inputs()[0].name
    results = [np.concatenate([np.ravel(each) for each in session.run(None, {name: frame})]) for frame in frames]
    return np.stack(results).astype(np.float64)
