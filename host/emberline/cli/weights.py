"""``emberline weights``: what a network's weights take where they are stored, compressed, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.compiler.stored_weights import StoredLayer


def register(app: typer.Typer) -> None:
    app.command(name="weights", help="Compress a network's weights and report every layer's bytes.")(weights)


def weights(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .tflite or .onnx file or a name from the zoo.")],
    arch: Annotated[str, typer.Option(help="An architecture preset; `emberline info` lists them.")] = "max10-10m50",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the blocks to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.networks import find_architecture, load_network
    from emberline.compiler.stored_weights import check_round_trip, store_weights, to_bytes

    network = load_network(model)
    stored = store_weights(network.need_graph("compressing its weights"), find_architecture(arch))
    check_round_trip(stored)
    if output is not None:
        output.write_bytes(to_bytes(stored))
    report = build_report(network.name, arch, stored)
    if as_json:
        console.print_json(report)
    else:
        print_report(report)


def build_report(network: str, arch: str, stored: Sequence[StoredLayer]) -> dict[str, Any]:
    """The JSON document of ``emberline weights``."""
    rows = [_row(layer) for layer in stored if layer.stored_bytes]
    count = sum(row["weights"] for row in rows)
    weight_bytes = sum(row["weight_bytes"] for row in rows)
    return {
        "network": network,
        "arch": arch,
        "weights": count,
        "density": sum(layer.nonzero for layer in stored) / max(1, count),
        "bits_per_weight": 8 * weight_bytes / max(1, count),
        "weight_bytes": weight_bytes,
        "parameter_bytes": sum(row["parameter_bytes"] for row in rows),
        "stored_bytes": sum(row["stored_bytes"] for row in rows),
        "image_bytes": sum(row["image_bytes"] for row in rows),
        "decoder_cycles": sum(row["decoder_cycles"] for row in rows),
        "layers": rows,
    }


def _row(layer: StoredLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "weights": layer.weights,
        "density": layer.nonzero / layer.weights if layer.weights else None,
        "bits_per_weight": 8 * layer.weight_bytes / layer.weights if layer.weights else None,
        "weight_bytes": layer.weight_bytes,
        "parameter_bytes": layer.parameter_bytes,
        "stored_bytes": layer.stored_bytes,
        "image_bytes": sum(len(part) for part in layer.image),
        "decoder_cycles": layer.decoder_cycles,
    }


def print_report(report: dict[str, Any]) -> None:
    """The same for people."""
    console.print_table(
        ("layer", ">weights", ">density", ">bits a weight", ">weight bytes", ">parameter bytes", ">stored bytes",
         ">image bytes", ">decoder cycles"),
        [
            (
                row["name"], row["weights"],
                None if row["density"] is None else console.percent(row["density"]),
                console.number(row["bits_per_weight"], 2), row["weight_bytes"], row["parameter_bytes"],
                row["stored_bytes"], row["image_bytes"], row["decoder_cycles"],
            )
            for row in report["layers"]
        ],
        title=f"{report['network']}, weights as {report['arch']} takes them",
    )  # fmt: skip
    console.print_line(
        f"{report['weights']:,} weights, {console.percent(report['density'])} of them not zero, in "
        f"{report['weight_bytes']:,} bytes: {report['bits_per_weight']:.2f} bits each; parameters "
        f"{report['parameter_bytes']:,} bytes"
    )
    console.print_line(
        f"stored {report['stored_bytes']:,} bytes, of an image of {report['image_bytes']:,}; decoded again without a "
        f"difference; {report['decoder_cycles']:,} cycles of a decoder"
    )
