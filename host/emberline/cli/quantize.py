"""``emberline quantize``: a float ONNX model becomes an int8 one, by onnxruntime's own quantiser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberline.cli import console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def register(app: typer.Typer) -> None:
    app.command(name="quantize", help="Quantise a float ONNX model to int8 with calibration images.")(quantize)


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A float .onnx file or a float network of the zoo.")],
    calibration: Annotated[Path, typer.Option(help="A folder of images that look like those the network will see.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the int8 model to this file.")],
    preprocess: Annotated[
        str | None,
        typer.Option(help="What pixels mean, such as resize=256,order=BGR,mean=104/117/123; see docs/cli.md."),
    ] = None,
    method: Annotated[str, typer.Option(help="How ranges are chosen: percentile, mse or minmax.")] = "percentile",
    percentile: Annotated[float, typer.Option(help="Of percentile: how many percent lie within each bound.")] = 99.99,
    symmetric: Annotated[bool, typer.Option(help="Activations with zero point 0.")] = False,
    per_tensor: Annotated[bool, typer.Option(help="One weight scale a layer, not one an output channel.")] = False,
    slope: Annotated[
        float | None,
        typer.Option(help="Coarser weights, to be stored in fewer bytes: 1e-8 hardly costs anything, 1e-7 much."),
    ] = None,
    outputs: Annotated[str | None, typer.Option(help="Tensors at which the network ends, with commas between.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.float_network import find_entry, find_float_model, find_preprocessing
    from emberline.errors import EmberlineError
    from emberline.quantiser.calibration import Method
    from emberline.quantiser.static import Options, quantise

    if method not in list(Method):
        raise EmberlineError(f"--method takes {', '.join(Method)}, not '{method}'")
    if not 50 < percentile <= 100:
        raise EmberlineError(f"--percentile takes more than 50 and at most 100, not {percentile}")
    if slope is not None and not 0 < slope < 1:
        raise EmberlineError(f"--slope takes more than 0 and less than 1, not {slope}")
    entry = find_entry(model)
    preprocessing = find_preprocessing(entry, preprocess)
    ends = tuple(outputs.split(",")) if outputs else entry.outputs if entry else ()
    options = Options(Method(method), percentile, symmetric, not per_tensor, ends, slope)
    with tempfile.TemporaryDirectory() as folder:
        source = find_float_model(model, entry, Path(folder))
        ranges = quantise(source, output, calibration, preprocessing, options, _progress, limit)
    report = {
        "network": model,
        "file": str(output),
        "method": method,
        "symmetric": symmetric,
        "slope": slope,
        "preprocessing": preprocessing.to_json(),
        "ranges": {name: list(each) for name, each in ranges.items()},
    }
    if as_json:
        console.print_json(report)
    else:
        console.print_line(f"{len(ranges)} tensors quantised by {method}, written to {output}")


def _progress(items: Iterable[NDArray[np.float32]], what: str) -> Iterable[NDArray[np.float32]]:
    frames = list(items)
    return console.progress(frames, f"calibrating: {what}", len(frames))
