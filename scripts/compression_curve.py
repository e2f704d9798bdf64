"""Stored bytes against accuracy of a float network whose weights are quantised by rate against distortion.

    python scripts/compression_curve.py squeezenet_v1.0 --images FOLDER [--slopes 1e-8,1e-7] [--plot FILE.svg]

FOLDER holds photographs and their `labels.csv`. For every slope: the bytes of all weights and parameters, compressed
(`emberline weights`), and top-1 and top-5 of the network with these weights and float activations, in onnxruntime. One
photograph in ten calibrates, some of those weigh the weights. A table goes to standard output, with `--json` one JSON
document.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emberline.arch.presets import preset
from emberline.cli.float_network import find_entry, find_float_model, find_preprocessing
from emberline.compiler.frontends.onnx_reader import read_onnx
from emberline.compiler.stored_weights import store_weights
from emberline.driver.images import IMAGE_SUFFIXES, list_folder
from emberline.quantiser.calibration import Method
from emberline.quantiser.preparation import fixed_input, import_onnxruntime, load_float_model
from emberline.quantiser.rate import choose, measure, with_weights
from emberline.quantiser.static import Options, apply_ranges, find_ranges, load_calibration

SLOPES = "1e-9,3e-9,1e-8,2e-8,3e-8,5e-8,1e-7,2e-7,3e-7"
CALIBRATION_SHARE = 10
MEASURING_SHARE = 8


def read_labels(folder: Path) -> list[int]:
    """The class of each photograph, in the order of the files."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    column = next(name for name in next(iter(rows.values())) if name.startswith("label"))
    files, _ = list_folder(folder, IMAGE_SUFFIXES)
    return [int(rows[file.name][column]) for file in files]


def accuracy(model: Any, frames: Sequence[Any], labels: Sequence[int]) -> tuple[float, float]:
    """Top-1 and top-5 in onnxruntime."""
    session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    scores = np.stack([session.run(None, {name: frame})[0].reshape(-1) for frame in frames])
    hits = np.argsort(-scores, axis=1, kind="stable")[:, :5] == np.asarray(labels)[:, None]
    return float(hits[:, 0].mean()), float(hits.any(axis=1).mean())


def quiet(items: Iterable[Any], what: str) -> Iterable[Any]:
    print(f"{what} …", file=sys.stderr)
    return items


def measure_curve(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    entry = find_entry(arguments.network)
    model = load_float_model(find_float_model(arguments.network, entry, folder), entry.outputs if entry else ())
    frames = load_calibration(arguments.images, fixed_input(model)[1], find_preprocessing(entry, None))
    labels = read_labels(arguments.images)
    calibration = frames[::CALIBRATION_SHARE]
    options = Options(Method.MSE)
    ranges = find_ranges(model, calibration, options, quiet)
    layers = measure(model, calibration[: max(1, len(calibration) // MEASURING_SHARE)], quiet)
    points = []
    top1, top5 = accuracy(model, frames, labels)
    points.append({"slope": None, "stored_bytes": None, "parameter_bytes": None, "top1": top1, "top5": top5})
    for slope in map(float, arguments.slopes.split(",")):
        choices = choose(layers, slope)
        changed = with_weights(model, {name: each.values for name, each in choices.items()}, layers)
        top1, top5 = accuracy(changed, frames, labels)
        path = folder / "int8.onnx"
        steps = {name: each.step for name, each in choices.items()}
        path.write_bytes(apply_ranges(changed, ranges, options, steps).SerializeToString())
        stored = store_weights(read_onnx(path), preset(arguments.arch))
        points.append(
            {
                "slope": slope,
                "stored_bytes": sum(layer.stored_bytes for layer in stored),
                "parameter_bytes": sum(layer.parameter_bytes for layer in stored),
                "top1": top1,
                "top5": top5,
            }
        )
        print(json.dumps(points[-1]), file=sys.stderr)
    return points


def plot(points: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Accuracy over stored bytes; needs the extra ``plot``."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "emberline", "font.size": 9}):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for key, colour in (("top5", "#2f6f9f"), ("top1", "#e0a030")):
            axes.axhline(100 * points[0][key], color=colour, linewidth=0.8, linestyle="--")
            sizes = [point["stored_bytes"] / 1000 for point in points[1:]]
            axes.plot(sizes, [100 * point[key] for point in points[1:]], "o-", color=colour, label=key, markersize=4)
        axes.set(title=title, xlabel="stored kB: weights and parameters", ylabel="accuracy in % (dashed: float)")
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a float network of the zoo, or a file")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--slopes", default=SLOPES)
    parser.add_argument("--arch", default="max10-10m50")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        points = measure_curve(arguments, Path(folder))
    if arguments.plot is not None:
        plot(points, arguments.network, arguments.plot)
    if arguments.json:
        json.dump(points, sys.stdout, indent=2)
        return
    print("| slope | stored bytes | of them parameters | top-1 % | top-5 % |\n|---:|---:|---:|---:|---:|")
    for point in points:
        numbers = (point["stored_bytes"], point["parameter_bytes"])
        sizes = " | ".join("–" if number is None else f"{number:,}" for number in numbers)
        print(f"| {point['slope'] or 'float'} | {sizes} | {100 * point['top1']:.1f} | {100 * point['top5']:.1f} |")


if __name__ == "__main__":
    main()
