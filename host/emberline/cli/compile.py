"""``emberline compile``: a model file becomes a program file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console
from emberline.errors import EmberlineError

if TYPE_CHECKING:
    from emberline.arch.program import Program


def register(app: typer.Typer) -> None:
    app.command(name="compile", help="Compile a model for an architecture and report cycles and memory.")(compile_model)


def compile_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .tflite or .onnx file or a name from the zoo.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the program to this file.")] = None,
    arch: Annotated[str, typer.Option(help="An architecture preset; `emberline info` lists them.")] = "ulx3s-85f",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the schedule's stages; make no program.")] = False,
    split: Annotated[
        str | None, typer.Option(metavar="A:W", help="With --plan: KiB of activations and weights instead.")
    ] = None,
    weights_per_cycle: Annotated[float, typer.Option(help="With --plan: bytes that weights arrive at.")] = 1.0,
) -> None:
    from emberline.cli.networks import find_architecture, load_network
    from emberline.cli.report import compile_report

    if plan:
        show_plan(model, arch, split, weights_per_cycle, as_json)
        return
    network = load_network(model)
    network.need_graph("compiling")
    program = network.compile(find_architecture(arch))
    if output is not None:
        program.save(output)
    report = compile_report(program, None if output is None else str(output))
    if as_json:
        console.print_json(report)
    else:
        print_report(report, program)


def show_plan(model: str, arch: str, split: str | None, weights_per_cycle: float, as_json: bool) -> None:
    """A float network is planned as what it becomes, as `emberline inspect` shows it."""
    from emberline.cli.float_network import is_float
    from emberline.cli.inspect import float_graph
    from emberline.cli.networks import find_architecture, load_network
    from emberline.cli.plan import plan_report, print_plan, with_split

    if weights_per_cycle <= 0:
        raise EmberlineError(f"--weights-per-cycle must be positive, not {weights_per_cycle}")
    architecture = find_architecture(arch)
    if split is not None:
        architecture = with_split(architecture, split)
    graph = float_graph(model) if is_float(model) else load_network(model).need_graph("planning")
    report = plan_report(graph, architecture, weights_per_cycle)
    if as_json:
        console.print_json(report)
    else:
        print_plan(report)


def print_report(report: dict[str, Any], program: Program) -> None:
    """The same for people: layers, memory map, totals."""
    console.print_table(
        ("layer", "kind", ">MACs", ">cycles", ">utilisation", ">weight bytes"),
        [
            (each["name"], each["kind"], each["macs"], each["cycles"], console.percent(each["utilisation"]),
             each["weight_bytes"])
            for each in report["layers"]
        ],
        title=f"{report['network']} on {report['arch']}",
    )  # fmt: skip
    console.print_table(
        ("map", "role", ">from byte", ">to byte", "in use during"),
        [
            (
                each["name"].split(";")[0],
                each["role"],
                each["start_bytes"],
                each["end_bytes"],
                _span(each, report["layers"]),
            )
            for each in report["memory"]
        ],
        title=f"activation buffer, {program.architecture.activation_bytes:,} bytes",
    )
    console.print_line(
        f"{report['predicted_cycles']:,} cycles a frame, {report['macs']:,} MACs: "
        f"{console.percent(report['utilisation'])} of what {report['multipliers']} multipliers can do"
    )
    console.print_line(
        f"{report['activation_bytes']:,} bytes of activations, {report['weight_bytes']:,} of weights, "
        f"{report['instructions']} instruction words: {report['m9k']} M9K blocks"
    )
    if report["file"]:
        console.print_line(f"written to {report['file']}")


def _span(region: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    first, last = layers[region["first_layer"]]["name"], layers[region["last_layer"]]["name"]
    return first if first == last else f"{first} … {last}"
