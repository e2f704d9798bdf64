"""ONNX operators that compute, one function each: from the values of a node's inputs to the value of its output.

A float operator between DequantizeLinear and QuantizeLinear gives a ``Pending`` result, which becomes a layer when it
is quantised.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from emberline.compiler.frontends import onnx_layers
from emberline.compiler.frontends.onnx_records import NodeRecord
from emberline.compiler.frontends.onnx_values import Constant, Order, Pending, Value, View
from emberline.errors import ModelError
from emberline.model.graph import (
    Add,
    AveragePool,
    Concatenation,
    FeatureMap,
    MaxPool,
    Padding,
    output_extent,
)
from emberline.model.layers import Pair

if TYPE_CHECKING:
    from emberline.compiler.frontends.onnx_reader import Builder


# --- convolutions and matrices


def conv_operator(builder: Builder, node: NodeRecord) -> Value:
    return convolve(builder, node, builder.view(node), builder.constant(node, 1), builder.optional_constant(node, 2))


def convolve(builder: Builder, node: NodeRecord, view: View, weights: Constant, bias: Constant | None) -> Pending:
    """A convolution of a view."""
    source = builder.planes(view, node.inputs[0])
    parts = onnx_layers.convolution(node, source, weights, bias)
    window = (parts.weights.shape[1], parts.weights.shape[2])
    height, width = extents(source, window, parts.stride, parts.padding, parts.dilation)
    return builder.pending_convolution(parts, (1, len(parts.bias), height, width))


def gemm_operator(builder: Builder, node: NodeRecord) -> Value:
    for name in ("alpha", "beta"):
        if node.attribute(name, 1.0) != 1.0:
            raise ModelError(f"{name} {node.attribute(name, 1.0)} is not supported")
    if node.attribute("transA", 0):
        raise ModelError("a transposed first matrix is not supported")
    bias = builder.optional_constant(node, 2)
    transposed = bool(node.attribute("transB", 0))
    return multiply(builder, node, builder.view(node), builder.constant(node, 1), bias, transposed)


def matmul_operator(builder: Builder, node: NodeRecord) -> Value:
    return multiply(builder, node, builder.view(node), builder.constant(node, 1), None, False)


def multiply(
    builder: Builder, node: NodeRecord, view: View, weights: Constant, bias: Constant | None, transposed: bool
) -> Pending:
    """A vector, or a flattened map, times a matrix."""
    single = view.map.height == view.map.width == 1
    if len(view.dims) != 2 or not (view.order is Order.FLAT or (view.order is Order.PLANES and single)):
        raise ModelError(f"it reads '{node.inputs[0]}' of {list(view.dims)}, not a flattened map")
    source = builder.planes(replace(view, order=Order.PLANES), node.inputs[0])
    parts = onnx_layers.fully_connected(node, source, weights, transposed=transposed, bias=bias)
    return builder.pending_convolution(parts, (1, len(parts.bias)))


def batch_normalisation_operator(builder: Builder, node: NodeRecord) -> Value:
    value = builder.value(node, 0)
    if not isinstance(value, Pending) or not isinstance(value.parts, onnx_layers.ConvolutionParts):
        raise ModelError("a batch normalisation is supported only directly behind a convolution")
    constants = [builder.constant(node, position) for position in range(1, 5)]
    parts = value.parts.scale_and_shift(*onnx_layers.batch_normalisation(node, constants))
    return builder.pending_convolution(parts, value.dims)


# --- sums, concatenations, activation functions


def add_operator(builder: Builder, node: NodeRecord) -> Value:
    if len(node.inputs) != 2:
        raise ModelError(f"it has {len(node.inputs)} inputs, not two")
    values = [builder.value(node, position) for position in (0, 1)]
    for value, other in (values, values[::-1]):
        if isinstance(other, Constant):
            if isinstance(value, Pending) and isinstance(value.parts, onnx_layers.ConvolutionParts):
                return builder.pending_convolution(onnx_layers.with_bias(value.parts, other), value.dims)
            raise ModelError("adding a constant is supported only directly behind a convolution or a matrix product")
    return add(builder, node, [builder.view(node, position) for position in (0, 1)])


def add(builder: Builder, node: NodeRecord, views: list[View]) -> Pending:
    """The sum of two maps of one shape."""
    a, b = (builder.planes(view, name) for view, name in zip(views, node.inputs, strict=False))
    if a.shape != b.shape:
        raise ModelError(f"adding {list(views[0].dims)} and {list(views[1].dims)}: broadcasting is not supported")

    def finish(target: FeatureMap, clamp: Pair) -> None:
        rule = onnx_layers.add_rule(a, b, target)
        layer = Add(node.layer_name, (a.name, b.name), target.name, **rule._asdict(), activation_min=clamp[0],
                    activation_max=clamp[1])  # fmt: skip
        builder.layers.append(layer)

    return Pending(node.layer_name, views[0].dims, a.shape, finish)


def concat_operator(builder: Builder, node: NodeRecord) -> Value:
    views = [builder.view(node, position) for position in range(len(node.inputs))]
    pending = concatenate(builder, node, views)
    if views[0].real:
        return pending
    quantisation = views[0].map.quantisation
    return builder.quantise(pending, node.outputs[0], node.outputs[0], quantisation)


def concatenate(builder: Builder, node: NodeRecord, views: list[View]) -> Pending:
    """Channels one after another; maps of another quantisation than the result's are requantised first."""
    if not views:
        raise ModelError("it has no inputs")
    rank = len(views[0].dims)
    if node.attribute("axis", 1) not in (1, 1 - rank) or any(view.order is not Order.PLANES for view in views):
        raise ModelError(f"only channels (axis 1) can be concatenated, not axis {node.attribute('axis', 1)}")
    sources = [builder.planes(view, "its input") for view in views]
    if any(source.shape[:2] != sources[0].shape[:2] for source in sources):
        raise ModelError(f"maps {[list(view.dims) for view in views]} cannot be concatenated")
    channels = sum(source.channels for source in sources)

    def finish(target: FeatureMap, clamp: Pair) -> None:
        if clamp != (-128, 127):
            raise ModelError("an activation function behind a concatenation is not supported")
        parts = [
            source
            if source.quantisation == target.quantisation
            else builder.requantise(source, target.quantisation, f"{node.layer_name}[{index}]", source.name)
            for index, source in enumerate(sources)
        ]
        builder.layers.append(Concatenation(node.layer_name, tuple(part.name for part in parts), target.name))

    height, width, _ = sources[0].shape
    return Pending(node.layer_name, (1, channels, *views[0].dims[2:]), (height, width, channels), finish)


def relu_operator(builder: Builder, node: NodeRecord) -> Value:
    return clip(builder, node, 0.0, inf)


def clip_operator(builder: Builder, node: NodeRecord) -> Value:
    bounds = []
    for position, name, default in ((1, "min", -inf), (2, "max", inf)):
        given = builder.optional_constant(node, position)
        bounds.append(float(node.attribute(name, default)) if given is None else float(given.values.reshape(-1)[0]))
    return clip(builder, node, bounds[0], bounds[1])


def clip(builder: Builder, node: NodeRecord, low: float, high: float) -> Value:
    """Clip a pending result; or a map, which is made by the layer before it or by one more."""
    value = builder.value(node, 0)
    if isinstance(value, Pending):
        return value.clip(low, high)
    view = builder.view(node)
    source = builder.planes(view, node.inputs[0])

    def finish(target: FeatureMap, clamp: Pair) -> None:
        builder.layers.append(onnx_layers.requantising(node.layer_name, source).finish(target, clamp))

    pending = Pending(node.layer_name, view.dims, source.shape, finish).clip(low, high)
    if view.real:
        return pending
    return builder.quantise(pending, node.outputs[0], node.outputs[0], source.quantisation)


# --- pools


def max_pool_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    window, stride = onnx_layers.pool_window(node)
    padding = onnx_layers.padding(node, source.shape[:2], window, stride)
    height, width = extents(source, window, stride, padding)
    target = builder.define(node.outputs[0], (height, width, source.channels), source.quantisation)
    builder.layers.append(MaxPool(node.layer_name, (source.name,), target.name, window, stride, padding))
    return View(target, (1, source.channels, height, width), real=view.real)


def average_pool_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    window, stride = onnx_layers.pool_window(node)
    padding = onnx_layers.padding(node, source.shape[:2], window, stride)
    if any(padding) and node.attribute("count_include_pad", 0):
        raise ModelError("count_include_pad is not supported with padding")
    return average(builder, node, view, window, stride, padding)


def global_average_pool_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    return average(builder, node, view, source.shape[:2], (1, 1), Padding())


def reduce_mean_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    axes = builder.raw(node, 1).reshape(-1).tolist() if node.has_input(1) else list(node.attribute("axes", ()))
    if len(view.dims) != 4 or {int(axis) % 4 for axis in axes} != {2, 3}:
        raise ModelError(f"only the mean over rows and columns is supported, not over axes {axes}")
    pending = average(builder, node, view, source.shape[:2], (1, 1), Padding())
    if not node.attribute("keepdims", 1) and isinstance(pending, Pending):
        return replace(pending, dims=pending.dims[:2])
    return pending


def average(builder: Builder, node: NodeRecord, view: View, window: Pair, stride: Pair, padding: Padding) -> Value:
    """A mean: of codes where the result has its input's quantisation, otherwise a depthwise convolution of ones."""
    source = builder.planes(view, node.inputs[0])
    height, width = extents(source, window, stride, padding)

    def finish(target: FeatureMap, clamp: Pair) -> None:
        if target.quantisation == source.quantisation:
            layer = AveragePool(node.layer_name, (source.name,), target.name, window, stride, padding,
                                activation_min=clamp[0], activation_max=clamp[1])  # fmt: skip
            builder.layers.append(layer)
        elif any(padding):
            raise ModelError("a padded average whose result has another quantisation than its input is not supported")
        else:
            builder.layers.append(onnx_layers.mean(node.layer_name, source, window, stride).finish(target, clamp))

    pending = Pending(node.layer_name, (1, source.channels, height, width), (height, width, source.channels), finish)
    if view.real:
        return pending
    return builder.quantise(pending, node.outputs[0], node.outputs[0], source.quantisation)


def extents(source: FeatureMap, window: Pair, stride: Pair, padding: Padding, dilation: Pair = (1, 1)) -> Pair:
    """Rows and columns of a windowed result."""
    height = output_extent(source.height, window[0], stride[0], padding.top + padding.bottom, dilation[0])
    width = output_extent(source.width, window[1], stride[1], padding.left + padding.right, dilation[1])
    if min(height, width) < 1:
        raise ModelError(f"window {window} with dilation {dilation} does not fit {source.shape} with {padding}")
    return height, width
