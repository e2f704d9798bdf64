"""``emberline verify``: is every output value the one that LiteRT computes?"""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from emberline.cli import console


class Where(StrEnum):
    RTL = "rtl"
    EMULATOR = "emulator"
    MODEL = "model"


class Against(StrEnum):
    LITERT = "litert"
    ONNXRUNTIME = "onnxruntime"
    MODEL = "model"


def register(app: typer.Typer) -> None:
    app.command(name="verify", help="Compare every output value with LiteRT's; status 1 if any differs.")(verify)


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .tflite or .onnx file or a name from the zoo.")],
    images: Annotated[list[str], typer.Option(help="An .npz, a folder, an image or a .dat file; may be repeated.")],
    on: Annotated[Where, typer.Option(help="What is verified.")] = Where.RTL,
    against: Annotated[Against, typer.Option(help="What is right: LiteRT, onnxruntime, or numpy.")] = Against.LITERT,
    arch: Annotated[str, typer.Option(help="An architecture preset.")] = "ulx3s-85f",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="With the RTL: also compare every map that is stored, row by row.")
    ] = False,
    preprocess: Annotated[
        str | None,
        typer.Option(help="What pixels mean, such as resize=256,order=BGR,mean=104/117/123; see docs/cli.md."),
    ] = None,
    beside: Annotated[
        str | None, typer.Option("--float", help="A float .onnx or zoo network: its accuracy on the same images.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.engines import open_engine, open_reference
    from emberline.cli.frames import load_all
    from emberline.cli.networks import find_architecture, load_network
    from emberline.errors import EmberlineError

    if maps and on is not Where.RTL:
        raise EmberlineError(f"--maps compares what the RTL stores, not '{on.value}'")
    network = load_network(model)
    network.need_graph("verifying")
    architecture = find_architecture(arch)
    frames = load_all(images, network, limit, preprocess)
    count = len(frames.frames)
    reference = open_reference(against.value, network)
    stored = None
    with ExitStack() as stack:
        if maps:
            from emberline.cli.stored_maps import StoredMaps, compile_with_plan, run_checked

            stored = StoredMaps()
            results = run_checked(*compile_with_plan(network, architecture), frames.frames, stored)
        else:
            results = stack.enter_context(open_engine(on.value, network, architecture)).run(frames.frames)
        ours = [result.outputs for result in console.progress(results, f"{network.name} on {on.value}", count)]
    theirs = [
        result.outputs
        for result in console.progress(reference.run(frames.frames), f"{network.name} in {against.value}", count)
    ]
    labels = None if frames.labels is None else frames.labels + network.label_offset
    report = build_report(network.name, on.value, against.value, ours, theirs, labels)
    if stored is not None:
        report |= {
            "rows": stored.rows, "groups_written": stored.writes, "map_values": stored.values, "maps": stored.maps
        }  # fmt: skip
    if beside is not None:
        report |= float_report(beside, images, preprocess, limit)
    if as_json:
        console.print_json(report)
    else:
        print_report(report)
    if report["differing_outputs"]:
        raise typer.Exit(1)


def build_report(name: str, on: str, against: str, ours: list[Any], theirs: list[Any], labels: Any) -> dict[str, Any]:
    """The JSON document of ``emberline verify``."""
    from emberline.cli.comparison import accuracy, compare

    comparison = compare(ours, theirs)
    return {
        "network": name,
        "on": on,
        "against": against,
        "images": comparison.images,
        "outputs": comparison.outputs,
        "differing_outputs": comparison.differing_outputs,
        "differing_images": comparison.differing_images,
        "max_abs_difference": comparison.max_abs_difference,
        "accuracy": None if labels is None else accuracy([outputs[0] for outputs in ours], labels),
        "top5": None if labels is None else accuracy([outputs[0] for outputs in ours], labels, 5),
    }


def float_report(model: str, images: list[str], preprocess: str | None, limit: int | None) -> dict[str, float]:
    """``float_accuracy`` and ``float_top5`` of a float network on one folder of images with labels."""
    from emberline.cli.float_network import float_accuracy
    from emberline.errors import EmberlineError

    if len(images) != 1:
        raise EmberlineError("--float takes one folder of images with a labels.csv")
    first, five = float_accuracy(model, Path(images[0]), preprocess, limit)
    return {"float_accuracy": first, "float_top5": five}


def print_report(report: dict[str, Any]) -> None:
    """The same for people."""
    console.print_line(
        f"{report['network']} on {report['on']} against {report['against']}: {report['images']} images, "
        f"{report['outputs']:,} output values, {report['differing_outputs']} differ"
        + (
            f" (in {report['differing_images']} images, by at most {report['max_abs_difference']})"
            if report["differing_outputs"]
            else ""
        )
    )
    if "maps" in report:
        console.print_line(
            f"stored: {report['map_values']:,} values of {len(report['maps'])} maps are the model's, "
            f"{report['groups_written']:,} groups of {report['rows']:,} ROWs the emulator's"
        )
    if report["accuracy"] is not None:
        console.print_line(
            f"accuracy {console.percent(report['accuracy'])}, among the best five {console.percent(report['top5'])}"
        )
    if "float_accuracy" in report:
        console.print_line(
            f"the float network: {console.percent(report['float_accuracy'])}, among the best five "
            f"{console.percent(report['float_top5'])}"
        )
