"""Bitstreams by the name of their board, and what the tools say about them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from amaranth.vendor import LatticeECP5Platform

from emberline.arch.architecture import Architecture
from emberline.arch.presets import preset
from emberline.errors import BuildError
from emberline.gateware.boards import ecp5_tools
from emberline.gateware.boards.ulx3s_85f import ULX3S_85F_Platform, Ulx3sTop
from emberline.gateware.ecp5.floorplan import multiplier_sites

TARGETS: dict[str, tuple[Callable[[], LatticeECP5Platform], Callable[[Architecture], wiring.Component]]] = {
    "ulx3s-85f": (ULX3S_85F_Platform, Ulx3sTop),
    "ulx3s-85f-flash": (ULX3S_85F_Platform, Ulx3sTop),
}
"""Platform and top level of each board; the architecture is the preset of the same name."""

SEEDS = {"ulx3s-85f": 3, "ulx3s-85f-flash": 1}
"""The seed of the placer with which each board met its clock; its committed report is of this one."""

LANES = "top.accelerator"
"""The cell that has the lanes in it."""

RESOURCES = {
    "TRELLIS_COMB": "lut4",
    "TRELLIS_FF": "flip_flops",
    "DP16KD": "block_memories",
    "MULT18X18D": "multipliers",
    "TRELLIS_IO": "pins",
}


@dataclass(frozen=True)
class Report:
    """What a build gave.

    Parameters:
        target, seed: what was built.
        bitstream: the file for the programmer.
        clock_mhz, achieved_mhz: what the clock is, and what place and route reached.
        used, available: resources by name.
        critical_path: of the clock: nanoseconds of logic and of routing, and where it begins and ends.
        tools: versions. digest: of everything that went in.
        seconds: that the tools took on the machine that built it, where that was measured.
    """

    target: str
    seed: int
    bitstream: Path
    clock_mhz: float
    achieved_mhz: float
    used: dict[str, int]
    available: dict[str, int]
    critical_path: dict[str, Any]
    tools: dict[str, str]
    digest: str
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The report as it is committed: without the place of the file."""
        return {key: value for key, value in asdict(self).items() if key != "bitstream"}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")


def build(
    target: str,
    *,
    seed: int | None = None,
    output: str | os.PathLike[str] | None = None,
    architecture: Architecture | None = None,
    allow_timing_failure: bool = False,
) -> Report:
    """Build a board's bitstream, or find it where the same was built before.

    Parameters:
        seed: of the placer; by default the board's in `SEEDS`.
        output: where to copy the bitstream; by default it stays in the cache.
        architecture: instead of the board's preset.
        allow_timing_failure: do not raise when the clock is missed.

    Raises ``BuildError`` for an unknown board, missing or failing tools, and a clock that is not reached.
    """
    if target not in TARGETS:
        raise BuildError(f"no board is called '{target}'; there are {', '.join(TARGETS)}")
    make_platform, make_top = TARGETS[target]
    architecture = architecture or preset(target)
    seed = SEEDS[target] if seed is None else seed
    sites = {f"{LANES}.{name}.primitive": site for name, site in multiplier_sites(architecture).items()}
    plan = ecp5_tools.prepare(make_platform(), make_top(architecture), seed, sites)
    routed = ecp5_tools.route(plan)
    report = _report(target, seed, architecture, routed)
    if report.achieved_mhz < report.clock_mhz and not allow_timing_failure:
        path = report.critical_path
        raise BuildError(
            f"{target}: the clock is {report.clock_mhz:g} MHz, place and route reached {report.achieved_mhz:.1f} MHz "
            f"with seed {seed}; the longest path goes from {path['begins']} to {path['ends']}"
        )
    if output is not None:
        shutil.copyfile(routed.bitstream, output)
    return report


def _report(target: str, seed: int, architecture: Architecture, routed: ecp5_tools.Routed) -> Report:
    measured = routed.report
    clock, figures = max(measured["fmax"].items(), key=lambda item: item[1]["constraint"])
    return Report(
        target=target,
        seed=seed,
        bitstream=routed.bitstream,
        clock_mhz=architecture.clock_hz / 1e6,
        achieved_mhz=round(figures["achieved"], 2),
        used={ours: measured["utilization"][theirs]["used"] for theirs, ours in RESOURCES.items()},
        available={ours: measured["utilization"][theirs]["available"] for theirs, ours in RESOURCES.items()},
        critical_path=critical_path(measured, clock),
        tools=ecp5_tools.tool_versions(),
        digest=routed.digest,
        seconds=routed.seconds,
    )


def critical_path(measured: dict[str, Any], clock: str) -> dict[str, Any]:
    """The longest path that begins and ends in one clock."""
    for path in measured["critical_paths"]:
        if clock in path["from"] and clock in path["to"]:
            steps = path["path"]
            delays: dict[str, float] = {"logic": 0.0, "routing": 0.0}
            for step in steps:
                delays["routing" if step["type"] == "routing" else "logic"] += step["delay"]
            return {
                "logic_ns": round(delays["logic"], 2),
                "routing_ns": round(delays["routing"], 2),
                "begins": steps[0]["from"]["cell"],
                "ends": steps[-1]["to"]["cell"],
            }
    return {"logic_ns": 0.0, "routing_ns": 0.0, "begins": "?", "ends": "?"}
