"""Synthesise, place and route a compact preset for an iCE40UP5K and commit the report: `reports/PRESET.json`.

    python bitstreams/route_ice40.py PRESET...

The top level is `emberline.gateware.compact.byte_bus.ByteBus`, its pins wherever the tools put them: there is no board
for it yet. The bitstream stays in `build/PRESET`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / root) for root in ("hw", "host"))

from emberline.arch.presets import preset
from emberline.errors import BuildError
from emberline.gateware.boards.ice40_tools import route

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER.parent / "build"


def main(names: list[str]) -> int:
    budgets = json.loads((FOLDER / "budgets.json").read_text())
    status = 0
    for name in names:
        folder = BUILD / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            report = route(preset(name), int(budgets[name]["seed"]), folder)
        except BuildError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
            continue
        print(f"{name}: {report.achieved_mhz} MHz, {report.used}")
        if report.achieved_mhz < report.clock_mhz:
            print(f"{name}: the clock is {report.clock_mhz} MHz", file=sys.stderr)
            status = 1
            continue
        report.save(FOLDER / "reports" / f"{name}.json")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
