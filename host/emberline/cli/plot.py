"""The picture of ``emberline inspect --plot``: the activation memory and the lanes of one frame over time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.arch.program import Program
from emberline.arch.timing import Spent
from emberline.cli.chart import MEANINGS, save_figure, short_name, title
from emberline.model.trace import WalkedRow, trace

BINS = 240
"""Stretches of time in which the lanes' cycles are summed."""


@dataclass
class StoredRow:
    """What one ROW wrote, from its first tap until it was last read; groups ``start`` to ``end``."""

    layer: int
    since: int
    until: int
    start: int
    end: int


def stored_rows(program: Program, rows: Sequence[WalkedRow]) -> list[StoredRow]:
    """The rows of all maps, in the order of their writes, by the layers' places in ``program.layers``.

    A row of the result is there until the end of the frame. What nothing reads ends with its ROW.
    """
    layers = {address: place for place, layer in enumerate(program.layers) for address in layer.rows}
    owner = np.full(program.architecture.activation_depth_groups, -1, np.int64)
    result = np.zeros(len(owner), bool)
    for region in program.memory:
        if region.role == "result":
            result[region.start : region.end] = True
    found: list[StoredRow] = []
    for number, row in enumerate(rows):
        for reader in np.unique(owner[row.reads]):
            if reader >= 0:
                found[reader].until = row.end
        owner[row.writes] = number
        until = program.predicted_cycles if result[row.writes].any() else row.end
        found.append(StoredRow(layers[row.address], row.begin, until, int(row.writes[0]), int(row.writes[-1]) + 1))
    return found


def lane_shares(rows: Sequence[WalkedRow], cycles: int, bins: int) -> dict[str, NDArray[np.float64]]:
    """Of each of ``bins`` equal stretches of a frame, the share that each part of ``Spent`` takes; 0 to 1.

    Waiting for weights is there only if there is any. The parts of a ROW are taken to be spread over it evenly.
    """
    edges = np.linspace(0, cycles, bins + 1)
    ends = np.array([0, *(row.end for row in rows), cycles])
    shares = {}
    for part in (field.name for field in fields(Spent)):
        steps = [getattr(row.spent, part) for row in rows]
        steps.append(cycles - int(ends[-2]) if part == "drain" else 0)
        if part == "weights" and not any(steps):
            continue
        total = np.concatenate([[0], np.cumsum(steps)])
        shares[part] = np.diff(np.interp(edges, ends, total)) / (cycles / bins)
    return shares


def digest(program: Program) -> str:
    """What the picture of a program shows, in sixteen characters; an SVG has it in its description."""
    layers = [(layer.name, layer.rows) for layer in program.layers]
    shown = repr((title(program), layers, program.memory, program.instructions))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def draw(program: Program, path: Path) -> None:
    """Write the picture to ``path``, in the format that its ending names.

    Raises ``EmberlineError`` where matplotlib is missing or knows no such format.
    """
    rows = list(trace(program.instructions, program.architecture))
    shares = lane_shares(rows, program.predicted_cycles, BINS)

    def fill(figure: Any) -> None:
        figure.set_size_inches(10, 7)
        memory, lanes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_memory(memory, program, stored_rows(program, rows))
        _draw_lanes(lanes, program, shares)
        memory.set_title(title(program))
        handles, labels = memory.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=6)
        lanes.legend(loc="lower left", ncols=3, fontsize=6)

    save_figure(path, fill, description=digest(program))


def _draw_memory(panel: Any, program: Program, rows: Sequence[StoredRow]) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    kib = program.architecture.lanes_out / 1024
    for region in program.memory:
        if region.role == "frame":
            panel.axhspan(region.start * kib, region.end * kib, color="#dddddd", label="frame: rows of the input")
    colours = colormaps["tab20"]
    for place, layer in enumerate(program.layers):
        boxes = [
            [(r.since, r.start * kib), (r.until, r.start * kib), (r.until, r.end * kib), (r.since, r.end * kib)]
            for r in rows
            if r.layer == place
        ]
        colour = colours((2 * place + place // 10) % 20)
        panel.add_collection(
            PolyCollection(boxes, facecolor=colour, alpha=0.7, linewidth=0, label=short_name(layer.name))
        )
    panel.set_xlim(0, program.predicted_cycles)
    panel.set_ylim(0, program.architecture.activation_bytes / 1024)
    panel.set_ylabel("activation memory, KiB")


def _draw_lanes(panel: Any, program: Program, shares: dict[str, NDArray[np.float64]]) -> None:
    cycles = program.predicted_cycles
    middles = (np.arange(BINS) + 0.5) * cycles / BINS
    meanings = [MEANINGS[part] for part in shares]
    panel.stackplot(
        middles,
        *(100 * each for each in shares.values()),
        labels=[meaning for meaning, _ in meanings],
        colors=[colour for _, colour in meanings],
    )
    panel.set_ylim(0, 100)
    panel.set_ylabel("lanes, % of the cycles")
    panel.set_xlabel("cycles")
