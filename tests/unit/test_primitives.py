"""Vendor primitives: each equal to its generic twin, and found by its family's synthesis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from synthesis import MODELS, mapped_cells, prove_products_equal, vendor_model

from emberline.arch.presets import preset
from emberline.gateware.lane import Lane
from emberline.gateware.multiplier import Multiplier, MultiplierPair

TINY = replace(preset("tiny-4x4"), activation_depth_words=64, weight_depth_words=512)


class TwoMultipliers(wiring.Component):
    """`MultiplierPair` out of two generic multipliers."""

    def __init__(self, width: int) -> None:
        super().__init__(dict(MultiplierPair(width, width).signature.members))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.a0)
        for index in "01":
            m.submodules[f"multiplier_{index}"] = unit = Multiplier(width, width)
            m.d.comb += [
                unit.a.eq(getattr(self, f"a{index}")),
                unit.b.eq(getattr(self, f"b{index}")),
                getattr(self, f"product{index}").eq(unit.product),
            ]
        return m


def model(family: str) -> str:
    """yosys' simulation model; for what is a black box to it, ours."""
    if family == "ice40":
        return vendor_model("ice40", "SB_MAC16")
    return MODELS.read_text() + vendor_model("ecp5", "LUT4")


@pytest.mark.parametrize(
    ("family", "a_width", "b_width"),
    [
        *(("ecp5", 8, 8), ("ecp5", 18, 18), ("ecp5", 18, 15), ("ecp5", 2, 9)),
        *(("gowin", 8, 8), ("gowin", 9, 9), ("gowin", 9, 2)),
        *(("ice40", 8, 8), ("ice40", 3, 7)),
    ],
)
def test_multiplier_equals_its_twin(tmp_path: Path, family: str, a_width: int, b_width: int) -> None:
    twin, primitive = Multiplier(a_width, b_width), Multiplier(a_width, b_width, family=family)
    assert prove_products_equal(tmp_path, twin, primitive, model(family)) == ""


@pytest.mark.parametrize("width", [8, 5])
def test_pair_equals_two_multipliers(tmp_path: Path, width: int) -> None:
    assert (
        prove_products_equal(
            tmp_path, TwoMultipliers(width), MultiplierPair(width, width), vendor_model("ice40", "SB_MAC16")
        )
        == ""
    )


@pytest.mark.parametrize(
    ("family", "right", "wrong"),
    [
        ("ice40", "assign iF = TOP_8x8_MULT_REG ? rF : p_Ah_Bh;", "assign iF = p_Ah_Bh;"),
        ("ice40", "{A_SIGNED ? {8{iA[15]}}", "{1'b0 ? {8{iA[15]}}"),
        ("ecp5", "a_register <= a;", "a_register <= a_register;"),
        ("ecp5", "SIGNEDA &", "~SIGNEDA &"),
        ("gowin", "OUT_REG ? output_register : pipelined", "pipelined"),
        ("gowin", "BSIGN &", "~BSIGN &"),
    ],
)
def test_a_difference_is_found(tmp_path: Path, family: str, right: str, wrong: str) -> None:
    text = model(family)
    assert right in text
    width = {"ecp5": 18, "gowin": 9, "ice40": 8}[family]  # narrower factors come with copies of their sign
    twin, primitive = Multiplier(width, width), Multiplier(width, width, family=family)
    assert "proof did fail" in prove_products_equal(tmp_path, twin, primitive, text.replace(right, wrong))


@pytest.mark.parametrize(
    ("family", "command", "primitive", "count"),
    [
        ("ice40", "synth_ice40", "SB_MAC16", 2),
        ("gowin", "synth_gowin", "MULT9X9", 4),
        ("ecp5", "synth_ecp5", "MULT18X18D", 4),
        ("generic", "synth_ice40", "SB_MAC16", 0),
    ],
)
def test_lane_is_synthesised(tmp_path: Path, family: str, command: str, primitive: str, count: int) -> None:
    cells = mapped_cells(tmp_path, Lane(replace(TINY, family=family), 0), command)
    assert cells.get(primitive, 0) == count
    block_memories = {"ice40": "SB_RAM40_4K", "gowin": "SDPX9B", "ecp5": "DP16KD", "generic": "SB_RAM40_4K"}
    assert cells[block_memories[family]] > 0
