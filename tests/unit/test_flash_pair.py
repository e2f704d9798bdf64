"""Two flashes that are read as one, each with its own make, delay and faults."""

from __future__ import annotations

import random
from typing import Any

import pytest

from emberline.gateware.flash.flash_pair import FlashPair
from emberline.gateware.flash.flash_reader import FlashFault
from emberline.simulation.streams import PATTERNS, Pattern, simulate, sink, source
from tests.support.flash_model import FlashModel

START = 0.1
"""Of the time for which a flash must be left alone when it is reset."""
WORDS = [random.Random(1).getrandbits(32) for _ in range(256)]
READS = [(0, 2), (17, 40), (6, 3), (255, 2), (9, 2), (120, 61)]
"""First word and how many."""


def pair() -> FlashPair:
    return FlashPair(clock_hz=START * 100e6, double=True, probe_bytes=12)


def models(**second: Any) -> tuple[FlashModel, FlashModel]:
    memories = [b"".join(word.to_bytes(4, "little") for word in WORDS[index::2]) for index in (0, 1)]
    issi = {"identity": bytes([0x9D, 0x60, 0x18]), "quad_bit": 6, "delay_ns": 14}
    return FlashModel(memories[0], start=START, delay_ns=4), FlashModel(memories[1], start=START, **(issi | second))


def both(dut: FlashPair, flashes: tuple[FlashModel, FlashModel]) -> list[Any]:
    first, second = flashes
    return [*first.testbenches(dut.pins_0), *second.testbenches(dut.pins_1)]


def expected(reads: list[tuple[int, int]]) -> list[int]:
    return [word for first, count in reads for word in (WORDS + WORDS)[first : first + count]]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_serves_the_words_of_both_in_turn(pattern: Pattern) -> None:
    dut, seen = pair(), []

    async def read(ctx: Any) -> None:
        for first, count in READS:
            done = len(seen) + count
            await source(dut.i, [{"address": 4 * first, "length": 4 * count}])(ctx)
            while len(seen) < done:
                await ctx.tick()

    simulate(
        dut,
        read,
        sink(dut.o, len(expected(READS)), into=seen, gaps=pattern.stall(2)),
        background=both(dut, models()),
    )
    assert seen == expected(READS)


def test_gives_a_word_in_four_cycles() -> None:
    dut, cycles, now = pair(), [], 0

    async def read(ctx: Any) -> None:
        nonlocal now
        await source(dut.i, [{"address": 4, "length": 4 * 100}])(ctx)
        ctx.set(dut.o.ready, 1)
        while len(cycles) < 100:
            _, _, valid = await ctx.tick().sample(dut.o.valid)
            now += 1
            if valid:
                cycles.append(now)

    simulate(dut, read, background=both(dut, models()), monitored=[])
    assert cycles[-1] - cycles[3] <= 4 * 96 + 4


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        ({"stuck": 0}, FlashFault.ABSENT),
        ({"identity": bytes([0x01, 0x60, 0x18])}, FlashFault.UNKNOWN),
        ({"identity": bytes([0xEF, 0x40, 0x18]), "quad_bit": 9}, FlashFault.RATE),
        ({"least_period_ns": 40}, FlashFault.TIMING),
    ],
    ids=["absent", "unknown", "rate", "timing"],
)
def test_faults_of_the_second_one_are_found(second: dict[str, Any], fault: FlashFault) -> None:
    dut, seen = pair(), []

    async def look(ctx: Any) -> None:
        while not (ctx.get(dut.o_ready) or ctx.get(dut.o_fault)):
            await ctx.tick()
        seen.append(ctx.get(dut.o_fault))

    simulate(dut, look, background=both(dut, models(**second)), monitored=[])
    assert seen == [fault.value]
