"""The latencies that cycles are predicted with are the gateware's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emberline.arch import isa, latency, timing
from emberline.arch.architecture import Architecture
from emberline.arch.pooled_row import PooledRow, combines_in_flight
from emberline.arch.presets import PRESETS
from emberline.cli.networks import load_network
from emberline.gateware import accelerator, lane, residual_adder
from emberline.zoo.synthetic import SYNTHETIC


@pytest.mark.parametrize("architecture", PRESETS.values(), ids=PRESETS)
def test_latencies_are_the_gatewares(architecture):
    assert latency.sum_latency(architecture) == lane.sum_latency(architecture)
    assert latency.addition_latency(architecture) == residual_adder.latency(architecture.lanes_out, architecture.adders)
    for add in (False, True):
        for copy in (False, True):
            ours = accelerator.write_latency(architecture, add=add, copy=copy)
            assert latency.write_latency(architecture, add=add, copy=copy) == ours
    for pair in {False, architecture.pairs_rows}:
        ours = accelerator.write_latency(architecture, copy=pair, depthwise=True)
        assert latency.write_latency(architecture, copy=pair, depthwise=True) == ours
    assert latency.depthwise_latency(architecture) == lane.depthwise_latency(architecture)


def test_idle_covers_every_bottleneck():
    architecture = replace(PRESETS["ulx3s-85f"], requantisers=4)
    assert latency.minimum_idle(architecture, taps=9, columns=32, add=False) == 0
    assert latency.minimum_idle(architecture, taps=1, columns=32, add=False) == 1  # requantisers
    assert latency.minimum_idle(architecture, taps=2, columns=32, add=True) == 2  # residual adder
    assert latency.minimum_idle(architecture, taps=4, columns=1, add=False) == 6  # parameter registers
    assert latency.minimum_idle(architecture, taps=3, columns=32, add=False, depthwise=True) == 1  # a word's results
    # The shared port: two writes and a read for each pixel, or for every other one.
    assert latency.minimum_idle(architecture, 1, 32, add=False, copy=True, combine=True) == 2
    assert latency.minimum_idle(architecture, 1, 32, add=False, copy=True, combine=True, stride=2) == 1


@pytest.mark.parametrize("name", ["ember_cifar10", *SYNTHETIC])
def test_spent_cycles_sum_to_the_predicted_ones(name):
    """On an array with memory for all of them."""
    architecture = PRESETS["large-16x8"]
    program = load_network(name).compile(architecture)
    found = timing.predict(architecture, list(program.instructions))
    assert sum(spent.total for spent in found.spent.values()) == found.cycles == program.predicted_cycles
    assert sum(layer.spent.total for layer in program.layers) == found.cycles
    assert all(layer.spent.total == layer.cycles for layer in program.layers)


def row(columns: int, **changes: int) -> PooledRow:
    """A pooled row with nine taps, a window and stride of two."""
    return PooledRow(9, changes.pop("idle", 0), columns, 1, 1, 2, columns // 2, **{"copy": False, **changes})


def test_a_maximum_follows_without_a_fence_where_the_row_is_long():
    architecture = PRESETS["ulx3s-85f"]
    assert combines_in_flight(architecture, row(64), row(64), copied=False)
    assert combines_in_flight(architecture, row(64), row(64), copied=True)
    # One stored group: it is written when the row's pipeline is empty, far behind the first read.
    assert not combines_in_flight(architecture, row(2), row(2), copied=False)


def test_a_maximum_needs_a_fence_where_writes_leave_the_port_no_cycle():
    architecture = PRESETS["ulx3s-85f"]
    every = PooledRow(1, 0, 200, 1, 0, 1, 200, False)
    assert not combines_in_flight(architecture, every, every, copied=False)
    slower = PooledRow(1, 1, 200, 1, 0, 1, 200, False)
    assert combines_in_flight(architecture, slower, slower, copied=False)


def test_results_behind_a_depthwise_row_overtake_none():
    slow = Architecture("slow", 16, 4, 64, 64, requantisers=1)
    assert latency.depthwise_tail(slow) == 9 + 4 * 4 - (1 + 1 + 4 + 9)
    for architecture in (*PRESETS.values(), slow):
        share = architecture.lanes_out // architecture.requantisers
        last = latency.depthwise_latency(architecture) + architecture.lanes_in // architecture.requantisers
        following = 1 + architecture.parameter_words + share + latency.sum_latency(architecture)
        assert last <= latency.depthwise_tail(architecture) + following


PLAIN_ROW = {"add": 0, "pool": 0, "fence": 0, "depthwise": 0, "hold_weight": 0, "idle": 6, "lead": 0} | {
    "kernel_rows": 3, "kernel_columns": 3, "channel_words": 1, "columns": 10, "groups": 2
}  # fmt: skip


def test_rows_wait_for_their_loads_and_loads_for_rows_before_them():
    architecture = replace(PRESETS["tiny-4x4"], weight_word_cycles=16)
    queued = 1 + timing.HEAD_CYCLES + isa.LOAD.word_count - 1
    complete = queued + timing.LOAD_START + 1000

    clock = timing.FrameClock(architecture)
    clock.load({"cycles": 1000})
    clock.load({"cycles": 500})
    first = clock.row({**PLAIN_ROW, "loads": 1})
    assert complete + timing.LOADED_ROW == first.fetch + first.weights
    second = clock.row({**PLAIN_ROW, "loads": 0})
    assert first.total + second.fetch + second.weights == complete + timing.LOAD_START + 500 + timing.LOADED_ROW
    third = clock.row({**PLAIN_ROW, "loads": isa.NO_WAIT})
    assert third.weights == 0

    # The LOAD behind a ROW starts when that has been walked.
    clock.load({"cycles": 300})
    fourth = clock.row({**PLAIN_ROW, "loads": 0})
    assert fourth.weights + fourth.fetch + fourth.drain == timing.LOAD_START + 300 + timing.LOADED_ROW - 1


def test_a_full_queue_of_loads_is_waited_for():
    architecture = replace(PRESETS["tiny-4x4"], weight_word_cycles=16)
    waits = []
    for loads in (isa.LOAD_QUEUE, isa.LOAD_QUEUE + 1):
        clock = timing.FrameClock(architecture)
        for _ in range(loads):
            clock.load({"cycles": 1000})
        waits.append(clock.row({**PLAIN_ROW, "loads": isa.NO_WAIT}).fetch)
    assert waits[0] < 100 and 1000 < waits[1] < 1100
