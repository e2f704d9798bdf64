"""Every budgeted machine fits its device: counted from its netlist, and from the tools' reports where there are any."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from amaranth.hdl import Value

from emberline.arch.block_memory import DP16KD, M9K, SB_RAM40, activation_shape, program_shape, weight_shape
from emberline.arch.presets import PRESETS
from emberline.compiler.compile import compile_graph
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.gateware.board import UartTop
from emberline.gateware.boards import ice40_tools
from emberline.gateware.compact.byte_bus import ByteBus
from emberline.gateware.resources import Resources, netlist_resources
from emberline.gateware.weight_source import flash_members

FOLDER = Path(__file__).resolve().parents[2] / "bitstreams"
BUDGETS = json.loads((FOLDER / "budgets.json").read_text())

# What a device's block memories and multipliers are, and how a netlist is counted in them.
COUNTS: dict[str, tuple[Callable[[Resources], int], Callable[[Resources], int]]] = {
    "10M50": (lambda found: found.block_memories(M9K), lambda found: found.max10_multiplier_blocks),
    "LFE5U-85F": (lambda found: found.block_memories(DP16KD), lambda found: found.instances["MULT18X18D"]),
    "LFE5U-45F": (lambda found: found.block_memories(DP16KD), lambda found: found.instances["MULT18X18D"]),
    "iCE40UP5K": (lambda found: found.block_memories(SB_RAM40), lambda found: found.instances["SB_MAC16"]),
}

# Block memories, multipliers and logic of each device: Intel M10-OVERVIEW; Lattice FPGA-DS-02012 (LUT4s as nextpnr
# counts them, two for each slice's pair); Lattice FPGA-DS-02008 (a logic cell is a LUT4 and a flip-flop).
DEVICES = {
    "10M50": {"lut4": 49_760, "flip_flops": 49_760, "block_memories": 182, "multipliers": 144},
    "LFE5U-85F": {"lut4": 83_640, "flip_flops": 83_640, "block_memories": 208, "multipliers": 156},
    "LFE5U-45F": {"lut4": 43_848, "flip_flops": 43_848, "block_memories": 108, "multipliers": 72},
    "iCE40UP5K": {"logic_cells": 5280, "block_memories": 30, "single_port_memories": 4, "multipliers": 8},
}


@cache
def resources(name: str) -> Resources:
    if PRESETS[name].compact:
        bus = ByteBus(PRESETS[name])
        ports = [bus.i.payload, bus.i.valid, bus.i.ready, bus.o.payload, bus.o.valid, bus.o.ready]
        return netlist_resources(bus, [*map(Value.cast, ports), bus.running, bus.faulted, bus.result_valid])
    top = UartTop(PRESETS[name])
    flashes = [getattr(top, member) for member in flash_members(PRESETS[name])]
    flash = [Value.cast(value) for lines in flashes for *_, value in lines.signature.flatten(lines)]
    return netlist_resources(top, [top.rx, top.tx, top.running, top.faulted, top.active, *flash])


def tool_counts(name: str) -> dict[str, int] | None:
    """What place and route used, or yosys alone where there is no such report."""
    routed, synthesised = FOLDER / "reports" / f"{name}.json", FOLDER / "reports" / f"{name}.synthesis.json"
    if routed.is_file():
        used: dict[str, int] = json.loads(routed.read_text())["used"]
        return used
    if not synthesised.is_file():
        return None
    cells = json.loads(synthesised.read_text())["cells"]
    return {
        # A carry cell takes two LUTs, a LUT memory four and two for its write port.
        "lut4": cells["LUT4"] + 2 * cells["CCU2C"] + 6 * cells["TRELLIS_DPR16X4"],
        "flip_flops": cells["TRELLIS_FF"],
        "block_memories": cells["DP16KD"],
        "multipliers": cells["MULT18X18D"],
    }


@pytest.mark.parametrize("name", BUDGETS)
def test_budget_is_within_the_device(name: str) -> None:
    available = BUDGETS[name]["available"]
    assert available == DEVICES[BUDGETS[name]["device"]]
    for kind, limit in available.items():
        assert BUDGETS[name].get(kind, 0) <= limit, kind


@pytest.mark.parametrize("name", BUDGETS)
def test_netlist_is_within_the_budget(name: str) -> None:
    memories, multipliers = (count(resources(name)) for count in COUNTS[BUDGETS[name]["device"]])
    assert 0 < memories <= BUDGETS[name]["block_memories"]
    assert 0 < multipliers <= BUDGETS[name]["multipliers"]


@pytest.mark.parametrize("name", [name for name in BUDGETS if BUDGETS[name]["device"] != "10M50"])
def test_tools_agree_and_are_within_the_budget(name: str) -> None:
    used = tool_counts(name)
    assert used is not None, f"no report: run bitstreams/synthesise.py {name}"
    for kind, limit in BUDGETS[name].items():
        if kind in used:
            assert used[kind] <= limit, kind
    memories, multipliers = (count(resources(name)) for count in COUNTS[BUDGETS[name]["device"]])
    assert used["block_memories"] == memories
    assert used["multipliers"] == multipliers


def test_16_multipliers_and_resnet8_fit_an_ice40up5k(data_folder) -> None:
    """Place and route reached the clock, with all of the single-port memory; the network's program fits it."""
    architecture = PRESETS["up5k-4x4"]
    report = json.loads((FOLDER / "reports" / "up5k-4x4.json").read_text())
    assert report["achieved_mhz"] >= report["clock_mhz"] == architecture.clock_hz / 1e6 == 24
    assert report["used"]["multipliers"] * 2 == architecture.multipliers == 16
    assert resources("up5k-4x4").instances["SB_SPRAM256KA"] == report["used"]["single_port_memories"] == 4
    assert architecture.memory_words * architecture.lanes_in == 128 * 1024
    compile_graph(read_tflite(data_folder / "mlperf_tiny" / "ic_resnet8_int8.tflite"), architecture)


def test_the_present_compact_machine_fits(tmp_path: Path) -> None:
    """Its report may be older: synthesised and packed anew it takes no more than the budget either."""
    ice40_tools.synthesise(PRESETS["up5k-4x4"], tmp_path)
    used = ice40_tools.packed(tmp_path)
    budget = BUDGETS["up5k-4x4"]
    assert used.keys() == set(ice40_tools.RESOURCES.values())
    assert all(0 < used[kind] <= budget.get(kind, used[kind]) for kind in used), used


def test_64_lanes_fit_an_lfe5u_45f() -> None:
    assert PRESETS["ecp5-45f"].multipliers == 64
    assert BUDGETS["ecp5-45f"]["device"] == "LFE5U-45F"


@pytest.mark.parametrize("name", ["ulx3s-85f", "max10-10m50", "tiny-4x4"])
def test_memories_of_the_architecture_are_those_of_the_netlist(name: str) -> None:
    """What the command line counts for a program is what the gateware has, however it divides its memories."""
    architecture = PRESETS[name]
    shapes = [weight_shape(architecture)] * architecture.lanes_out
    shapes += [activation_shape(architecture), program_shape(architecture)]
    memories = [memory for memory in resources(name).memories if memory.registered]
    assert sum(memory.bits for memory in memories) == sum(shape.width * shape.depth for shape in shapes)
    assert resources(name).block_memories(M9K) == sum(map(M9K.blocks, shapes))


def test_small_memories_become_logic() -> None:
    """MAX 10 has no LUT memory: what is read without a clock, pointers, FIFOs, parameters and earlier columns, becomes
    registers."""
    small = [memory for memory in resources("max10-10m50").memories if not memory.registered]
    names = [memory.path.rsplit(".", 2)[-1].split("$")[0] for memory in small]
    columns = [f"history_{index}" for index in range(8)]
    assert sorted(names) == sorted([*columns * 4, *["parameters_0"] * 8, "pointers", "storage", "storage"])
    assert resources("max10-10m50").unblocked_bits <= 1024 + 8 * 4 * 80 + 4 * 8 * 128


def test_products_on_max10() -> None:
    """128 lanes of 8x8, two to a block; two wider products for each of 8 requantisers and 2 adders."""
    found = resources("max10-10m50")
    assert found.products == 148
    assert found.max10_multiplier_blocks == 128 // 2 + 20
