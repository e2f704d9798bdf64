"""The latencies that cycles are predicted with are the gateware's own."""

from __future__ import annotations

import pytest

from emberline.arch import timing
from emberline.arch.presets import PRESETS
from emberline.gateware import accelerator, lane, residual_adder


@pytest.mark.parametrize("architecture", PRESETS.values(), ids=PRESETS)
def test_latencies_are_the_gatewares(architecture):
    assert timing.sum_latency(architecture) == lane.sum_latency(architecture)
    assert timing.addition_latency(architecture) == residual_adder.latency(architecture.lanes_out, architecture.adders)
    for add in (False, True):
        for copy in (False, True):
            ours = accelerator.write_latency(architecture, add=add, copy=copy)
            assert timing.write_latency(architecture, add=add, copy=copy) == ours


def test_idle_covers_every_bottleneck():
    architecture = PRESETS["ulx3s-85f"]
    assert timing.minimum_idle(architecture, taps=9, columns=32, add=False) == 0
    assert timing.minimum_idle(architecture, taps=1, columns=32, add=False) == 1  # requantisers
    assert timing.minimum_idle(architecture, taps=2, columns=32, add=True) == 2  # residual adder
    assert timing.minimum_idle(architecture, taps=4, columns=1, add=False) == 4  # parameter registers
