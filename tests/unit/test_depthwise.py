"""Channel-wise sums over neighbouring lanes against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from emberline.arch.architecture import Architecture
from emberline.gateware import lane
from emberline.gateware.depthwise import DepthwiseSums
from emberline.gateware.lane_control import PRODUCT_LATENCY, WEIGHT_LATENCY

SHAPES = [(4, 4, 1, 3), (8, 4, 2, 3), (16, 4, 4, 2), (8, 8, 8, 4)]


@pytest.mark.parametrize("lanes_in, lanes_out, requantisers, columns", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_sums_are_complete_when_the_lanes_take_them(lanes_in, lanes_out, requantisers, columns, rows):
    architecture = Architecture(
        "test", lanes_in, lanes_out, 64, 64, requantisers=requantisers, depthwise_columns=columns
    )
    rng = np.random.default_rng([lanes_in, rows])
    pace = max(rows, lanes_in // requantisers)
    word_count = 12
    products = rng.choice([-(1 << 14), 127 * 127, 1 << 14, -5, 0, 77], (word_count, rows, columns, lanes_in))
    starts = np.cumsum(pace + rng.integers(0, 3, word_count)) + 3
    taps = {int(start) + row: (word, row) for word, start in enumerate(starts) for row in range(rows)}
    unit = DepthwiseSums(architecture, lane.sum_latency(architecture))
    seen: dict[tuple[int, int], int] = {}

    async def bench(ctx):
        for cycle in range(int(starts[-1]) + 60):
            _, row = taps.get(cycle, (0, 0))
            ctx.set(unit.i_control.tap, cycle in taps or bool(rng.integers(2)))
            ctx.set(unit.i_control.rows, rows if cycle in taps else 0)  # other taps are ordinary ones
            ctx.set(unit.i_control.first, row == 0)
            ctx.set(unit.i_control.last, row == rows - 1)
            for column in range(columns):
                at = cycle - WEIGHT_LATENCY - PRODUCT_LATENCY - column
                values = products[*taps[at], column] if at in taps else rng.integers(-99, 99, lanes_in)
                for channel in range(lanes_in):
                    ctx.set(unit.i_products[column][channel], int(values[channel]))
            for index in range(requantisers):
                seen[cycle, index] = ctx.get(unit.o_sums[index])
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    sums = products.sum(axis=(1, 2))
    share = lanes_out // requantisers
    for word, start in enumerate(starts):
        complete = int(start) + rows - 1 + WEIGHT_LATENCY + lane.depthwise_latency(architecture) - 1
        for channel in range(lanes_in):
            group, position = divmod(channel, lanes_out)
            assert seen[complete + group * share + position, position // share] == sums[word, channel]
