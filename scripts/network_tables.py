"""What the documents say about networks, from the compiler's exact prediction: tables and charts.

The prediction is what the simulation takes, cycle for cycle (``tests/integration/test_core.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.arch.timing import Spent
from emberline.cli import plot
from emberline.cli.chart import digest, draw
from emberline.cli.networks import find_architecture, load_network
from emberline.cli.report import bench_report
from emberline.compiler.compile import compile_graph
from emberline.compiler.network_plan import plan_network
from emberline.errors import CompileError, ModelError
from emberline.zoo.synthetic import synthetic_network

VERIFIED = Path(__file__).resolve().parents[1] / "docs" / "zoo_verified.json"
PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
ARCHITECTURE = "ulx3s-85f"
LOST_IN = ("resnet8", "ember_cifar10", "kws")
"""The networks of the table of lost cycles."""
MEASURED = {
    "resnet8": "MLPerf Tiny ResNet-8",
    "vww_96": "MLPerf Tiny VWW, MobileNetV1 0.25",
    "kws": "MLPerf Tiny KWS, DS-CNN",
    "ember_cifar10": "ember_cifar10, our own",
    "synthetic-squeezenet": "a SqueezeNet-style stack, 99x99x3",
}
"""The networks of the README's table."""
CHARTS = ("resnet8", "ember_cifar10", "kws", "synthetic-squeezenet")
"""The networks with a chart in docs/pictures."""
FUSED = "scheduling"
"""The picture of docs/scheduling.md: the fire modules depth first, in little memory."""

_WHY = {  # no network here waits for weights
    "taps": "includes lanes without a weight: of a first layer, of depthwise layers and of averages, which multiply by "
    "one",
    "idle": "a group is requantised or added in more cycles than its taps take",
    "parameters": "requantisation parameters of each group of each row",
    "handover": "one cycle from row to row; a depthwise row also leaves the first lanes",
    "fetch": "instructions that nothing overlaps: the frame's first row",
    "drain": "fences, short last layers, the last write",
}


@cache
def predicted(name: str) -> Program | CompileError | None:
    """The network on the documents' machine; the reason where it does not fit; ``None`` where its file is missing."""
    try:
        return load_network(name).compile(find_architecture(ARCHITECTURE))
    except ModelError:
        return None
    except CompileError as error:
        return error


def lost_cycles_table() -> str | None:
    """Where the cycles of a frame go; ``None`` where a network's file is missing."""
    programs = [predicted(name) for name in LOST_IN]
    if any(program is None for program in programs):
        return None
    known = [program for program in programs if isinstance(program, Program)]
    assert len(known) == len(LOST_IN), f"on {ARCHITECTURE} all of these fit: {LOST_IN}"
    totals = [sum((layer.spent for layer in program.layers), Spent()) for program in known]
    rows = [["cycles", *LOST_IN, "why"], ["---", *["---:"] * len(known), "---"]]
    for field in fields(Spent):
        if field.name not in _WHY:
            continue
        spent = (f"{getattr(total, field.name):,}" for total in totals)
        rows.append([{"idle": "pace", "handover": "hand-over"}.get(field.name, field.name), *spent, _WHY[field.name]])
    rows.append(["**all**", *(f"**{program.predicted_cycles:,}**" for program in known), ""])
    shares = (f"{100 * program.utilisation:.1f} %" for program in known)
    why = "MACs / (cycles x 128); taps in the padding count as MACs and are not computed"
    return _markdown([*rows, ["utilisation", *shares, why]])


def measured_table() -> str | None:
    """Cycles, utilisation and, at the committed build's clock, speed; ``None`` where a network's file is missing."""
    rows = [
        ["network", "MACs", "cycles", "utilisation", "ms", "frames/s", "frames/s per multiplier", "command"],
        ["---", *["---:"] * 6, "---"],
    ]
    for name, title in MEASURED.items():
        program = predicted(name)
        if program is None:
            return None
        if isinstance(program, CompileError):
            reason = str(program).split(": ", 1)[-1].split(" and used up here")[0]
            rows.append([title, *["–"] * 6, f"does not fit: {reason}"])
            continue
        report = bench_report(program, program.predicted_cycles)
        rows.append(
            [
                title,
                f"{report['macs']:,}",
                f"{report['cycles']:,}",
                f"{100 * report['utilisation']:.1f} %",
                _number(report["milliseconds"], 2),
                _number(report["frames_per_second"], 0),
                _number(report["frames_per_second_per_multiplier"], 2),
                f"`emberline bench {name}`",
            ]
        )
    return _markdown(rows)


def fire_stages_table() -> str:
    """The stages of ``fused_program``, and the activation memory that its layers need one by one."""
    graph, machine = synthetic_network("synthetic-squeezenet"), fused_program().architecture
    whole = plan_network(graph, replace(machine, activation_depth_words=8 * machine.activation_depth_words))
    alone = {stage.first: stage.activation_words for stage in whole.schedule.stages}
    assert len(alone) == len(whole.steps), "with enough memory every layer is a stage"
    plan = plan_network(graph, machine)
    rows = [["stage", "order", "KiB", "KiB one by one", "cycles", "of them waiting"], ["---", "---", *["---:"] * 4]]
    for stage in plan.schedule.stages:
        steps = range(stage.first, stage.end)
        most = max(alone[step] for step in steps)
        sizes = (f"{words * machine.lanes_in / 1024:.1f}" for words in (stage.activation_words, most))
        names = ", ".join(plan.steps[step].name for step in steps)
        rows.append([names, stage.how, *sizes, f"{stage.cycles:,}", f"{stage.waiting:,}"])
    return _markdown(rows)


def verified_table() -> str:
    """What ``emberline zoo verify --all --on model,emulator,rtl --json`` last found, from the committed document."""
    rows = [
        ["network", "numpy model against", "frames", "values", "differ", "top-1 / top-5", "float", "emulator", "RTL"],
        ["---", "---", "---:", "---:", "---:", "---:", "---:", "---", "---"],
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(VERIFIED.read_text(encoding="utf-8")):
        found.setdefault(row["name"], []).append(row)
    for name, each in found.items():
        machines = {row["on"]: _machine(row) for row in each if row["against"] == "model"}
        for index, row in enumerate(row for row in each if row["on"] == "model"):
            differ = "–" if row["differing_outputs"] is None else f"{row['differing_outputs']:,}"
            if row["differing_outputs"]:
                differ += f", by at most {row['max_abs_difference']}"
            remarks = [row["against"] or row["note"]]
            if row["faces"]:
                remarks.append(f"{row['note']}: {' and '.join(map(str, row['faces']))} faces")
            rows.append(
                [
                    "" if index else name,
                    ", ".join(remarks),
                    f"{row['images']:,}",
                    f"{row['outputs']:,}" if row["outputs"] else "–",
                    differ,
                    _shares(row["top1"], row["top5"]),
                    _shares(row["float_top1"], row["float_top5"]),
                    "" if index else machines.get("emulator", "–"),
                    "" if index else machines.get("rtl", "–"),
                ]
            )
    return _markdown(rows)


def _machine(row: dict[str, Any]) -> str:
    """A frame or more on the emulator or in the RTL."""
    if row["differing_outputs"] is None:
        return "does not fit"
    text = f"{row['images']} x {row['differing_outputs']} of {row['outputs'] // row['images']:,} differ"
    return f"{text}; {row['cycles']:,} cycles on `{row['arch']}`"


def _shares(first: float | None, five: float | None) -> str:
    return "–" if first is None or five is None else f"{100 * first:.1f} / {100 * five:.1f} %"


TABLES: dict[str, Callable[[], str | None]] = {
    "networks.LOST_CYCLES": lost_cycles_table,
    "networks.MEASURED": measured_table,
    "networks.FIRE_STAGES": fire_stages_table,
    "zoo.VERIFIED": verified_table,
}
"""By name; ``None`` from a table that cannot be made here."""


def stale_charts() -> list[Path]:
    """The charts that do not show the present prediction; those of networks that are not here are left out."""
    found = []
    for name in CHARTS:
        program, path = predicted(name), PICTURES / f"{name}.svg"
        if isinstance(program, Program):
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if digest([program]) not in text:
                found.append(path)
    path = PICTURES / f"{FUSED}.svg"
    if not path.is_file() or plot.digest(fused_program()) not in path.read_text(encoding="utf-8"):
        found.append(path)
    return found


@cache
def fused_program() -> Program:
    """The synthetic SqueezeNet stack in 32 KiB of activation memory."""
    machine = Architecture("16x8 lanes with 32 KiB", 16, 8, 2048, 4096, 8192, requantisers=8)
    return compile_graph(synthetic_network("synthetic-squeezenet"), machine)


def draw_chart(path: Path) -> None:
    """Draw one of ``CHARTS``, or ``FUSED``; ``EmberlineError`` where matplotlib is missing."""
    if path.stem == FUSED:
        plot.draw(fused_program(), path)
        return
    program = predicted(path.stem)
    assert isinstance(program, Program)
    draw([program], path)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
