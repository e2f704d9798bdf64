"""ONNX operators that only arrange values, one function each, and the softmax at the end."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from emberline.compiler.frontends.onnx_records import NodeRecord
from emberline.compiler.frontends.onnx_values import Dims, Order, Value, View
from emberline.errors import ModelError
from emberline.model.graph import Pad, Padding, Quantisation, Softmax, Upsample
from emberline.model.softmax import softmax_parameters

if TYPE_CHECKING:
    from emberline.compiler.frontends.onnx_reader import Builder


def reshape_operator(builder: Builder, node: NodeRecord) -> Value:
    view = builder.view(node)
    wanted = [int(each) for each in builder.raw(node, 1).reshape(-1)]
    if not node.attribute("allowzero", 0):
        wanted = [view.dims[axis] if size == 0 and axis < len(view.dims) else size for axis, size in enumerate(wanted)]
    total = prod(view.dims)
    if wanted.count(-1) == 1:
        rest = prod(size for size in wanted if size != -1)
        wanted = [total // max(rest, 1) if size == -1 else size for size in wanted]
    if min(wanted, default=0) < 1 or prod(wanted) != total:
        raise ModelError(f"{list(view.dims)} cannot be reshaped to {wanted}")
    return reshape(builder, node, view, tuple(wanted))


def reshape(builder: Builder, node: NodeRecord, view: View, dims: Dims) -> View:
    """The view under other dimensions; a channel shuffle becomes a layer."""
    height, width, channels = view.map.shape
    if view.order is Order.SHUFFLED and dims == (1, channels, height, width):
        target = builder.select(view.map, view.shuffle(), node.layer_name, node.outputs[0])
        return View(target, dims, real=view.real)
    return view.reshape(dims)


def flatten_operator(builder: Builder, node: NodeRecord) -> Value:
    view = builder.view(node)
    if int(node.attribute("axis", 1)) % len(view.dims) != 1:
        raise ModelError(f"axis {node.attribute('axis', 1)} is not supported, only 1")
    return view.reshape((1, prod(view.dims)))


def squeeze_operator(builder: Builder, node: NodeRecord) -> Value:
    view = builder.view(node)
    axes = builder.raw(node, 1).reshape(-1).tolist() if node.has_input(1) else list(node.attribute("axes", ()))
    rank = len(view.dims)
    removed = {int(axis) % rank for axis in axes} if axes else {axis for axis in range(1, rank) if view.dims[axis] == 1}
    if any(view.dims[axis] != 1 for axis in removed):
        raise ModelError(f"axes {axes} of {list(view.dims)} cannot be squeezed")
    return view.reshape(tuple(size for axis, size in enumerate(view.dims) if axis not in removed))


def transpose_operator(builder: Builder, node: NodeRecord) -> Value:
    view = builder.view(node)
    return view.transpose(tuple(int(axis) for axis in node.attribute("perm", range(len(view.dims))[::-1])))


def identity_operator(builder: Builder, node: NodeRecord) -> Value:
    return builder.value(node, 0)


def split_operator(builder: Builder, node: NodeRecord) -> tuple[Value, ...]:
    view, source = builder.view(node), builder.source(node)
    if int(node.attribute("axis", 0)) % len(view.dims) != 1:
        raise ModelError(f"only channels (axis 1) can be split, not axis {node.attribute('axis', 0)}")
    sizes = builder.raw(node, 1).reshape(-1).tolist() if node.has_input(1) else node.attribute("split", None)
    if sizes is None:
        count = len(node.outputs)
        size = -(-source.channels // count)
        sizes = [size] * (count - 1) + [source.channels - size * (count - 1)]
    if sum(sizes) != source.channels or min(sizes) < 1 or len(sizes) != len(node.outputs):
        raise ModelError(f"{source.channels} channels cannot be split into {list(sizes)}")
    results, start = [], 0
    for index, (size, name) in enumerate(zip(sizes, node.outputs, strict=True)):
        channels = range(start, start + int(size))
        target = builder.select(source, channels, f"{node.layer_name}[{index}]", name)
        results.append(View(target, (1, int(size), *view.dims[2:]), real=view.real))
        start += int(size)
    return tuple(results)


def slice_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    starts, ends = builder.raw(node, 1).reshape(-1), builder.raw(node, 2).reshape(-1)
    axes = builder.raw(node, 3).reshape(-1) if node.has_input(3) else np.arange(len(starts))
    steps = builder.raw(node, 4).reshape(-1) if node.has_input(4) else np.ones(len(starts), int)
    if [int(axis) % len(view.dims) for axis in axes] != [1]:
        raise ModelError(f"only channels (axis 1) can be cut out, not axes {axes.tolist()}")
    channels = range(source.channels)[int(starts[0]) : int(ends[0]) : int(steps[0])]
    if not channels:
        raise ModelError("it cuts out nothing")
    target = builder.select(source, channels, node.layer_name, node.outputs[0])
    return View(target, (1, len(channels), *view.dims[2:]), real=view.real)


def resize_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    if node.attribute("mode", "nearest") != "nearest":
        raise ModelError(f"mode {node.attribute('mode', '')} is not supported, only nearest")
    how = (node.attribute("coordinate_transformation_mode", "half_pixel"),
           node.attribute("nearest_mode", "round_prefer_floor"))  # fmt: skip
    if node.op == "Resize" and how not in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"),
                                           ("half_pixel", "round_prefer_ceil")):  # fmt: skip
        raise ModelError(f"nearest neighbours by {how[0]}, {how[1]} are not supported")
    if node.has_input(3):
        sizes = builder.raw(node, 3).reshape(-1).tolist()
        factors = [each / size for each, size in zip(sizes, view.dims, strict=False)]
    else:
        position = 1 if node.op == "Upsample" else 2
        factors = builder.raw(node, position).reshape(-1).tolist() if node.has_input(position) else []
    if len(factors) != 4 or factors[:2] != [1, 1] or any(each != int(each) or each < 1 for each in factors):
        raise ModelError(f"only whole factors for rows and columns are supported, not {factors}")
    factor = (int(factors[2]), int(factors[3]))
    shape = (source.height * factor[0], source.width * factor[1], source.channels)
    target = builder.define(node.outputs[0], shape, source.quantisation)
    builder.layers.append(Upsample(node.layer_name, (source.name,), target.name, factor))
    return View(target, (1, shape[2], shape[0], shape[1]), real=view.real)


def pad_operator(builder: Builder, node: NodeRecord) -> Value:
    view, source = builder.view(node), builder.source(node)
    given = builder.raw(node, 1).reshape(-1).tolist() if node.has_input(1) else node.attribute("pads", ())
    pads = [int(each) for each in given]
    value = builder.optional_constant(node, 2)
    filling = float(value.values.reshape(-1)[0]) if value is not None else float(node.attribute("value", 0.0))
    if len(pads) != 8 or min(pads) < 0 or any(pads[:2]) or any(pads[4:6]):
        raise ModelError(f"only rows and columns can be padded, not {pads}")
    if node.attribute("mode", "constant") != "constant" or filling != 0 or not view.real:
        raise ModelError(f"only padding with the constant 0 is supported, not {node.attribute('mode', '')} {filling}")
    padding = Padding(pads[2], pads[6], pads[3], pads[7])
    shape = (source.height + pads[2] + pads[6], source.width + pads[3] + pads[7], source.channels)
    target = builder.define(node.outputs[0], shape, source.quantisation)
    builder.layers.append(Pad(node.layer_name, (source.name,), target.name, padding))
    return View(target, (1, shape[2], shape[0], shape[1]), real=view.real)


def softmax_operator(builder: Builder, node: NodeRecord) -> Value:
    view = builder.view(node)
    rank = len(view.dims)
    axis = int(node.attribute("axis", 1 if builder.records.opset < 13 else -1)) % rank
    last = rank - 1 if view.order is Order.PIXELS else 1
    flat = builder.records.opset < 13 and axis == 1 and view.map.height == view.map.width == 1
    if not (axis == last or flat) or view.dims[axis] != view.map.channels:
        raise ModelError(f"axis {axis} of {list(view.dims)} is not supported, only the channels")
    if node.op == "LogSoftmax":
        raise ModelError("operator LogSoftmax is not supported")
    softmax_parameters(view.map.quantisation.scale, 1.0)
    target = builder.define(node.outputs[0], view.map.shape, Quantisation(1 / 256, -128))
    builder.host_layers.append(Softmax(node.layer_name, (view.map.name,), target.name))
    return replace(view, map=target)
