"""Boards as far as they can be checked without place and route, and their committed reports against the budgets."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from emberline.arch.presets import preset
from emberline.errors import BuildError
from emberline.gateware.boards import build as boards
from emberline.gateware.boards import ecp5_tools

FOLDER = Path(__file__).resolve().parents[2] / "bitstreams"
BUDGETS = json.loads((FOLDER / "budgets.json").read_text())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("bitstreams_build", FOLDER / "build.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _plan(seed: int = 1):
    make_platform, make_top = boards.TARGETS["ulx3s-85f"]
    small = {"lanes_in": 4, "lanes_out": 4, "requantisers": 1, "activation_depth_words": 64, "weight_depth_words": 64}
    return ecp5_tools.prepare(make_platform(), make_top(replace(preset("ulx3s-85f"), **small)), seed)


def test_a_plan_is_reproducible_and_depends_on_its_seed() -> None:
    assert _plan().digest() == _plan().digest() != _plan(2).digest()


def test_a_plan_sets_the_output_registers_and_the_router() -> None:
    files = {
        name: content.decode() if isinstance(content, bytes) else content for name, content in _plan().files.items()
    }
    assert ecp5_tools.SCRIPT_AFTER_SYNTH in files["top.ys"] and ecp5_tools.SCRIPT_AFTER_READ in files["top.ys"]
    assert "--router router1" in files["build_top.sh"]
    assert str(FOLDER.parent) not in "".join(files.values())


def test_an_unknown_board_is_named() -> None:
    with pytest.raises(BuildError, match="no board is called 'nexys'; there are ulx3s-85f"):
        boards.build("nexys")


@pytest.mark.parametrize("target", boards.TARGETS)
def test_committed_reports_keep_their_budgets(target: str, script: ModuleType) -> None:
    path = FOLDER / "reports" / f"{target}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} has not been made yet: python bitstreams/build.py {target}")
    values = json.loads(path.read_text())
    report = boards.Report(bitstream=Path(), **values)
    assert report.to_json() == values
    assert script.over_budget(report, BUDGETS[target]) == []


def test_a_report_over_budget_says_what(script: ModuleType) -> None:
    report = boards.Report("x", 1, Path(), 100.0, 90.0, {"lut4": 11}, {"lut4": 20}, {}, {}, "")
    problems = script.over_budget(report, {"clock_mhz": 100, "lut4": 10})
    assert problems == ["lut4: 11, the budget is 10", "clock: 90.0 MHz, the budget is 100 MHz"]
