"""Boards as far as they can be checked without place and route, and their committed reports against the budgets."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

from emberline.arch.presets import preset
from emberline.errors import BuildError
from emberline.gateware.boards import build as boards
from emberline.gateware.boards import ecp5_tools
from emberline.gateware.boards.ulx3s_85f import ULX3S_85F_Platform, Ulx3sTop
from emberline.gateware.ecp5.floorplan import multiplier_sites
from emberline.gateware.machine import accelerator, check_buildable

FOLDER = Path(__file__).resolve().parents[2] / "bitstreams"
BUDGETS = json.loads((FOLDER / "budgets.json").read_text())

SMALL = {"lanes_in": 4, "lanes_out": 4, "requantisers": 1, "activation_depth_words": 64, "weight_depth_words": 64}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("bitstreams_build", FOLDER / "build.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _plan(seed: int = 1):
    make_platform, make_top = boards.TARGETS["ulx3s-85f"]
    return ecp5_tools.prepare(make_platform(), make_top(replace(preset("ulx3s-85f"), **SMALL)), seed)


def test_a_plan_is_reproducible_and_depends_on_its_seed() -> None:
    assert _plan().digest() == _plan().digest() != _plan(2).digest()


def test_a_plan_sets_the_output_registers_and_the_router() -> None:
    files = {
        name: content.decode() if isinstance(content, bytes) else content for name, content in _plan().files.items()
    }
    assert ecp5_tools.SCRIPT_AFTER_SYNTH in files["top.ys"] and ecp5_tools.SCRIPT_AFTER_READ in files["top.ys"]
    assert "--router router1" in files["build_top.sh"]
    assert str(FOLDER.parent) not in "".join(files.values())


@pytest.mark.parametrize("target", boards.TARGETS)
def test_every_multiplier_of_the_lanes_has_a_site_of_its_own(target: str) -> None:
    architecture = preset(target)
    sites = multiplier_sites(architecture)
    assert len(set(sites.values())) == len(sites) == architecture.multipliers
    places = {site.split("/")[0] for site in sites.values()}
    assert len(places) <= 52 and {"X4", "X119"} <= places
    assert multiplier_sites(replace(architecture, lanes_in=64, lanes_out=4, requantisers=4)) == {}


def test_a_plan_places_the_multipliers_that_the_netlist_has() -> None:
    machine = replace(preset("ulx3s-85f"), **SMALL)
    make_platform, make_top = boards.TARGETS["ulx3s-85f"]
    sites = {f"{boards.LANES}.{name}.primitive": site for name, site in multiplier_sites(machine).items()}
    files = ecp5_tools.prepare(make_platform(), make_top(machine), 1, sites).files
    netlist, script = str(files["top.il"]), str(files["top.ys"])
    for cell, site in sites.items():
        assert f"module \\top.{cell.removesuffix('.primitive')}" in netlist
        assert f'setattr -set BEL "{site}" c:{cell}' in script
    assert f"select -assert-count {len(sites)} t:MULT18X18D a:BEL %i" in script


def test_seeds_share_a_netlist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(plan: object, folder: Path, tools: dict[str, str], result: str) -> None:
        ran.append(result)
        assert (folder / ecp5_tools.NETLIST).is_file() == ("NEXTPNR_ECP5" in tools)
        (folder / result).write_text("")
        (folder / ecp5_tools.REPORT).write_text("{}")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ecp5_tools, "tool_versions", dict)
    monkeypatch.setattr(ecp5_tools, "_run", run)
    for seed in (1, 2, 1):
        ecp5_tools.route(_plan(seed))
    assert ran == ["top.json", "top.bit", "top.bit"]


def test_tools_that_do_not_end_are_stopped_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ecp5_tools, "LIMIT_S", 0.05)
    with pytest.raises(BuildError, match=r"stopped, as they had not made top.json after 0.05 seconds"):
        ecp5_tools.route(_plan())
    (folder,) = (tmp_path / "emberline" / "netlists").iterdir()
    assert (folder / ecp5_tools.GIVEN_UP).is_file() and not (folder / ecp5_tools.NETLIST).is_file()
    monkeypatch.setattr(ecp5_tools, "_run", None)
    with pytest.raises(BuildError, match="stopped"):
        ecp5_tools.route(_plan())


def test_a_seed_that_was_not_routed_has_no_clock(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    routed = boards.Report("x", 1, Path(), 100.0, 110.0, {}, {}, {}, {}, "", {})

    def build(target: str, *, seed: int, allow_timing_failure: bool) -> boards.Report:
        if seed == 2:
            raise BuildError("stopped")
        return replace(routed, seed=seed)

    monkeypatch.setattr(script, "build", build)
    reports = script.build_seeds("x", [1, 2, 3])
    assert script.clocks(reports) == {"1": 110.0, "2": 0.0, "3": 110.0}


def test_a_board_leads_its_flash_to_the_machine_that_fetches_weights() -> None:
    """Its clock by the primitive that drives the configuration's, and its lines, which others leave alone."""
    netlists = {}
    for target in ("ulx3s-85f", "ulx3s-85f-flash", "ulx3s-85f-two-flashes"):
        plan = ecp5_tools.prepare(ULX3S_85F_Platform(), Ulx3sTop(replace(preset(target), **SMALL)), 1)
        netlists[target] = str(plan.files["top.il"]) + str(plan.files["top.lpf"])
    for text in ("USRMCLK", "configuration_flash_0__select", "configuration_flash_0__data", 'SITE "W1"'):
        assert text not in netlists["ulx3s-85f"]
        assert text in netlists["ulx3s-85f-flash"] and text in netlists["ulx3s-85f-two-flashes"]
    for text in ("second_flash_0__select", "second_flash_0__clock", "second_flash_0__data", 'SITE "A11"'):
        assert text not in netlists["ulx3s-85f-flash"]
        assert text in netlists["ulx3s-85f-two-flashes"]


@pytest.mark.parametrize("pace", [1, 6, 14])
def test_a_flash_clock_that_cannot_be_made_is_refused_by_name(pace: int) -> None:
    machine = replace(preset("ulx3s-85f-flash"), name="hasty", weight_word_cycles=pace)
    with pytest.raises(BuildError, match=f"'hasty' cannot be built: .* must be a multiple of 4, not {pace}"):
        accelerator(machine)


@pytest.mark.parametrize(("pace", "clock_hz", "words"), [
    (8, 140_000_000, "8 is a flash clock of 70 MHz, at double rate at most 66 MHz"),
    (16, 220_000_000, "16 is a flash clock of 110 MHz, at single rate at most 104 MHz"),
])  # fmt: skip
def test_a_flash_clock_beyond_the_data_sheets_is_refused_by_name(pace: int, clock_hz: int, words: str) -> None:
    machine = replace(preset("ulx3s-85f-flash"), name="hasty", weight_word_cycles=pace, clock_hz=clock_hz)
    with pytest.raises(BuildError, match=f"'hasty' cannot be built: weight_word_cycles {words}"):
        accelerator(machine)
    for slower in (16, 24, 32):
        check_buildable(replace(machine, weight_word_cycles=slower, clock_hz=130_000_000))


def test_an_unknown_board_is_named() -> None:
    with pytest.raises(BuildError, match="no board is called 'nexys'; there are ulx3s-85f"):
        boards.build("nexys")


@pytest.mark.parametrize("target", boards.TARGETS)
def test_committed_reports_keep_their_budgets(target: str, script: ModuleType) -> None:
    values = json.loads((FOLDER / "reports" / f"{target}.json").read_text())
    clocks, middle = values.pop("clocks_mhz"), values.pop("median_mhz")
    report = boards.Report(bitstream=Path(), **values)
    assert report.to_json() == values
    assert report.seed == boards.SEEDS[target] and clocks[str(report.seed)] == report.achieved_mhz
    assert list(clocks) == [str(seed) for seed in BUDGETS[target]["seeds"]]
    assert median(clocks.values()) == middle >= BUDGETS[target]["median_mhz"]
    assert report.achieved_mhz >= report.clock_mhz == BUDGETS[target]["clock_mhz"]
    assert script.over_budget(report, BUDGETS[target]) == []


def test_a_report_over_budget_says_what(script: ModuleType) -> None:
    report = boards.Report("x", 1, Path(), 100.0, 90.0, {"lut4": 11}, {"lut4": 20}, {}, {}, "", {})
    problems = script.over_budget(report, {"clock_mhz": 100, "lut4": 10})
    assert problems == ["lut4: 11, the budget is 10", "clock: 90.0 MHz, the budget is 100 MHz"]
