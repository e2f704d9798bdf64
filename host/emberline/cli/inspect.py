"""``emberline inspect``: a network layer by layer, and what keeps it from running, without writing a program.

Cycles are the compiler's prediction, exactly. A network that the machine cannot hold is predicted for the same machine
with the largest memories there are; one with layers that cannot run layer by layer, each as a network of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.arch.program import LayerReport
    from emberline.model.graph import Graph, Layer


def register(app: typer.Typer) -> None:
    app.command(name="inspect", help="Print a network's layers, their cycles, and which of them cannot run.")(inspect)


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A .tflite, .onnx or .net file, int8 or float, or a zoo name.")
    ],
    arch: Annotated[str, typer.Option(help="An architecture preset; `emberline info` lists them.")] = "ulx3s-85f",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a picture of a frame: the activation memory and the lanes over time. "
            "MODEL may be a compiled program. Needs matplotlib; the file's ending decides the format.",
        ),
    ] = None,
) -> None:
    from emberline.cli.float_network import is_float
    from emberline.cli.networks import find_architecture, load_network

    if plot is not None:
        from emberline.cli.plot import draw

        network = load_network(model)
        draw(network.compile(None if network.program else find_architecture(arch)), plot)
        console.note(f"wrote {plot}")
        if network.program:
            return
    architecture = find_architecture(arch)
    floating = is_float(model)
    graph = float_graph(model) if floating else load_network(model).need_graph("inspecting")
    report = {**build_report(graph, architecture), "quantised": not floating}
    if as_json:
        console.print_json(report)
    else:
        print_report(report)
    if floating:
        console.note(f"{model} is float: quantise it first (emberline quantize {model} ...); this is what it becomes")


def float_graph(model: str) -> Graph:
    """What a float network becomes when it is quantised; its scales are arbitrary, as nothing is calibrated."""
    from emberline.cli.float_network import find_entry, find_float_model, quantised_for_its_shapes

    entry = find_entry(model)
    with TemporaryDirectory() as folder:
        source = find_float_model(model, entry, Path(folder))
        name = entry.name if entry else Path(model).stem
        return quantised_for_its_shapes(source, name, entry.outputs if entry else ())


@dataclass(frozen=True)
class Prediction:
    """What compiling says of a network's layers.

    Parameters:
        cycles, weight_bytes: by the layers' names; a layer that is computed behind another one takes none of its own.
        behind: the layer behind whose convolution such a layer is computed, or those of its parts.
        total: cycles of a frame; ``None`` where the network as a whole cannot be compiled.
        fits: why the machine cannot hold or run it, or ``None``.
    """

    cycles: dict[str, int]
    weight_bytes: dict[str, int]
    behind: dict[str, str]
    total: int | None
    fits: str | None


def predict_layers(graph: Graph, architecture: Architecture) -> Prediction:
    """Compile the network, or as much of it as can be compiled, and see what each layer takes."""
    from emberline.compiler.compile import compile_graph
    from emberline.errors import CompileError

    reason = None
    for machine in (architecture, with_largest_memories(architecture)):
        try:
            program = compile_graph(graph, machine)
        except CompileError as error:
            reason = reason or str(error)
            continue
        return _collect(graph, list(program.layers), program.predicted_cycles, reason)
    reports: list[LayerReport] = []
    for layer in graph.layers:
        try:
            alone = compile_graph(_alone(graph, layer), with_largest_memories(architecture))
        except (CompileError, ValueError):
            continue
        reports.extend(alone.layers)
    return _collect(graph, reports, None, reason)


def with_largest_memories(architecture: Architecture) -> Architecture:
    """The same lanes with as much memory as an architecture can have."""
    from emberline.arch.architecture import LARGEST_DEPTHS

    sizes: dict[str, Any] = LARGEST_DEPTHS
    return replace(architecture, name=f"{architecture.name} with the largest memories", **sizes)


def _collect(graph: Graph, reports: list[LayerReport], total: int | None, fits: str | None) -> Prediction:
    """Steps of the compiler given to the graph's layers: by name, or by the name that theirs begins with."""
    names = sorted((layer.name for layer in graph.layers), key=len, reverse=True)
    found = Prediction({}, {}, {}, total, fits)
    for report in reports:
        owner = next((name for name in names if report.name.startswith(name)), None)
        if owner is None:
            continue
        found.cycles[owner] = found.cycles.get(owner, 0) + report.cycles
        found.weight_bytes[owner] = found.weight_bytes.get(owner, 0) + report.weight_bytes
        rest = report.name.removeprefix(owner)
        for name in names:
            if rest == f" + {name}" or rest.startswith(f" + {name}["):
                others = found.behind.get(name)
                found.behind[name] = f"{others}, {owner}" if others else owner
    return found


def build_report(graph: Graph, architecture: Architecture) -> dict[str, Any]:
    """The JSON document of ``emberline inspect``."""
    prediction = predict_layers(graph, architecture)
    rows = [_row(graph, layer, architecture, prediction) for layer in graph]
    cycles = prediction.total
    macs = graph.macs()
    return {
        "network": graph.name,
        "arch": architecture.name,
        "macs": macs,
        "parameters": graph.parameter_count,
        "predicted_cycles": cycles,
        "utilisation": macs / (cycles * architecture.multipliers) if cycles else None,
        "weight_bytes": sum(row["weight_bytes"] for row in rows),
        "weight_bytes_available": architecture.weight_bytes,
        "largest_activation_bytes": max(row["activation_bytes"] for row in rows),
        "activation_bytes_available": architecture.activation_bytes,
        "supported": all(row["unsupported"] is None for row in rows),
        "fits": prediction.fits is None,
        "why_not": prediction.fits,
        "layers": rows,
    }


def _row(graph: Graph, layer: Layer, architecture: Architecture, prediction: Prediction) -> dict[str, Any]:
    maps = graph.feature_maps
    macs = graph.macs(layer)
    on_host = layer in graph.host_layers
    unsupported = None if on_host else why_unsupported(graph, layer, architecture)
    cycles = None if on_host or unsupported else prediction.cycles.get(layer.name, 0)
    involved = dict.fromkeys((*layer.inputs, layer.output))
    return {
        "name": layer.name,
        "kind": type(layer).__name__,
        "where": "host" if on_host else "accelerator",
        "inputs": [list(maps[name].shape) for name in layer.inputs],
        "output": list(maps[layer.output].shape),
        "macs": macs,
        "parameters": layer.parameter_count,
        "weight_bytes": prediction.weight_bytes.get(layer.name, 0),
        "activation_bytes": sum(_stored_bytes(maps[name].shape, architecture) for name in involved),
        "cycles": cycles,
        "behind": prediction.behind.get(layer.name),
        "utilisation": macs / (cycles * architecture.multipliers) if cycles else None,
        "unsupported": unsupported,
    }


def why_unsupported(graph: Graph, layer: Layer, architecture: Architecture) -> str | None:
    """Why the compiler refuses a layer, were it a network of its own; None if it does not.

    Sizes are not looked at: whether everything fits together is decided by compiling.
    """
    from emberline.compiler.checks import check_graph
    from emberline.compiler.legalise import legalise
    from emberline.compiler.steps import plan_steps
    from emberline.errors import CompileError, ModelError

    try:
        legal = legalise(_alone(graph, layer))
        if len(legal.inputs) == 1:
            check_graph(legal, architecture)
            plan_steps(legal)
    except (CompileError, ModelError) as error:
        return str(error).removeprefix(f"layer '{layer.name}': ")
    return None


def _alone(graph: Graph, layer: Layer) -> Graph:
    """A network of one layer."""
    from emberline.model.graph import Graph

    maps = {name: graph.feature_maps[name] for name in (*layer.inputs, layer.output)}
    return Graph(graph.name, tuple(dict.fromkeys(layer.inputs)), (layer.output,), (layer,), maps)


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
         ">cycles", ">utilisation", "where"),
        [
            (
                row["name"], row["kind"], " + ".join("x".join(map(str, shape)) for shape in row["inputs"]),
                "x".join(map(str, row["output"])), row["macs"], row["parameters"], row["weight_bytes"],
                row["activation_bytes"], row["cycles"],
                None if row["utilisation"] is None else console.percent(row["utilisation"]), _where(row),
            )
            for row in report["layers"]
        ],
        title=f"{report['network']} on {report['arch']}",
    )  # fmt: skip
    console.print_line(f"{report['macs']:,} MACs, {report['parameters']:,} parameters")
    if report["predicted_cycles"] is not None:
        console.print_line(
            f"{report['predicted_cycles']:,} cycles a frame, {console.percent(report['utilisation'])} of the "
            "multipliers' capacity"
        )
    console.print_line(
        f"weights {report['weight_bytes']:,} of {report['weight_bytes_available']:,} bytes; the largest layer's maps "
        f"{report['largest_activation_bytes']:,} of {report['activation_bytes_available']:,} bytes"
    )
    count = sum(row["unsupported"] is not None for row in report["layers"])
    console.print_line("every layer is supported" if not count else f"{count} layers are not supported")
    if report["why_not"]:
        with_more = "; with larger memories it takes the cycles above" if report["predicted_cycles"] else ""
        console.print_line(f"it does not run on {report['arch']}: {report['why_not']}{with_more}")


def _where(row: dict[str, Any]) -> str:
    if row["unsupported"]:
        return f"unsupported: {row['unsupported']}"
    return f"behind {row['behind']}" if row["behind"] else str(row["where"])
