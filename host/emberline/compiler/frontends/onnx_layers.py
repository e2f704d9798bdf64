"""ONNX operators to layers: one function per kind, from attributes and constants to the integers of a layer.

Sums are requantised as onnxruntime does (``model.onnx_requantisation``); a sum of two maps is LiteRT's, which computes
it in integers where onnxruntime adds floats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.onnx_records import NodeRecord
from emberline.compiler.frontends.onnx_values import Constant
from emberline.compiler.rounding import plan_scaling
from emberline.errors import CompileError, ModelError
from emberline.model import numerics, onnx_requantisation
from emberline.model.graph import NO_PADDING, Convolution, FeatureMap, Padding
from emberline.model.layers import Pair

_LARGEST_BIAS = (1 << 31) - 1
_MOVES = (0, *(sign << power for power in range(16) for sign in (1, -1)))


@dataclass(frozen=True)
class ConvolutionParts:
    """A convolution before its output's quantisation is known.

    Parameters:
        weights: int8 ``[out, kernel_h, kernel_w, in / groups]``.
        scales: float64 ``[out]``, of the weights.
        bias: float64 ``[out]``, in units of the accumulator.
        mean_of: of a mean, how many values.
    """

    name: str
    source: FeatureMap
    weights: NDArray[np.int8]
    scales: NDArray[np.float64]
    bias: NDArray[np.float64]
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Padding = NO_PADDING
    groups: int = 1
    fully_connected: bool = False
    mean_of: int = 0

    @property
    def units(self) -> NDArray[np.float64]:
        """The real value of one step of each accumulator."""
        return self.source.quantisation.scale * self.scales

    def add_bias(self, values: NDArray[np.float64]) -> ConvolutionParts:
        """With real values added to the results, one for all or one a channel."""
        if values.size not in (1, len(self.scales)):
            raise ModelError(f"{values.size} biases for {len(self.scales)} output channels")
        return replace(self, bias=self.bias + values.reshape(-1) / self.units)

    def scale_and_shift(self, factor: NDArray[np.float64], offset: NDArray[np.float64]) -> ConvolutionParts:
        """With the results multiplied and shifted, as a batch normalisation does."""
        if np.any(factor == 0) or not (np.isfinite(factor).all() and np.isfinite(offset).all()):
            raise ModelError("its factors must be finite and not 0")
        negative = factor < 0
        if np.any(self.weights[negative] == -128):
            raise ModelError("a negative factor cannot be folded into weights of -128")
        sign = np.where(negative, -1, 1)
        weights = (self.weights * sign[:, None, None, None]).astype(np.int8)
        scaled = replace(self, weights=weights, scales=self.scales * np.abs(factor), bias=self.bias * sign)
        return scaled.add_bias(offset)

    def ratios(self, target: FeatureMap) -> NDArray[np.float32]:
        """What each channel's sums are multiplied by, in float32 as onnxruntime computes it."""
        scale, result = self.source.quantisation.scale, target.quantisation.scale
        if self.mean_of:
            ratio = np.float32(scale) / (np.float32(result) * np.float32(self.mean_of))
            return np.full(len(self.scales), ratio, np.float32)
        return onnx_requantisation.convolution_ratios(scale, self.scales.astype(np.float32), result)

    def finish(self, target: FeatureMap, clamp: Pair) -> Convolution:
        """The layer that writes ``target``."""
        scales = self.scales.astype(np.float32)
        bias = np.rint(self.bias)
        if not (np.abs(bias) <= _LARGEST_BIAS).all():
            raise ModelError("a bias does not fit 32 bits")
        ratios = self.ratios(target)
        rule, _ = onnx_requantisation.requantisation(ratios, target.quantisation, clamp)
        layer = Convolution(
            self.name,
            (self.source.name,),
            target.name,
            weights=self.weights,
            bias=bias.astype(np.int32),
            weight_scales=scales,
            **rule._asdict(),
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
            fully_connected=self.fully_connected,
            activation_min=clamp[0],
            activation_max=clamp[1],
        )
        return with_two_roundings(layer, self.source.quantisation.zero_point, target.quantisation.zero_point)


def with_two_roundings(layer: Convolution, source_zero: int, target_zero: int) -> Convolution:
    """The layer with multipliers whose single rounding the machine's two can equal.

    Nearly all are so already. A multiplier that is not moves by the least power of two that helps, which changes the
    result of few sums, if any. Where none helps, the layer stays as it is, and the compiler names it.
    """
    if _has_two_roundings(layer, source_zero, target_zero):
        return layer
    multiplier = layer.multiplier.copy()
    for channel in range(layer.output_channels):
        alone = select_channel(layer, channel)
        for move in _MOVES:
            moved = np.clip(alone.multiplier.astype(np.int64) + move, 0, numerics.INT32_MAX).astype(np.int32)
            if _has_two_roundings(replace(alone, multiplier=moved), source_zero, target_zero):
                multiplier[channel] = moved[0]
                break
    return replace(layer, multiplier=multiplier)


def select_channel(layer: Convolution, channel: int) -> Convolution:
    """One output channel's sums and requantisation as a layer that can only be asked for them."""
    one = slice(channel, channel + 1)
    scales = layer.weight_scales if layer.weight_scales.size == 1 else layer.weight_scales[one]
    return replace(
        layer,
        weights=layer.weights[one],
        bias=layer.bias[one],
        weight_scales=scales,
        multiplier=layer.multiplier[one],
        shift=layer.shift[one],
        groups=1,
    )


def _has_two_roundings(layer: Convolution, source_zero: int, target_zero: int) -> bool:
    try:
        plan_scaling(layer, source_zero, target_zero)
    except CompileError:
        return False
    return True


def convolution(node: NodeRecord, source: FeatureMap, weights: Constant, bias: Constant | None) -> ConvolutionParts:
    """Conv of a map ``[1, C, H, W]``, grouped or not."""
    codes = weight_codes(weights, "OIHW")
    if codes.ndim != 4:
        raise ModelError(f"weights {list(codes.shape)} are not supported, only those of two-dimensional convolutions")
    out, depth, *kernel = codes.shape
    groups = int(node.attribute("group", 1))
    if groups < 1 or out % groups or depth * groups != source.channels:
        raise ModelError(f"weights {list(codes.shape)} in {groups} groups do not fit {source.channels} channels")
    if tuple(node.attribute("kernel_shape", kernel)) != tuple(kernel):
        raise ModelError(f"kernel_shape {node.attribute('kernel_shape', kernel)} does not fit weights {kernel}")
    stride, dilation = _pair(node, "strides"), _pair(node, "dilations")
    window = (int(kernel[0]), int(kernel[1]))
    parts = ConvolutionParts(
        node.layer_name,
        source,
        np.ascontiguousarray(codes.transpose(0, 2, 3, 1)),
        _scales(weights, 0, out),
        np.zeros(out),
        stride,
        dilation,
        padding(node, source.shape[:2], window, stride, dilation),
        groups,
    )
    return parts if bias is None else with_bias(parts, bias)


def fully_connected(
    node: NodeRecord, source: FeatureMap, weights: Constant, *, transposed: bool, bias: Constant | None
) -> ConvolutionParts:
    """Gemm and MatMul over a whole map, whose values ONNX has in the order of channels, rows, columns."""
    codes = weight_codes(weights, "a matrix")
    if codes.ndim != 2:
        raise ModelError(f"weights {list(codes.shape)} are not supported, only a matrix")
    matrix = codes if transposed else codes.T
    if matrix.shape[1] != source.size:
        raise ModelError(f"weights {list(codes.shape)} do not fit an input of {source.size} values")
    out = matrix.shape[0]
    kernel = matrix.reshape(out, source.channels, source.height, source.width).transpose(0, 2, 3, 1)
    parts = ConvolutionParts(
        node.layer_name,
        source,
        np.ascontiguousarray(kernel),
        _scales(weights, 0 if transposed else 1, out),
        np.zeros(out),
        fully_connected=True,
    )
    return parts if bias is None else with_bias(parts, bias)


def mean(name: str, source: FeatureMap, window: Pair, stride: Pair) -> ConvolutionParts:
    """The mean of a window as a depthwise convolution of ones, for an output with a quantisation of its own."""
    channels = source.channels
    return ConvolutionParts(
        name,
        source,
        np.ones((channels, *window, 1), np.int8),
        np.full(channels, 1 / (window[0] * window[1])),
        np.zeros(channels),
        stride,
        groups=channels,
        mean_of=window[0] * window[1],
    )


def requantising(name: str, source: FeatureMap) -> ConvolutionParts:
    """The same values with another quantisation: a depthwise 1x1 convolution of ones."""
    return mean(name, source, (1, 1), (1, 1))


def with_bias(parts: ConvolutionParts, bias: Constant) -> ConvolutionParts:
    """The bias' own int32 codes where they are in the accumulator's units, its real values otherwise."""
    if bias.codes is not None and bias.scales is not None:
        same = np.allclose(bias.scales.astype(np.float64), parts.units, rtol=1e-5, atol=0)
        if same and bias.codes.dtype == np.int32 and bias.codes.size == len(parts.bias):
            return replace(parts, bias=bias.codes.reshape(-1).astype(np.float64))
    return parts.add_bias(bias.values)


def weight_codes(weights: Constant, what: str) -> NDArray[np.int8]:
    """int8 codes with zero point 0."""
    if weights.codes is None:
        raise ModelError("its weights are float: quantise the network first (emberline quantize)")
    if weights.codes.dtype != np.int8:
        raise ModelError(f"its weights are {weights.codes.dtype}; only int8 and uint8 are supported ({what})")
    return weights.codes.astype(np.int8)


def padding(node: NodeRecord, size: Pair, window: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Padding:
    """``pads``, or ``auto_pad`` resolved; with ``ceil_mode`` the last window is padded until it is whole."""
    extents = [(taps - 1) * spread + 1 for taps, spread in zip(window, dilation, strict=True)]
    automatic = node.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for whole, taps, step in zip(size, extents, stride, strict=True):
            total = max(0, (-(-whole // step) - 1) * step + taps - whole)
            small, large = total // 2, total - total // 2
            sides.append((small, large) if automatic == "SAME_UPPER" else (large, small))
        return Padding(*sides[0], *sides[1])
    if automatic not in ("NOTSET", "VALID"):
        raise ModelError(f"auto_pad {automatic} is not supported")
    pads = [0] * 4 if automatic == "VALID" else [int(each) for each in node.attribute("pads", [0] * 4)]
    if len(pads) != 4 or min(pads) < 0:
        raise ModelError(f"pads {pads} are not supported")
    begin, end = pads[:2], pads[2:]
    if node.attribute("ceil_mode", 0):
        for axis in (0, 1):
            whole = size[axis] + begin[axis] + end[axis]
            count = ceil((whole - extents[axis]) / stride[axis]) + 1
            if (count - 1) * stride[axis] >= size[axis] + begin[axis]:
                count -= 1  # a window must begin inside the map or its leading padding
            end[axis] = max(end[axis], end[axis] + (count - 1) * stride[axis] + extents[axis] - whole)
    return Padding(begin[0], end[0], begin[1], end[1])


def batch_normalisation(node: NodeRecord, constants: list[Constant]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and offset of each channel."""
    scale, bias, average, variance = (each.values.reshape(-1) for each in constants)
    if node.attribute("training_mode", 0):
        raise ModelError("a batch normalisation in training mode is not supported")
    factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
    return factor, bias - average * factor


def pool_window(node: NodeRecord) -> tuple[Pair, Pair]:
    """Window and stride of a pool."""
    if _pair(node, "dilations") != (1, 1):
        raise ModelError(f"dilations {node.attribute('dilations', None)} of a pool are not supported")
    window = node.attribute("kernel_shape", ())
    if len(window) != 2:
        raise ModelError(f"kernel_shape {list(window)} is not supported, only two dimensions")
    return (int(window[0]), int(window[1])), _pair(node, "strides")


def add_rule(a: FeatureMap, b: FeatureMap, target: FeatureMap) -> numerics.AddParameters:
    """LiteRT's integers of a sum."""
    return numerics.add_parameters(a.quantisation.scale, b.quantisation.scale, target.quantisation.scale)


def _pair(node: NodeRecord, name: str) -> Pair:
    values = node.attribute(name, (1, 1))
    if len(values) != 2 or min(values) < 1:
        raise ModelError(f"{name} {list(values)} are not supported, only two positive numbers")
    return int(values[0]), int(values[1])


def _scales(weights: Constant, axis: int, channels: int) -> NDArray[np.float64]:
    scales = weights.scales
    assert scales is not None
    if scales.size not in (1, channels):
        raise ModelError(f"{scales.size} weight scales for {channels} output channels")
    if scales.size > 1 and weights.axis != axis:
        raise ModelError(f"weights are quantised along dimension {weights.axis}; only output channels ({axis}) can be")
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ModelError("weight scales must be finite and not negative")
    return np.broadcast_to(scales.astype(np.float64).reshape(-1), (channels,))
