"""How long the row issuer walks a ROW, and how long nothing follows a depthwise one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from amaranth.sim import Simulator

from emberline.arch.architecture import Architecture
from emberline.arch.latency import depthwise_tail
from emberline.arch.timing import row_cycles
from emberline.gateware.row_issuer import COUNTS, RowIssuer

ROW = {"kernel_rows": 4, "kernel_columns": 1, "channel_words": 1, "columns": 5, "groups": 2, "idle": 0, "lead": 0}
PAIRING = (Architecture("pairs", 16, 8, 64, 64, requantisers=8), Architecture("square", 8, 8, 64, 64, requantisers=8))
SINGLE = (*PAIRING, Architecture("single", 16, 8, 64, 64), Architecture("slow", 16, 4, 64, 64, requantisers=1))


@pytest.mark.parametrize("kind, architecture", [("ordinary", each) for each in SINGLE]
                         + [("depthwise", each) for each in SINGLE] + [("pair", each) for each in PAIRING])  # fmt: skip
def test_rows_follow_each_other_in_the_predicted_cycles(kind, architecture):
    unit = RowIssuer(architecture)
    depthwise = kind != "ordinary"
    words = architecture.parameter_words * (architecture.groups_per_word if depthwise else 1)
    settings = {name: ROW[name] - 2 for name in COUNTS} | {
        "depthwise": depthwise,
        "pair": kind == "pair",
        "never_idle": 1,
        "lane_rows": ROW["kernel_rows"] if depthwise else 0,
        "parameters": words - 2,
    }
    taken, controls = [], []

    async def bench(ctx):
        ctx.set(unit.i_settings, settings)
        await ctx.tick().repeat(3)
        ctx.set(unit.i_valid, 1)
        for cycle in range(400):
            if ctx.get(unit.o_ready):
                taken.append(cycle)
            if ctx.get(unit.o_control.tap):
                controls.append((ctx.get(unit.o_control.rows), ctx.get(unit.o_control.pair)))
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    tail = depthwise_tail(architecture, kind == "pair") if depthwise else 0
    walk = row_cycles(architecture, {**ROW, "depthwise": int(depthwise)})
    assert len(taken) > 3
    assert {after - before for before, after in pairwise(taken)} == {1 + walk + tail}
    assert set(controls) == {(4 if depthwise else 0, int(kind == "pair"))}
