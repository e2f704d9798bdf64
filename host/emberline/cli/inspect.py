"""``emberline inspect``: a network layer by layer, and what keeps it from running, before anything is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.model.graph import Graph, Layer


def register(app: typer.Typer) -> None:
    app.command(name="inspect", help="Print a network's layers, and which of them cannot run, without compiling.")(
        inspect
    )


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .tflite or .onnx file or a name from the zoo.")],
    arch: Annotated[str, typer.Option(help="An architecture preset; `emberline info` lists them.")] = "ulx3s-85f",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.networks import find_architecture, load_network

    network = load_network(model)
    report = build_report(network.need_graph("inspecting"), find_architecture(arch))
    if as_json:
        console.print_json(report)
    else:
        print_report(report)


def build_report(graph: Graph, architecture: Architecture) -> dict[str, Any]:
    """The JSON document of ``emberline inspect``."""
    rows = [_row(graph, layer, architecture) for layer in graph]
    cycles = sum(row["estimated_cycles"] or 0 for row in rows)
    macs = graph.macs()
    return {
        "network": graph.name,
        "arch": architecture.name,
        "macs": macs,
        "parameters": graph.parameter_count,
        "estimated_cycles": cycles,
        "utilisation": macs / (cycles * architecture.multipliers) if cycles else 0.0,
        "weight_bytes": sum(row["weight_bytes"] for row in rows),
        "weight_bytes_available": architecture.weight_bytes,
        "largest_activation_bytes": max(row["activation_bytes"] for row in rows),
        "activation_bytes_available": architecture.activation_bytes,
        "supported": all(row["unsupported"] is None for row in rows),
        "layers": rows,
    }


def _row(graph: Graph, layer: Layer, architecture: Architecture) -> dict[str, Any]:
    maps = graph.feature_maps
    macs = graph.macs(layer)
    on_host = layer in graph.host_layers
    cycles = None if on_host else estimated_cycles(graph, layer, architecture)
    involved = dict.fromkeys((*layer.inputs, layer.output))
    return {
        "name": layer.name,
        "kind": type(layer).__name__,
        "where": "host" if on_host else "accelerator",
        "inputs": [list(maps[name].shape) for name in layer.inputs],
        "output": list(maps[layer.output].shape),
        "macs": macs,
        "parameters": layer.parameter_count,
        "weight_bytes": 0 if on_host else _weight_bytes(graph, layer, architecture),
        "activation_bytes": sum(_stored_bytes(maps[name].shape, architecture) for name in involved),
        "estimated_cycles": cycles,
        "utilisation": macs / (cycles * architecture.multipliers) if cycles else None,
        "unsupported": None if on_host else why_unsupported(graph, layer, architecture),
    }


def why_unsupported(graph: Graph, layer: Layer, architecture: Architecture) -> str | None:
    """Why the compiler refuses a layer, were it a network of its own; None if it does not.

    Sizes are not looked at: whether everything fits together is decided by compiling.
    """
    from emberline.compiler.checks import check_graph
    from emberline.compiler.legalise import legalise
    from emberline.errors import CompileError, ModelError
    from emberline.model.graph import Graph

    maps = {name: graph.feature_maps[name] for name in (*layer.inputs, layer.output)}
    try:
        alone = Graph(graph.name, tuple(dict.fromkeys(layer.inputs)), (layer.output,), (layer,), maps)
        legal = legalise(alone)
        if len(legal.inputs) == 1:
            check_graph(legal, architecture)
    except (CompileError, ModelError) as error:
        return str(error).removeprefix(f"layer '{layer.name}': ")
    return None


def estimated_cycles(graph: Graph, layer: Layer, architecture: Architecture) -> int:
    """Cycles in which the lanes take a layer's words; compiling adds what a row needs beside them.

    Every output pixel and group of ``lanes_out`` channels takes one cycle for each word of its window. A first layer's
    rows are packed into words. A depthwise layer, a pool and a sum take each window once for each group of channels.
    """
    from emberline.model.graph import Concatenation, Convolution, Flatten, Pad, Softmax

    if isinstance(layer, Concatenation | Flatten | Softmax):
        return 0
    source, target = graph.feature_maps[layer.inputs[0]], graph.feature_maps[layer.output]
    groups = _up(target.channels, architecture.lanes_out)
    pixels = target.height * target.width
    if isinstance(layer, Convolution):
        rows, columns = layer.kernel
        depth = layer.weights.shape[3]
        if layer.inputs[0] in graph.inputs and layer.groups == 1:
            return pixels * groups * rows * _up(columns * source.channels, architecture.lanes_in)
        return pixels * groups * rows * columns * _up(depth, architecture.lanes_in)
    window = getattr(layer, "window", (1, 1))
    return pixels * groups * (1 if isinstance(layer, Pad) else window[0] * window[1])


def _weight_bytes(graph: Graph, layer: Layer, architecture: Architecture) -> int:
    """Weights in whole words, and ten bytes of requantisation for every output channel."""
    from emberline.arch.architecture import PARAMETER_BYTES
    from emberline.model.graph import Convolution

    if not isinstance(layer, Convolution):
        return 0
    words = estimated_cycles(graph, layer, architecture)
    target = graph.feature_maps[layer.output]
    per_pixel = words // (target.height * target.width)
    channels = _up(target.channels, architecture.lanes_out) * architecture.lanes_out
    return per_pixel * architecture.multipliers + channels * PARAMETER_BYTES


def _stored_bytes(shape: tuple[int, int, int], architecture: Architecture) -> int:
    """A map in whole groups of channels."""
    height, width, channels = shape
    return height * width * _up(channels, architecture.lanes_out) * architecture.lanes_out


def _up(value: int, step: int) -> int:
    return -(-value // step)


def print_report(report: dict[str, Any]) -> None:
    """The same for people."""
    console.print_table(
        ("layer", "operator", "input", "output", ">MACs", ">parameters", ">weight bytes", ">activation bytes",
         ">cycles, about", ">utilisation", "where"),
        [
            (
                row["name"], row["kind"], " + ".join("x".join(map(str, shape)) for shape in row["inputs"]),
                "x".join(map(str, row["output"])), row["macs"], row["parameters"], row["weight_bytes"],
                row["activation_bytes"], row["estimated_cycles"],
                None if row["utilisation"] is None else console.percent(row["utilisation"]),
                f"unsupported: {row['unsupported']}" if row["unsupported"] else row["where"],
            )
            for row in report["layers"]
        ],
        title=f"{report['network']} on {report['arch']}",
    )  # fmt: skip
    console.print_line(
        f"{report['macs']:,} MACs, {report['parameters']:,} parameters; about {report['estimated_cycles']:,} cycles a "
        f"frame, {console.percent(report['utilisation'])} of the multipliers' capacity"
    )
    console.print_line(
        f"weights {report['weight_bytes']:,} of {report['weight_bytes_available']:,} bytes; the largest layer's maps "
        f"{report['largest_activation_bytes']:,} of {report['activation_bytes_available']:,} bytes"
    )
    count = sum(row["unsupported"] is not None for row in report["layers"])
    console.print_line("every layer is supported" if not count else f"{count} layers are not supported")
