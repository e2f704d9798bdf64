"""``emberline compile``: a model file becomes a program file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console
from emberline.errors import EmberlineError

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.arch.program import Program
    from emberline.compiler.network_plan import WeightPlace


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
    weights: Annotated[
        str,
        typer.Option(
            help="resident, flash, link (of another machine if need be), or auto: resident if they fit, else fetched."
        ),
    ] = "auto",
    flash_rate: Annotated[float | None, typer.Option(help="MB/s of the flash, of another machine then.")] = None,
    flash_image: Annotated[
        Path | None,
        typer.Option(help="Write what the flash must hold to this file; of two flashes to NAME.0.bin and NAME.1.bin."),
    ] = None,
    flash_offset: Annotated[str, typer.Option(help="Where in the flash, or in each, that lies.")] = "0x400000",
) -> None:
    from emberline.cli.machines import compile_for, weight_place
    from emberline.cli.networks import find_architecture, load_network
    from emberline.cli.report import compile_report
    from emberline.compiler.network_plan import WeightPlace

    architecture, place = find_architecture(arch), weight_place(weights)
    if place is WeightPlace.LINK and (flash_rate is not None or flash_image is not None):
        raise EmberlineError("--weights link takes no --flash-rate and no --flash-image: nothing is in a flash")
    if plan:
        show_plan(model, architecture, split, place, flash_rate, as_json)
        return
    network = load_network(model)
    network.need_graph("compiling")
    program = compile_for(network, architecture, place, flash_rate, _flash_offset(flash_offset))
    if output is not None:
        program.save(output)
    if flash_image is not None:
        if not program.stream:
            raise EmberlineError(
                f"--flash-image: all weights of '{program.network}' are in the machine, none in the flash"
            )
        _write_images(flash_image, program)
    report = compile_report(program, None if output is None else str(output))
    if as_json:
        console.print_json(report)
    else:
        print_report(report, program)


def _write_images(path: Path, program: Program) -> None:
    """The bytes of the flash, or those of each flash."""
    from emberline.arch.flash import flash_images

    images = flash_images(program.architecture, program.stream)
    for number, data in enumerate(images):
        (path if len(images) == 1 else path.with_suffix(f".{number}{path.suffix}")).write_bytes(data)


def _flash_offset(text: str) -> int:
    try:
        offset = int(text, 0)
    except ValueError:
        offset = -1
    if offset % 4096 or not 0 <= offset < 1 << 24:
        raise EmberlineError(f"--flash-offset is a multiple of 4096 below 16 MiB, as in 0x400000, not '{text}'")
    return offset


def show_plan(
    model: str,
    architecture: Architecture,
    split: str | None,
    place: WeightPlace,
    rate: float | None,
    as_json: bool,
) -> None:
    """A float network is planned as what it becomes, as `emberline inspect` shows it."""
    from emberline.cli.float_network import is_float
    from emberline.cli.inspect import float_graph
    from emberline.cli.machines import on_machine
    from emberline.cli.networks import load_network
    from emberline.cli.plan import plan_report, print_plan, with_split

    graph = float_graph(model) if is_float(model) else load_network(model).need_graph("planning")

    def plan(machine: Architecture) -> dict[str, Any]:
        return plan_report(graph, machine if split is None else with_split(machine, split), place)

    report = on_machine(architecture, place, rate, plan)
    if as_json:
        console.print_json(report)
    else:
        print_plan(report)


def print_report(report: dict[str, Any], program: Program) -> None:
    """The same for people: layers, memory map, totals."""
    from emberline.cli.machines import weight_megabytes_per_second

    fetched = report["fetched_bytes"]
    console.print_table(
        ("layer", "kind", ">MACs", ">cycles", ">utilisation", ">weight bytes", *([">stored"] if fetched else [])),
        [
            (each["name"], each["kind"], each["macs"], each["cycles"], console.percent(each["utilisation"]),
             each["weight_bytes"], *([each["stored_bytes"]] if fetched else []))
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
    if report["pages"] > 1:
        depth = program.architecture.program_depth_words
        console.print_line(f"instructions in {report['pages']} pages, through an instruction memory of {depth:,} words")
    if fetched:
        waiting = sum(layer["spent"]["weights"] for layer in report["layers"])
        rate = weight_megabytes_per_second(program.architecture) or 0
        from_link = program.architecture.fetches_from_link
        where = "of weights for the link" if from_link else f"in the flash from {program.stream_offset:#x} on"
        console.print_line(
            f"{report['stored_bytes']:,} bytes {where}, "
            f"{fetched:,} fetched a frame at {rate:.{1 if rate >= 1 else 3}f} MB/s: "
            f"{waiting:,} of the cycles wait for them"
        )
    if report["file"]:
        console.print_line(f"written to {report['file']}")


def _span(region: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    first, last = layers[region["first_layer"]]["name"], layers[region["last_layer"]]["name"]
    return first if first == last else f"{first} … {last}"
