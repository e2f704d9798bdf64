"""``emberline detect``: faces in photographs, as boxes and drawn on copies of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.cli.engines import FrameResult
    from emberline.cli.networks import Network
    from emberline.driver.faces import Face


def register(app: typer.Typer) -> None:
    app.command(name="detect", help="Find faces with the quantised face detector, and draw them.")(detect)


def detect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="face_ultralight after `emberline quantize`.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    on: Annotated[str, typer.Option(help="rtl, emulator, model, or a serial port.")] = "model",
    against: Annotated[
        str | None, typer.Option(help="Compare the boxes with those of onnxruntime or model; status 1 if any differs.")
    ] = None,
    arch: Annotated[str, typer.Option(help="An architecture preset.")] = "large-16x8",
    draw: Annotated[Path | None, typer.Option(help="Write copies of the images with frames to this folder.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="The least score of a face.")] = 0.7,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.engines import open_engine, open_reference
    from emberline.cli.frames import load_all
    from emberline.cli.networks import find_architecture, load_network

    network = load_network(model)
    frames = load_all(images, network).frames
    check_heads(network)
    with open_engine(on, network, find_architecture(arch)) as engine:
        found = [faces_of(network, result, threshold) for result in engine.run(frames)]
    expected = None
    if against is not None:
        reference = open_reference(against, network)
        expected = [faces_of(network, result, threshold) for result in reference.run(frames)]
    report = build_report(images, found, expected)
    if draw is not None:
        for row, image, faces in zip(report, images, found, strict=True):
            row["picture"] = str(draw_faces(Path(image), faces, draw))
    if as_json:
        console.print_json(report)
    else:
        print_report(report, against)
    if any(row["same_boxes"] is False for row in report):
        raise typer.Exit(1)


def check_heads(network: Network) -> None:
    """Raise ``ModelError`` unless the network's outputs are the detector's heads."""
    from emberline.driver.faces import head_shapes
    from emberline.errors import ModelError

    graph = network.need_graph("finding faces")
    height, width, _ = network.input.shape
    expected = head_shapes(width, height)
    shapes = [graph.feature_maps[name].shape for name in graph.outputs]
    if shapes != expected:
        raise ModelError(f"network '{network.name}' is no face detector: its outputs are {shapes}, not {expected}")


def faces_of(network: Network, result: FrameResult, threshold: float = 0.7) -> list[Face]:
    """The faces in one frame's outputs, the surest first."""
    from emberline.driver.faces import find_faces

    graph = network.need_graph("finding faces")
    maps = [graph.feature_maps[name] for name in graph.outputs]
    height, width, _ = network.input.shape
    return find_faces(list(zip(result.outputs, maps, strict=True)), width, height, threshold)


def build_report(
    images: Sequence[str], found: Sequence[list[Face]], expected: Sequence[list[Face]] | None
) -> list[dict[str, Any]]:
    """The JSON document of ``emberline detect``."""
    return [
        {
            "image": image,
            "faces": [asdict(face) for face in faces],
            "same_boxes": None if expected is None else faces == expected[index],
            "picture": None,
        }
        for index, (image, faces) in enumerate(zip(images, found, strict=True))
    ]


def draw_faces(image: Path, faces: Sequence[Face], folder: Path) -> Path:
    """A copy of the image, upright, with a frame around every face, as a PNG in ``folder``."""
    from PIL import Image, ImageOps

    from emberline.driver.faces import draw

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{image.stem}_faces.png"
    with Image.open(image) as opened:
        draw(ImageOps.exif_transpose(opened), faces).save(path)
    return path


def print_report(report: Sequence[dict[str, Any]], against: str | None) -> None:
    """The same for people."""
    for row in report:
        text = f"{row['image']}: {len(row['faces'])} faces"
        if row["same_boxes"] is not None:
            text += f", {'the same boxes as' if row['same_boxes'] else 'other boxes than'} {against}'s"
        console.print_line(text + (f", drawn in {row['picture']}" if row["picture"] else ""))
