"""Vendor primitives: each equal to its generic twin, and found by its family's synthesis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from synthesis import mapped_cells, prove_products_equal, vendor_model

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


@pytest.mark.parametrize(
    ("family", "a_width", "b_width"),
    [
        ("ice40", 8, 8),
        ("ice40", 3, 7),
    ],
)
def test_multiplier_equals_its_twin(tmp_path: Path, family: str, a_width: int, b_width: int) -> None:
    twin, primitive = Multiplier(a_width, b_width), Multiplier(a_width, b_width, family=family)
    assert prove_products_equal(tmp_path, twin, primitive, vendor_model(family, "SB_MAC16")) == ""


@pytest.mark.parametrize("width", [8])
def test_pair_equals_two_multipliers(tmp_path: Path, width: int) -> None:
    assert (
        prove_products_equal(
            tmp_path, TwoMultipliers(width), MultiplierPair(width, width), vendor_model("ice40", "SB_MAC16")
        )
        == ""
    )


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
