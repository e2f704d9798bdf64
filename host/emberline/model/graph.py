"""The quantised network as a checked graph; its layers and feature maps are defined in ``layers`` and exported here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from emberline.errors import ModelError
from emberline.model.layers import (
    ACCELERATOR_LAYERS,
    HOST_LAYERS,
    INT8_MAX,
    INT8_MIN,
    NO_PADDING,
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Flatten,
    Layer,
    MaxPool,
    Pad,
    Padding,
    Quantisation,
    Select,
    Softmax,
    Upsample,
    output_extent,
)

__all__ = [
    "INT8_MAX",
    "INT8_MIN",
    "NO_PADDING",
    "Add",
    "AveragePool",
    "Concatenation",
    "Convolution",
    "FeatureMap",
    "Flatten",
    "Graph",
    "Layer",
    "MaxPool",
    "Pad",
    "Padding",
    "Quantisation",
    "Select",
    "Softmax",
    "Upsample",
    "output_extent",
    "unique_names",
]


@dataclass(frozen=True)
class Graph:
    """A network: ``layers`` run on the accelerator, ``host_layers`` on the host after them.

    Parameters:
        inputs, outputs: feature map names; ``outputs`` are the network's own results, after the host layers.
        layers, host_layers: each in topological order.
        feature_maps: by name; every map is an input or the output of exactly one layer.

    Raises ``ModelError``, naming the layer, where the parts do not fit together.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    feature_maps: Mapping[str, FeatureMap]
    host_layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        if not (self.inputs and self.outputs and self.layers):
            raise ModelError(f"network '{self.name}' needs at least one input, one output and one layer")
        for name in (*self.inputs, *self.outputs):
            if name not in self.feature_maps:
                raise ModelError(f"network '{self.name}' has no feature map '{name}'")
        for name, feature_map in self.feature_maps.items():
            if feature_map.name != name:
                raise ModelError(f"feature map '{feature_map.name}' is listed as '{name}'")
        if len(set(self.inputs)) < len(self.inputs) or len(set(self.outputs)) < len(self.outputs):
            raise ModelError(f"network '{self.name}': inputs {self.inputs} or outputs {self.outputs} repeat a map")
        self._check_layers()
        for name in self.inputs:
            if not self.consumers(name):
                raise ModelError(f"network '{self.name}': no layer reads input '{name}'")
        for name in self.feature_maps:
            if name not in self.inputs and self.producer(name) is None:
                raise ModelError(f"feature map '{name}' is produced by no layer")
        for name in self.accelerator_outputs:
            if name in self.inputs:
                raise ModelError(f"output of '{name}' does not pass through the accelerator")

    def _check_layers(self) -> None:
        known, names = set(self.inputs), set()
        read = {name for layer in self for name in layer.inputs}.union(self.outputs)
        for layer in self:
            allowed = HOST_LAYERS if layer in self.host_layers else ACCELERATOR_LAYERS
            if not isinstance(layer, allowed):
                raise ModelError(f"layer '{layer.name}': a {type(layer).__name__} cannot run there")
            if layer.name in names:
                raise ModelError(f"layer '{layer.name}': another layer has the same name")
            for name in (*layer.inputs, layer.output):
                if name not in self.feature_maps:
                    raise ModelError(f"layer '{layer.name}': unknown feature map '{name}'")
            for name in layer.inputs:
                if name not in known:
                    raise ModelError(f"layer '{layer.name}': reads '{name}' before it is produced")
            if layer.output in known:
                raise ModelError(f"layer '{layer.name}': '{layer.output}' already has a producer")
            if layer.output not in read:
                raise ModelError(f"layer '{layer.name}': nothing reads its output '{layer.output}'")
            layer.check(self.feature_maps)
            known.add(layer.output)
            names.add(layer.name)

    def __iter__(self) -> Iterator[Layer]:
        """All layers in the order of execution, the host's last."""
        yield from self.layers
        yield from self.host_layers

    def producer(self, name: str) -> Layer | None:
        """The layer that writes a feature map; None for an input."""
        return next((layer for layer in self if layer.output == name), None)

    def consumers(self, name: str) -> tuple[Layer, ...]:
        """The layers that read a feature map, in order, the host's last."""
        return tuple(layer for layer in self if name in layer.inputs)

    @property
    def accelerator_outputs(self) -> tuple[str, ...]:
        """The maps the accelerator must deliver: the outputs, seen through the host layers."""
        host = {layer.output: layer.inputs[0] for layer in self.host_layers}
        found = []
        for name in self.outputs:
            while name in host:
                name = host[name]
            found.append(name)
        return tuple(dict.fromkeys(found))

    def macs(self, layer: Layer | None = None) -> int:
        """Multiply-accumulates per frame of one layer, or of the whole network."""
        return sum(each.macs(self.feature_maps) for each in (self if layer is None else (layer,)))

    @property
    def parameter_count(self) -> int:
        """Weights and biases of the whole network."""
        return sum(layer.parameter_count for layer in self)


def unique_names(names: Iterable[str]) -> list[str]:
    """Printable names for feature maps; one that is empty or occurs twice gets ``#`` and its position."""
    cleaned = ["".join(c if c.isprintable() else "?" for c in name[:1000]) for name in names]
    counts = Counter(cleaned)
    return [name if name and counts[name] == 1 else f"{name}#{index}" for index, name in enumerate(cleaned)]
