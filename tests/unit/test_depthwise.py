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


PAIRED = [(16, 8, 8, 3), (8, 8, 8, 3), (8, 8, 4, 4), (8, 4, 4, 1), (4, 4, 4, 2)]


@pytest.mark.parametrize("lanes_in, lanes_out, requantisers, columns", SHAPES + PAIRED)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_sums_are_complete_when_the_lanes_take_them(lanes_in, lanes_out, requantisers, columns, rows):
    check_sums(lanes_in, lanes_out, requantisers, columns, rows, rows_of_results=1)


@pytest.mark.parametrize("lanes_in, lanes_out, requantisers, columns", PAIRED)
@pytest.mark.parametrize("rows", [2, 4, 5])
def test_sums_of_a_second_row_follow_those_of_the_first(lanes_in, lanes_out, requantisers, columns, rows):
    check_sums(lanes_in, lanes_out, requantisers, columns, rows, rows_of_results=2)


def check_sums(lanes_in, lanes_out, requantisers, columns, rows, rows_of_results):
    architecture = Architecture(
        "test", lanes_in, lanes_out, 64, 64, requantisers=requantisers, depthwise_columns=columns
    )
    rng = np.random.default_rng([lanes_in, rows])
    assert architecture.pairs_rows or rows_of_results == 1
    pace = max(rows, rows_of_results * lanes_in // requantisers)
    lanes = rows_of_results * columns
    word_count = 12
    products = rng.choice([-(1 << 14), 127 * 127, 1 << 14, -5, 0, 77], (word_count, rows, lanes, lanes_in))
    starts = np.cumsum(pace + rng.integers(0, 3, word_count)) + 3
    taps = {int(start) + row: (word, row) for word, start in enumerate(starts) for row in range(rows)}
    unit = DepthwiseSums(architecture, lane.sum_latency(architecture))
    seen: dict[tuple[int, int], int] = {}

    async def bench(ctx):
        for cycle in range(int(starts[-1]) + 60):
            _, row = taps.get(cycle, (0, 0))
            ctx.set(unit.i_control.tap, cycle in taps or bool(rng.integers(2)))
            ctx.set(unit.i_control.rows, rows if cycle in taps else 0)  # other taps are ordinary ones
            ctx.set(unit.i_control.pair, rows_of_results == 2 if cycle in taps else bool(rng.integers(2)))
            ctx.set(unit.i_control.first, row == 0)
            ctx.set(unit.i_control.last, row == rows - 1)
            for column in range(lanes):
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
    sums = products.reshape(word_count, rows, rows_of_results, columns, lanes_in).sum(axis=(1, 3))
    share = lanes_out // requantisers
    for word, start in enumerate(starts):
        complete = int(start) + rows - 1 + WEIGHT_LATENCY + lane.depthwise_latency(architecture) - 1
        for result in range(rows_of_results):
            for channel in range(lanes_in):
                group, position = divmod(channel, lanes_out)
                at = complete + result * lanes_in // requantisers + group * share + position
                assert seen[at, position // share] == sums[word, result, channel]
