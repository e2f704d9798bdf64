"""From the trained torch network to a ``FloatGraph``: batch normalisation becomes part of weights and biases."""

from __future__ import annotations

import numpy as np
from torch import nn

from emberline.model.graph import Padding
from emberline.training.dataset import SIDE_PIXELS
from emberline.training.float_graph import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatGlobalAverage,
    FloatGraph,
    FloatLayer,
)
from emberline.training.network import ConvNorm, EmberCifar10, Fire


def fold_norm(name: str, source: str, layer: ConvNorm, side: int) -> FloatConvolution:
    """``norm(conv(x))`` as one convolution: weights times ``gamma / sqrt(variance + epsilon)``, the rest in the bias.

    ``side`` is the width of the input map, which decides the padding. Computed in float64, rounded once.
    """
    weights = layer.conv.weight.detach().numpy().astype(np.float64)
    norm = layer.norm
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"layer '{name}': its normalisation keeps no running statistics")
    gain = norm.weight.detach().numpy().astype(np.float64) / np.sqrt(norm.running_var.double().numpy() + norm.eps)
    bias = norm.bias.detach().numpy() - norm.running_mean.double().numpy() * gain
    return FloatConvolution(
        name,
        (source,),
        (weights * gain[:, None, None, None]).transpose(0, 2, 3, 1).astype(np.float32),
        bias.astype(np.float32),
        layer.stride,
        Padding(*layer.pads(side), *layer.pads(side)),
        layer.relu,
    )


def fold_fire(name: str, source: str, fire: Fire, side: int) -> list[FloatLayer]:
    """A fire module's layers; the last one carries the module's result."""
    squeeze, expand1, expand3 = (f"{name}/{part}" for part in ("squeeze1x1", "expand1x1", "expand3x3"))
    layers: list[FloatLayer] = [
        fold_norm(squeeze, source, fire.squeeze, side),
        fold_norm(expand1, squeeze, fire.expand1, side),
        fold_norm(expand3, squeeze, fire.expand3, side),
        FloatConcatenation(f"{name}/concat", (expand1, expand3)),
    ]
    if fire.bypass:
        layers.append(FloatAdd(f"{name}/bypass", (f"{name}/concat", source), relu=True))
    return layers


def fold_network(network: EmberCifar10, name: str = "ember_cifar10") -> FloatGraph:
    """The whole network on NHWC frames of pixel/255; its last map ``pool`` is ``[1, 1, classes]``."""
    source, side = "image", SIDE_PIXELS
    layers: list[FloatLayer] = []
    for part, module in network.named_children():
        if isinstance(module, ConvNorm):
            layers.append(fold_norm(part, source, module, side))
            side = -(-side // module.stride)
        elif isinstance(module, Fire):
            layers.extend(fold_fire(part, source, module, side))
        elif isinstance(module, nn.Conv2d):
            weights = module.weight.detach().numpy().transpose(0, 2, 3, 1).copy()
            if module.bias is None:
                raise ValueError(f"layer '{part}' has no bias")
            layers.append(FloatConvolution(part, (source,), weights, module.bias.detach().numpy().copy(), relu=False))
        else:
            raise ValueError(f"layer '{part}': a {type(module).__name__} cannot be folded")
        source = layers[-1].name
    layers.append(FloatGlobalAverage("pool", (source,)))
    return FloatGraph(name, "image", (SIDE_PIXELS, SIDE_PIXELS, 3), tuple(layers))
