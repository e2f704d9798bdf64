"""Build the bitstreams of all boards, or of those named, and renew their committed reports.

    python bitstreams/build.py [TARGET ...]

Each board is placed and routed with the seeds in `budgets.json`, two at once. The report is that of the seed that
`emberline build` takes, too; beside it stand the clocks that all of them reached, and their median. A seed
that the tools could not route, or not in time, has reached nothing: its clock is 0.

`emberline build TARGET` builds one without touching the reports; the work is done in `emberline.gateware.boards`.
A bitstream that misses its clock, or needs more than `budgets.json` allows, is an error.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hw"))

from emberline.errors import EmberlineError
from emberline.gateware.boards.build import SEEDS, TARGETS, Report, build

FOLDER = Path(__file__).resolve().parent
REPORTS = FOLDER / "reports"
BUDGETS = FOLDER / "budgets.json"
PARALLEL = 2


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


def build_seeds(target: str, seeds: list[int]) -> dict[int, Report | EmberlineError]:
    """The reports of all seeds, whether they meet the clock or not, or why there is none."""

    def report(seed: int) -> Report | EmberlineError:
        try:
            return build(target, seed=seed, allow_timing_failure=True)
        except EmberlineError as error:
            return error

    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(zip(seeds, pool.map(report, seeds), strict=True))


def clocks(reports: dict[int, Report | EmberlineError]) -> dict[str, float]:
    """MHz by seed; 0 where there is no report."""
    return {str(seed): each.achieved_mhz if isinstance(each, Report) else 0.0 for seed, each in reports.items()}


def main(targets: list[str]) -> int:
    budgets = json.loads(BUDGETS.read_text())
    REPORTS.mkdir(exist_ok=True)
    status = 0
    for target in targets or list(TARGETS):
        budget = budgets[target]
        reports = build_seeds(target, budget["seeds"])
        for seed, each in reports.items():
            if isinstance(each, EmberlineError):
                print(f"{target}, seed {seed}: {each}", file=sys.stderr)
        report = reports[SEEDS[target]]
        if isinstance(report, EmberlineError):
            status = 1
            continue
        reached = clocks(reports)
        document = {**report.to_json(), "clocks_mhz": reached, "median_mhz": median(reached.values())}
        (REPORTS / f"{target}.json").write_text(json.dumps(document, indent=2) + "\n")
        print(f"{target}: {report.achieved_mhz} MHz, {report.bitstream}; of all seeds {reached}")
        if document["median_mhz"] < budget["median_mhz"]:
            print(f"{target}: the median of the seeds misses {budget['median_mhz']:g} MHz", file=sys.stderr)
            status = 1
        for problem in over_budget(report, budget):
            print(f"{target}: over budget: {problem}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
