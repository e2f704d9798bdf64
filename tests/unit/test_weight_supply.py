"""Weights from the link until LOADs take them: in order, only what was committed, never more than there is room for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from emberline.gateware.weight_supply import WeightSupply
from emberline.simulation.streams import PATTERNS, Pattern, random_gaps, simulate, sink, source

DEPTH = 16


def words(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.getrandbits(32) for _ in range(count)]


def as_bytes(values: list[int]) -> list[int]:
    return list(b"".join(value.to_bytes(4, "little") for value in values))


def reads(total: int, seed: int) -> list[dict[str, int]]:
    """Reads of all words, with addresses that mean nothing."""
    rng = random.Random(seed)
    found = []
    while total:
        count = min(total, rng.randint(1, 2 * DEPTH))
        found.append({"address": rng.getrandbits(24), "length": 4 * count})
        total -= count
    return found


async def strobe(ctx: Any, signal: Any) -> None:
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


async def put(ctx: Any, dut: WeightSupply, values: list[int], gaps: Iterator[bool]) -> None:
    for value in values:
        while next(gaps):
            await ctx.tick()
        ctx.set(dut.i_data, value)
        await strobe(ctx, dut.i_enable)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_reads_give_what_was_committed_in_its_order(pattern: Pattern, seed: int) -> None:
    """Pieces of all sizes, some of them taken back; the room is filled to its last word now and then."""
    dut = WeightSupply(DEPTH)
    values = words(200, seed)
    given: list[int] = []

    async def write(ctx: Any) -> None:
        rng, gaps, left = random.Random(seed), random_gaps(seed, pattern.idle_density), list(values)
        await ctx.tick()
        while left:
            room = ctx.get(dut.o_room)
            count = room if rng.random() < 0.3 else min(room, rng.randint(1, 6))
            if not count:
                await ctx.tick()
                continue
            if rng.random() < 0.3:
                await put(ctx, dut, words(count, rng.random()), gaps)
                await strobe(ctx, dut.i_abort)
            else:
                await put(ctx, dut, left[:count], gaps)
                await strobe(ctx, dut.i_commit)
                del left[:count]
            for _ in range(4):
                await ctx.tick()

    simulate(
        dut,
        write,
        source(dut.i, reads(len(values), seed), gaps=pattern.idle(seed)),
        sink(dut.o, 4 * len(values), into=given, gaps=pattern.stall(seed)),
    )
    assert given == as_bytes(values)


def test_the_room_is_what_is_left_and_grows_as_words_leave() -> None:
    dut = WeightSupply(DEPTH)

    async def bench(ctx: Any) -> None:
        await ctx.tick()
        assert ctx.get(dut.o_room) == DEPTH
        await put(ctx, dut, words(DEPTH, 1), random_gaps(1, 0))
        for _ in range(6):
            await ctx.tick()
        assert ctx.get(dut.o_room) == DEPTH  # what is not committed is the writer's business
        await strobe(ctx, dut.i_commit)
        for _ in range(8):
            await ctx.tick()
        assert ctx.get(dut.o_room) == 1  # one has been read ahead
        ctx.set(dut.i.payload, {"address": 0, "length": 12})
        await strobe(ctx, dut.i.valid)
        ctx.set(dut.o.ready, 1)
        for _ in range(40):
            await ctx.tick()
        assert ctx.get(dut.o_room) == 4

    simulate(dut, bench)


def test_no_byte_leaves_without_a_read_and_a_read_without_words_is_awaited() -> None:
    dut = WeightSupply(DEPTH)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.o.ready, 1)
        await put(ctx, dut, words(3, 1), random_gaps(1, 0))
        await strobe(ctx, dut.i_commit)
        for _ in range(20):
            await ctx.tick()
            assert not ctx.get(dut.o.valid) and not ctx.get(dut.o_awaited)
        ctx.set(dut.i.payload, {"address": 0, "length": 16})
        await strobe(ctx, dut.i.valid)
        for _ in range(40):
            await ctx.tick()
        assert ctx.get(dut.o_awaited) and not ctx.get(dut.i.ready)
        await put(ctx, dut, words(1, 2), random_gaps(1, 0))
        for _ in range(20):
            await ctx.tick()
            assert ctx.get(dut.o_awaited) and not ctx.get(dut.o.valid)
        await strobe(ctx, dut.i_commit)
        for _ in range(20):
            await ctx.tick()
        assert ctx.get(dut.i.ready) and not ctx.get(dut.o_awaited)

    simulate(dut, bench)


def test_a_word_takes_five_cycles() -> None:
    dut = WeightSupply(DEPTH)
    cycles: list[int] = []

    async def bench(ctx: Any) -> None:
        await put(ctx, dut, words(DEPTH, 1), random_gaps(1, 0))
        await strobe(ctx, dut.i_commit)
        for _ in range(8):
            await ctx.tick()
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.i.payload, {"address": 0, "length": 4 * DEPTH})
        ctx.set(dut.i.valid, 1)
        for cycle in range(100):
            _, _, valid = await ctx.tick().sample(dut.o.valid)
            ctx.set(dut.i.valid, 0)
            if valid:
                cycles.append(cycle)

    simulate(dut, bench)
    assert len(cycles) == 4 * DEPTH and cycles[0] == 2
    assert {later - earlier for earlier, later in pairwise(cycles[::4])} == {5}


@pytest.mark.parametrize("depth", [0, 1, 24])
def test_the_depth_is_a_power_of_two(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be a power of two from 2 on, not {depth}"):
        WeightSupply(depth)
