"""Pass: what the machine cannot do is refused here, with the layer's name and the reason."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.errors import CompileError
from emberline.model.graph import Add, Convolution, Graph, Layer, MaxPool


def refuse(layer: Layer | str, reason: str) -> CompileError:
    """The error of a layer that cannot run."""
    name = layer if isinstance(layer, str) else layer.name
    return CompileError(f"layer '{name}': {reason}")


def kib(size_bytes: int) -> str:
    """A size for messages: whole bytes where rounding would hide the difference."""
    return f"{size_bytes / 1024:.1f} KiB" if size_bytes >= 10240 else f"{size_bytes / 1024:.3f} KiB"


def check_graph(graph: Graph, architecture: Architecture) -> None:
    """Raise ``CompileError`` for what no schedule can bring to this machine. Sizes are checked where they arise."""
    if len(graph.inputs) != 1:
        raise CompileError(f"network '{graph.name}': one input can be fed, not {len(graph.inputs)} {graph.inputs}")
    for layer in graph.layers:
        match layer:
            case MaxPool():
                raise refuse(layer, "MaxPool has no hardware yet")
            case Add():
                _check_addition(graph, layer)
            case Convolution():
                _check_convolution(layer)


def _check_addition(graph: Graph, layer: Add) -> None:
    if layer.left_shift != 20:
        raise refuse(layer, f"an addition with 20 guard bits can run, not with {layer.left_shift}")
    if max(*layer.input_shifts, layer.output_shift) > 0:
        raise refuse(layer, f"scales up: shifts {layer.input_shifts} and {layer.output_shift} must not be positive")
    if min(*layer.input_multipliers, layer.output_multiplier) < 0:
        raise refuse(layer, "multipliers must not be negative")
    if all(name in graph.inputs for name in layer.inputs):
        raise refuse(layer, "the network's input cannot be added to itself")


def _check_convolution(layer: Convolution) -> None:
    if layer.shift.min() < -31 or layer.shift.max() > 30:
        raise refuse(layer, f"shifts {layer.shift.min()}..{layer.shift.max()} are not within -31..30")
