"""The chart of ``emberline bench``: per layer the cycles that the multiplications need, and where the real ones go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from emberline.arch.program import LayerReport, Program
from emberline.arch.timing import Spent
from emberline.errors import EmberlineError

MEANINGS = {
    "taps": ("multiplying", "#2f6f9f"),
    "idle": ("pace of requantiser, adder or port", "#e0a030"),
    "parameters": ("loading parameters", "#7a5aa6"),
    "handover": ("handing over rows", "#9a9a9a"),
    "fetch": ("fetching instructions", "#c0504d"),
    "drain": ("waiting for writes", "#5a8f4a"),
    "weights": ("waiting for weights", "#202020"),
}
"""What each part of ``Spent`` is called, and its colour."""


def breakdown(layer: LayerReport, multipliers: int) -> dict[str, float]:
    """``ideal``: the cycles that the multiplications need; ``cycles``; and the parts that these consist of, waiting for
    weights only where there is any."""
    parts = {field.name: getattr(layer.spent, field.name) for field in fields(Spent)}
    if not parts["weights"]:
        del parts["weights"]
    return {"ideal": layer.macs / multipliers, "cycles": layer.cycles, **parts}


def digest(programs: Sequence[Program]) -> str:
    """What a chart of these programs shows, in sixteen characters; an SVG has it in its description."""
    shown = [
        (title(each), [(layer.name, breakdown(layer, each.architecture.multipliers)) for layer in each.layers])
        for each in programs
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def title(program: Program) -> str:
    """The heading of a program's panel."""
    architecture = program.architecture
    return (
        f"{program.network} on {architecture.name}: {program.predicted_cycles:,} cycles, "
        f"{100 * program.utilisation:.1f} % of {architecture.multipliers} multipliers"
    )


def draw(programs: Sequence[Program], path: Path) -> None:
    """Write one panel for each program to ``path``, in the format that its ending names.

    Raises ``EmberlineError`` where matplotlib is missing or knows no such format.
    """
    rows = sum(len(program.layers) + 2 for program in programs)

    def fill(figure: Any) -> None:
        figure.set_size_inches(8, 1 + 0.24 * rows)
        ratios = [len(program.layers) + 2 for program in programs]
        panels = figure.subplots(len(programs), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for panel, program in zip(panels, programs, strict=True):
            _draw_layers(panel, program)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)

    save_figure(path, fill, description=digest(programs))


def save_figure(path: Path, fill: Callable[[Any], None], *, description: str | None) -> None:
    """Write the figure that ``fill`` draws into an empty one; an SVG holds ``description``. Equal ones are equal files.

    Raises ``EmberlineError`` where matplotlib is missing or knows no format of that ending.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise EmberlineError('charts need matplotlib: pip install "emberline[plot]"') from None
    # Text stays text.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "emberline", "font.size": 8}):
        figure = Figure(layout="constrained")
        fill(figure)
        try:
            metadata = {"Date": None, "Description": description} if path.suffix == ".svg" else None
            figure.savefig(path, metadata=metadata)
        except ValueError as error:
            raise EmberlineError(f"{path}: {error}") from None


def _draw_layers(panel: Any, program: Program) -> None:
    table = [breakdown(layer, program.architecture.multipliers) for layer in program.layers]
    places = range(len(table))
    start = [0.0] * len(table)
    for name, (meaning, colour) in MEANINGS.items():
        if not any(name in each for each in table):
            continue
        lengths = [each.get(name, 0) for each in table]
        panel.barh([place + 0.15 for place in places], lengths, 0.5, left=start, color=colour, label=meaning)
        start = [left + length for left, length in zip(start, lengths, strict=True)]
    ideal = [each["ideal"] for each in table]
    panel.barh([place - 0.25 for place in places], ideal, 0.2, color="#b8cfe0", label="ideal: MACs / multipliers")
    panel.set_yticks(list(places), [short_name(layer.name) for layer in program.layers])
    panel.invert_yaxis()
    panel.set_xlabel("cycles")
    panel.set_title(title(program))
    panel.spines[["top", "right"]].set_visible(False)


def short_name(name: str) -> str:
    """A layer's name in a picture: the last parts of paths, with the operators that the file's order tells apart."""
    parts = [part.rsplit("/", 2)[-2:] for part in name.replace("/Relu", "").replace("/BiasAdd", "").split(" + ")]
    return " + ".join("/".join(part).removeprefix("model/").split(" (")[0] for part in parts)[:48]
