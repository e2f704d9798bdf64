"""Pass: what the machine cannot do is refused here, with the layer's name and the reason."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.arch.isa import MAX_POOL_WINDOW
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
                _check_max_pool(graph, layer)
            case Add():
                _check_addition(graph, layer)
            case Convolution():
                _check_convolution(layer)


def _check_max_pool(graph: Graph, layer: MaxPool) -> None:
    width, columns = graph.feature_maps[layer.inputs[0]].width, graph.feature_maps[layer.output].width
    if layer.window[1] > MAX_POOL_WINDOW:
        raise refuse(layer, f"a maximum over at most {MAX_POOL_WINDOW} columns can run, not over {layer.window[1]}")
    if layer.stride[1] > 15:
        raise refuse(layer, f"a maximum every 15 columns at most can run, not every {layer.stride[1]}")
    last_but_one = (columns - 2) * layer.stride[1] + layer.window[1] - 1 - layer.padding.left
    if columns > 1 and last_but_one >= width:
        raise refuse(
            layer, f"only the last window may reach beyond the row: padding {layer.padding.right} on the right"
        )


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
