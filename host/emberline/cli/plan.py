"""``emberline compile --plan``: the stages of a network's schedule, their memory and cycles, without a program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emberline.cli import console
from emberline.errors import EmberlineError

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.compiler.network_plan import WeightPlace
    from emberline.model.graph import Graph

PROGRAM_WORDS = 1 << 16
"""Instruction words of a plan: those that a machine lacks come in pages, if it fetches weights."""


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


def plan_report(graph: Graph, architecture: Architecture, weights: WeightPlace) -> dict[str, Any]:
    """The JSON document of ``emberline compile --plan``. Raises ``CompileError`` where nothing fits."""
    from emberline.arch.flash import FLASH_OFFSET
    from emberline.arch.timing import predict
    from emberline.compiler.network_plan import emit_plan, place_weights, plan_network
    from emberline.compiler.schedule.supply import weight_bytes

    machine = replace(architecture, program_depth_words=PROGRAM_WORDS)
    plan = plan_network(graph, machine, weights)
    placed = place_weights(plan, machine, FLASH_OFFSET)
    emission = emit_plan(plan, placed, machine)
    timing = predict(machine, emission.words)
    stages = plan.schedule.stages
    macs = graph.macs()
    return {
        "network": graph.name,
        "arch": architecture.name,
        "activation_bytes_available": architecture.activation_bytes,
        "weight_bytes_available": architecture.weight_bytes,
        "result_bytes": sum(each.words for each in plan.schedule.storages if each.role.value == "result")
        * architecture.lanes_in,
        "weights": "streamed" if plan.streamed else "resident",
        "weight_bytes": sum(weight_bytes(step, machine) for step in plan.rows),
        "resident_bytes": len(placed.resident),
        "stored_bytes": len(placed.stream),
        "fetched_bytes": sum(load.fields["length"] for loads in placed.loads.values() for load in loads),
        "macs": macs,
        "cycles": timing.cycles,
        "weight_cycles": sum(spent.weights for spent in timing.spent.values()),
        "utilisation": macs / (timing.cycles * architecture.multipliers),
        "rows": len(plan.schedule.operations),
        "instructions": len(emission.words),
        "stages": [
            {
                "steps": [plan.steps[index].name for index in range(stage.first, stage.end)],
                "order": stage.how,
                "activation_bytes": stage.activation_words * architecture.lanes_in,
                "decides": stage.decides,
                "weight_bytes": sum(weight_bytes(step, machine) for step in plan.rows[stage.first : stage.end]),
                "cycles": stage.cycles,
                "waiting": stage.waiting,
            }
            for stage in stages
        ],
    }


def print_plan(report: dict[str, Any]) -> None:
    """The same for people."""
    console.print_table(
        ("stage", ">steps", "order", ">activations", ">weights", ">cycles", ">waiting"),
        [
            (
                _names(stage["steps"]), len(stage["steps"]), stage["order"], stage["activation_bytes"],
                stage["weight_bytes"], stage["cycles"], stage["waiting"],
            )
            for stage in report["stages"]
        ],
        title=f"{report['network']} on {report['arch']}",
    )  # fmt: skip
    most = max(stage["activation_bytes"] for stage in report["stages"]) + report["result_bytes"]
    console.print_line(
        f"activations {most:,} of {report['activation_bytes_available']:,} bytes; {report['rows']:,} rows, "
        f"{report['instructions']:,} instruction words, {report['cycles']:,} cycles: "
        f"{console.percent(report['utilisation'])} of the multipliers' capacity"
    )
    weights, available = report["weight_bytes"], report["weight_bytes_available"]
    if report["weights"] == "resident":
        console.print_line(f"weights {weights:,} of {available:,} bytes, resident")
    else:
        stored, fetched = report["stored_bytes"], report["fetched_bytes"]
        kept = report["resident_bytes"]
        console.print_line(
            f"weights {weights:,} bytes: {kept:,} stay, others are stored in {stored:,}, fetched {fetched:,} a frame, "
            f"{fetched / stored:.2f} times, through {available - kept:,} bytes: {report['weight_cycles']:,} cycles of "
            "waiting, counted above"
        )


def _names(steps: list[str]) -> str:
    first, last = (name.split(" (")[0] for name in (steps[0], steps[-1]))
    return first if len(steps) == 1 else f"{first} … {last}"
