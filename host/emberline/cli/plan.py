"""``emberline compile --plan``: the stages of a network's schedule, their memory and cycles, without a program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emberline.cli import console
from emberline.errors import EmberlineError

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.model.graph import Graph

PROGRAM_WORDS = 1 << 16
"""Instruction words of a plan: those that a machine lacks would have to be streamed as its weights are."""


def with_split(architecture: Architecture, split: str) -> Architecture:
    """The architecture with memories of ``split``, ``A:W`` in KiB of activations and of weights."""
    sizes = split.split(":")
    if len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
        raise EmberlineError(f"--split takes KiB of activations and of weights, as in 112:64, not '{split}'")
    activations, weights = (int(size) * 1024 for size in sizes)
    return replace(
        architecture,
        activation_depth_words=activations // architecture.lanes_in,
        weight_depth_words=weights // architecture.multipliers,
    )


def plan_report(graph: Graph, architecture: Architecture, weights_per_cycle: float) -> dict[str, Any]:
    """The JSON document of ``emberline compile --plan``. Raises ``CompileError`` where nothing fits."""
    from emberline.compiler.compile import plan_network
    from emberline.compiler.schedule.supply import Supply, stalled_cycles, weight_bytes
    from emberline.errors import CompileError

    machine = replace(architecture, program_depth_words=PROGRAM_WORDS)
    supply = None
    try:
        plan = plan_network(graph, machine)
    except CompileError as error:
        if "the weights need" not in str(error):
            raise
        supply = Supply(architecture.weight_bytes, weights_per_cycle)
        plan = plan_network(graph, machine, supply)
    stages = plan.schedule.stages
    stored = sum(weight_bytes(step, machine) for step in plan.rows)
    fetched = sum(stage.fetched_bytes for stage in stages) if supply else 0
    cycles = sum(stage.cycles for stage in stages)
    stalled = stalled_cycles(stages, supply) if supply else 0
    macs = graph.macs()
    return {
        "network": graph.name,
        "arch": architecture.name,
        "activation_bytes_available": architecture.activation_bytes,
        "weight_bytes_available": architecture.weight_bytes,
        "result_bytes": sum(each.words for each in plan.schedule.storages if each.role.value == "result")
        * architecture.lanes_in,
        "weights": "resident" if supply is None else "streamed",
        "weights_per_cycle": weights_per_cycle if supply else None,
        "stored_weight_bytes": stored,
        "fetched_weight_bytes": fetched,
        "macs": macs,
        "cycles": cycles,
        "stalled_cycles": stalled,
        "utilisation": macs / ((cycles + stalled) * architecture.multipliers),
        "rows": len(plan.schedule.operations),
        "stages": [
            {
                "steps": [plan.steps[index].name for index in range(stage.first, stage.end)],
                "order": stage.how,
                "activation_bytes": stage.activation_words * architecture.lanes_in,
                "decides": stage.decides,
                "weight_bytes": stage.weight_bytes if supply else sum(
                    weight_bytes(step, machine) for step in plan.rows[stage.first : stage.end]
                ),
                "fetched_bytes": stage.fetched_bytes if supply else 0,
                "cycles": stage.cycles,
                "waiting": stage.waiting,
            }
            for stage in stages
        ],
    }  # fmt: skip


def print_plan(report: dict[str, Any]) -> None:
    """The same for people."""
    console.print_table(
        ("stage", ">steps", "order", ">activations", ">weights", ">fetched", ">cycles", ">waiting"),
        [
            (
                _names(stage["steps"]), len(stage["steps"]), stage["order"], stage["activation_bytes"],
                stage["weight_bytes"], stage["fetched_bytes"], stage["cycles"], stage["waiting"],
            )
            for stage in report["stages"]
        ],
        title=f"{report['network']} on {report['arch']}",
    )  # fmt: skip
    most = max(stage["activation_bytes"] for stage in report["stages"]) + report["result_bytes"]
    console.print_line(
        f"activations {most:,} of {report['activation_bytes_available']:,} bytes; {report['rows']:,} rows, "
        f"{report['cycles']:,} cycles: {console.percent(report['utilisation'])} of the multipliers' capacity"
    )
    stored, fetched = report["stored_weight_bytes"], report["fetched_weight_bytes"]
    if report["weights"] == "resident":
        console.print_line(f"weights {stored:,} of {report['weight_bytes_available']:,} bytes, resident")
    else:
        console.print_line(
            f"weights {stored:,} bytes, fetched {fetched:,} a frame, {fetched / stored:.2f} times, through "
            f"{report['weight_bytes_available']:,} bytes at {report['weights_per_cycle']:g} a cycle: "
            f"{report['stalled_cycles']:,} cycles of waiting, counted above; a plan only, no program streams them yet"
        )


def _names(steps: list[str]) -> str:
    first, last = (name.split(" (")[0] for name in (steps[0], steps[-1]))
    return first if len(steps) == 1 else f"{first} … {last}"
