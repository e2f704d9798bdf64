"""The words that the lanes of a depthwise ROW multiply: a column of the kernel each, twice where rows come in pairs."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from emberline.arch.architecture import Architecture
from emberline.gateware.lane import Lane
from emberline.gateware.lane_control import CONTROL, PRODUCT_LATENCY, WEIGHT_LATENCY

COLUMNS = 7


def chain(m: Module, architecture: Architecture) -> list[Lane]:
    """The lanes, each behind the one before."""
    lanes = [Lane(architecture, index) for index in range(architecture.lanes_out)]
    undelayed = None
    for index, unit in enumerate(lanes):
        m.submodules[f"lane_{index}"] = unit
        if index:
            before = lanes[index - 1]
            m.d.comb += [
                unit.i_write.eq(before.o_write),
                unit.i_address.eq(before.o_address),
                unit.i_control.eq(before.o_control),
                unit.i_activation.eq(before.o_activation),
            ]
            undelayed = getattr(before, "o_undelayed", undelayed)
        if hasattr(unit, "i_undelayed"):
            m.d.comb += unit.i_undelayed.eq(unit.i_activation if undelayed is None else undelayed)
    return lanes


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("columns", [1, 3, 4])
def test_lanes_behind_see_the_columns_that_the_first_ones_see(columns, rows):
    """``rows`` 0 is an ordinary ROW: every lane has every word."""
    architecture = Architecture("test", 8, 8, 64, 16, requantisers=8, depthwise_columns=columns)
    assert architecture.pairs_rows
    rng = np.random.default_rng([columns, rows])
    m = Module()
    lanes = chain(m, architecture)
    taps = COLUMNS * max(1, rows)
    words = rng.integers(-128, 128, (taps, 8))
    starts = np.cumsum(rng.integers(1, 3, taps)) + 40  # the taps' cycles at lane 0, some apart
    cycle_of = {int(start): tap for tap, start in enumerate(starts)}
    seen: dict[tuple[int, int], list[int]] = {}

    async def bench(ctx):
        first = lanes[0]
        for index in range(len(lanes)):  # weights of one
            for chunk in range(2):
                ctx.set(first.i_write, {"enable": 1, "chunk": chunk, "lane": index, "address": 0, "data": 0x01010101})
                await ctx.tick()
        ctx.set(first.i_write.enable, 0)
        for cycle in range(17, int(starts[-1]) + 30):
            early = cycle_of.get(cycle + WEIGHT_LATENCY)
            ctx.set(first.i_control, dict.fromkeys(CONTROL.members, 0))
            ctx.set(first.i_control.tap, early is not None)
            ctx.set(first.i_control.rows, rows if early is not None else int(rng.integers(6)))
            word = words[cycle_of[cycle]] if cycle in cycle_of else rng.integers(-128, 128, 8)
            ctx.set(first.i_activation, int.from_bytes(word.astype(np.int8).tobytes(), "little"))
            for index in range(2 * columns):
                seen[cycle, index] = [ctx.get(lanes[index].o_products[channel]) for channel in range(8)]
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for tap, start in enumerate(starts):
        for index in range(2 * columns):
            source = tap - rows * (index % columns)
            if source >= 0:
                at = int(start) + PRODUCT_LATENCY + index
                assert seen[at, index] == words[source].tolist(), f"lane {index}, tap {tap}"
