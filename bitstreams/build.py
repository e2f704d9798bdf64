"""Build the bitstreams of all boards, or of those named, and renew their committed reports.

    python bitstreams/build.py [TARGET ...]

`emberline build TARGET` builds one without touching the reports; the work is done in `emberline.gateware.boards`.
A bitstream that misses its clock, or needs more than `budgets.json` allows, is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hw"))

from emberline.errors import EmberlineError
from emberline.gateware.boards.build import TARGETS, Report, build

FOLDER = Path(__file__).resolve().parent
REPORTS = FOLDER / "reports"
BUDGETS = FOLDER / "budgets.json"


def over_budget(report: Report, budget: dict[str, float]) -> list[str]:
    """What the build needs more of, or reaches less of, than its budget says."""
    problems = [
        f"{name}: {report.used[name]}, the budget is {limit}"
        for name, limit in budget.items()
        if name in report.used and report.used[name] > limit
    ]
    if report.achieved_mhz < budget["clock_mhz"]:
        problems.append(f"clock: {report.achieved_mhz} MHz, the budget is {budget['clock_mhz']} MHz")
    return problems


def main(targets: list[str]) -> int:
    budgets = json.loads(BUDGETS.read_text())
    REPORTS.mkdir(exist_ok=True)
    status = 0
    for target in targets or list(TARGETS):
        try:
            report = build(target, seed=int(budgets.get(target, {}).get("seed", 1)))
        except EmberlineError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        report.save(REPORTS / f"{target}.json")
        print(f"{target}: {report.achieved_mhz} MHz, {report.bitstream}")
        for problem in over_budget(report, budgets[target]):
            print(f"{target}: over budget: {problem}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
