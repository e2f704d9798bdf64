"""The addresses of a ROW's groups: one row, or two whose groups come column by column."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH
from emberline.gateware.result_writer import LATENCY, ResultWriter

COLUMNS, WORDS, PIXEL_STEP = 3, 2, 6


@pytest.mark.parametrize("lanes_in", [8, 16])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("target, second", [(10, 50), (70, 20)])
def test_groups_of_two_rows_go_to_two_rows(lanes_in, pair, target, second):
    architecture = Architecture("test", lanes_in, 8, 128, 64, requantisers=8)
    groups = architecture.groups_per_word
    unit = ResultWriter(architecture)
    distance = second - target
    last_step = PIXEL_STEP - (groups - 1) - (distance if pair else 0)
    settings = {
        "target": target,
        "target_pixel_step": last_step % (1 << ADDRESS_WIDTH),
        "depthwise": 1,
        "column_groups": groups * (1 + pair) - 1,
        "pair": pair,
        "second_step": (distance - (groups - 1)) % (1 << ADDRESS_WIDTH),
        "columns": COLUMNS - 2,
        "groups": WORDS - 2,
        "copy": 0,
        "copy_distance": distance % (1 << ADDRESS_WIDTH),
    }
    expected = [
        row + word * groups + column * PIXEL_STEP + group
        for _ in range(2)
        for word in range(WORDS)
        for column in range(COLUMNS)
        for row in ((target, second) if pair else (target,))
        for group in range(groups)
    ]
    rng = np.random.default_rng(lanes_in)
    written: list[tuple[int, int]] = []
    ends: list[int] = []

    async def drive(ctx):
        for context in range(2):
            ctx.set(unit.settings[context], settings)
        await ctx.tick().repeat(3)
        for number in range(len(expected)):
            ctx.set(unit.i_valid, 1)
            ctx.set(unit.i_group, number)
            await ctx.tick()
            ctx.set(unit.i_valid, 0)
            behind = (number + 1) % (len(expected) // 2) == 0  # the next ROW's first group comes later
            for _ in range(3 if behind else int(rng.integers(2))):
                await ctx.tick()
        await ctx.tick().repeat(LATENCY)

    async def watch(ctx):
        async for _, _, valid, address, group, done in ctx.tick().sample(
            unit.o_valid, unit.o_address, unit.o_group, unit.o_done
        ):
            if valid:
                written.append((address, group))
                if done:
                    ends.append(group)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert written == [(address, number) for number, address in enumerate(expected)]
    assert ends == [len(expected) // 2 - 1, len(expected) - 1]
