"""Quantise a checkpoint and write it: ``python -m emberline.training.export RUN/last.pt -o ember_cifar10.tflite``.

Calibrates on training images. Beside the file goes a ``.json`` that says what the network is, how it was trained and
how accurate it is, measured in LiteRT with the reference kernels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emberline.compiler.frontends.tflite_writer import write_tflite
from emberline.model.graph import Graph
from emberline.training.dataset import LABELS, ImageSet, load_lossless, load_test, load_train
from emberline.training.evaluate import measure_int8_accuracy
from emberline.training.float_graph import FloatGraph
from emberline.training.fold import fold_network
from emberline.training.network import EmberCifar10
from emberline.training.quantise import calibrate, quantise_graph, scale_frames
from emberline.training.train import as_tensor, measure_accuracy

CALIBRATION_IMAGES = 512


def load_checkpoint(path: Path) -> tuple[EmberCifar10, dict[str, Any]]:
    """The averaged network, in evaluation mode, and the checkpoint's other entries."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    network = EmberCifar10()
    network.load_state_dict(state.pop("average"))
    return network.eval(), state


def quantise_network(graph: FloatGraph, images: ImageSet, count: int = CALIBRATION_IMAGES, seed: int = 0) -> Graph:
    """Calibrate on ``count`` of ``images``, drawn with ``seed``, and quantise."""
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return quantise_graph(graph, calibrate(graph, scale_frames(images.pixels[chosen])))


def describe_network(
    graph: Graph, state: dict[str, Any], accuracies: dict[str, dict[str, float | int]], note: str = ""
) -> dict[str, Any]:
    """What the ``.json`` beside the network says; ``note`` is what the recipe does not tell about the run."""
    return {
        "name": graph.name,
        "task": "CIFAR-10 classification",
        "labels": list(LABELS),
        "input": {"shape": [32, 32, 3], "order": "RGB", "code": "pixel - 128", "scale": "1/255", "zero_point": -128},
        "output": "softmax over the labels, scale 1/256, zero point -128",
        "parameters": graph.parameter_count,
        "macs": graph.macs(),
        "training": {
            "data": "the 50,000 CIFAR-10 training images, JPEG-compressed",
            "augmentation": "random crop from 4 pixels of zero padding, horizontal flip",
            "optimiser": "SGD with Nesterov momentum, linear warm-up, cosine decay, averaged weights, bfloat16",
            "epochs_done": state["epochs_done"],
            "wall_seconds": round(state["seconds"]),
            "recipe": state["recipe"],
            "note": note,
            "quantisation": f"post-training, calibrated on {CALIBRATION_IMAGES} training images",
        },
        "accuracy_percent": accuracies,
        "licence": "Apache-2.0; the weights were trained for this project and contain no training images",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .tflite file; a .json goes beside it")
    parser.add_argument("--note", default="", help="what else to say about the training run")
    options = parser.parse_args()
    network, state = load_checkpoint(options.checkpoint)
    graph = quantise_network(fold_network(network), load_train())
    model = write_tflite(graph)
    accuracies: dict[str, dict[str, float | int]] = {}
    for name, images in (("lossless_500", load_lossless()), ("jpeg_10000", load_test())):
        accuracies[name] = {
            "int8": round(100 * measure_int8_accuracy(model, images), 2),
            "float32": round(100 * measure_accuracy(network, *as_tensor(images)), 2),
            "images": len(images),
        }
        print(name, accuracies[name], flush=True)
    options.output.write_bytes(model)
    description = describe_network(graph, state, accuracies, options.note)
    options.output.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{options.output}: {len(model)} bytes, {graph.parameter_count} parameters, {graph.macs()} MAC")


if __name__ == "__main__":
    main()
