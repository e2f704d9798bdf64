"""The tables of ``docs/training.md``: ``python -m emberline.training.report host/emberline/zoo/ember_cifar10.tflite``.

Rewrites them with ``--update docs/training.md``. A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.model.graph import Convolution, FeatureMap, Graph

IMAGE_SETS = {"lossless_500": "500 lossless test images", "jpeg_10000": "10,000 test images as JPEG"}


def accuracy_table(description: Mapping[str, Any]) -> str:
    """Top-1 accuracy of the float and the int8 network."""
    rows = ["| images | float32 | int8, LiteRT BUILTIN_REF |", "|---|---|---|"]
    for name, accuracy in description["accuracy_percent"].items():
        rows.append(f"| {IMAGE_SETS.get(name, name)} | {accuracy['float32']:.2f} % | {accuracy['int8']:.2f} % |")
    return "\n".join(rows)


def layer_table(graph: Graph) -> str:
    """Every layer with its shapes, and the sums."""

    def shape(feature_map: FeatureMap) -> str:
        return "x".join(map(str, feature_map.shape))

    rows = ["| layer | operation | input | output | MAC | parameters |", "|---|---|---|---|--:|--:|"]
    for layer in graph:
        sources = " + ".join(shape(graph.feature_maps[name]) for name in layer.inputs)
        target = shape(graph.feature_maps[layer.output])
        macs, parameters = graph.macs(layer), layer.parameter_count
        operation = type(layer).__name__
        if isinstance(layer, Convolution):
            operation = f"{layer.kernel[0]}x{layer.kernel[1]}, stride {layer.stride[0]}"
        rows.append(f"| {layer.output} | {operation} | {sources} | {target} | {macs:,} | {parameters:,} |")
    rows.append(f"| sum | | | | {graph.macs():,} | {graph.parameter_count:,} |")
    return "\n".join(rows)


def make_tables(model: Path) -> dict[str, str]:
    """All tables by name, from a ``.tflite`` and the ``.json`` beside it."""
    description = json.loads(model.with_suffix(".json").read_text())
    return {"accuracy": accuracy_table(description), "layers": layer_table(read_tflite(model))}


def update_tables(document: str, tables: Mapping[str, str]) -> str:
    """The document with every marked table replaced. Raises ``ValueError`` for a table that it does not mark."""
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = table.replace("\\", r"\\")
        document, count = pattern.subn(rf"\g<1>{body}\n\g<2>", document)
        if count != 1:
            raise ValueError(f"the document marks table '{name}' {count} times")
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--update", type=Path, metavar="DOCUMENT")
    options = parser.parse_args()
    tables = make_tables(options.model)
    if options.update:
        options.update.write_text(update_tables(options.update.read_text(), tables))
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
