"""``emberline run``: classify images on the simulated board, a real one, the emulator or numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.cli.engines import FrameResult
    from emberline.cli.networks import Network


def register(app: typer.Typer) -> None:
    app.command(name="run", help="Run images through a network and print what it says.")(run)


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_PROGRAM", help="A .tflite or .ember file or a zoo name.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, .npz or .dat files.")],
    on: Annotated[str, typer.Option(help="rtl, emulator, model, or a serial port.")] = "emulator",
    arch: Annotated[
        str | None, typer.Option(help="An architecture preset; default: the program's, or ulx3s-85f.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(help="What pixels mean, such as resize=256,order=BGR,mean=104/117/123; see docs/cli.md."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.engines import open_engine
    from emberline.cli.frames import load_all
    from emberline.cli.networks import find_architecture, load_network

    network = load_network(model)
    architecture = None if arch is None else find_architecture(arch)
    frames = load_all(images, network, limit, preprocess)
    entries = []
    machine, predicted = None, None
    if on != "model":
        program = network.compile(architecture)
        machine, predicted = program.architecture, program.predicted_cycles
    with open_engine(on, network, architecture) as engine:
        for name, result in zip(frames.names, engine.run(frames.frames), strict=True):
            entry = describe(network, name, result, machine, predicted)
            entries.append(entry)
            if not as_json:
                print_entry(entry)
    if as_json:
        arch_name = None if machine is None else machine.name
        console.print_json({"network": network.name, "on": on, "arch": arch_name, "images": entries})


def describe(
    network: Network, name: str, result: FrameResult, machine: Architecture | None, predicted: int | None
) -> dict[str, Any]:
    """The JSON object of one image."""
    from emberline.cli.comparison import best_class, confidence
    from emberline.cli.report import milliseconds

    scores, quantisation = result.outputs[0], network.scores.quantisation
    winner = best_class(scores)
    cycles = result.cycles
    return {
        "image": name,
        "class": winner,
        "label": network.labels[winner] if winner < len(network.labels) else None,
        "confidence": confidence(scores, quantisation.scale, quantisation.zero_point, softmax=network.ends_in_softmax),
        "cycles": cycles,
        "predicted_cycles": predicted,
        "stall_cycles": None if cycles is None else result.stall_cycles,
        "milliseconds": None if cycles is None or machine is None else milliseconds(cycles, machine),
        "outputs": {
            output: values.reshape(-1).tolist()
            for output, values in zip(network.output_names, result.outputs, strict=True)
        },
    }


def print_entry(entry: dict[str, Any]) -> None:
    """The same as a line for people."""
    name = entry["label"] or f"class {entry['class']}"
    line = f"{entry['image']}: {name}, {console.percent(entry['confidence'])}"
    if entry["cycles"] is not None:
        line += (
            f", {entry['cycles']:,} cycles ({entry['predicted_cycles']:,} predicted), {entry['milliseconds']:.3f} ms"
        )
    console.print_line(line)
