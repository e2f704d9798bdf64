"""The flash controller against a flash that keeps its data sheet's times."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from emberline.gateware.flash.flash_reader import FlashFault, FlashReader
from emberline.gateware.flash.quad_spi import QuadSpi
from emberline.simulation.streams import PATTERNS, Pattern, simulate, sink, source
from tests.support.flash_model import FlashModel

CONTENTS = random.Random(1).randbytes(600)
READS = [(0, 1), (17, 40), (596, 4), (255, 3), (3, 150)]
WINBOND, ISSI = bytes([0xEF, 0x70, 0x18]), bytes([0x9D, 0x60, 0x18])
NO_DOUBLE = bytes([0xEF, 0x40, 0x18])

rates = pytest.mark.parametrize("double", [False, True], ids=["single", "double"])


START = 0.1
"""Of the time for which a flash must be left alone when it is reset, which is most of these simulations."""


def reader(*, clock_hz: float = START * 100e6, **options: Any) -> FlashReader:
    return FlashReader(clock_hz=clock_hz, probe_bytes=12, **options)


def model(memory: bytes = CONTENTS, **options: Any) -> FlashModel:
    return FlashModel(memory, start=START, **options)


def expected(reads: list[tuple[int, int]] = READS, memory: bytes = CONTENTS) -> list[int]:
    return [byte for address, length in reads for byte in (memory + memory)[address : address + length]]


def requests(reads: list[tuple[int, int]] = READS) -> list[dict[str, int]]:
    return [{"address": address, "length": length} for address, length in reads]


@rates
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_serves_reads(pattern: Pattern, double: bool) -> None:
    dut, flash, seen = reader(double=double), model(), []
    simulate(
        dut,
        source(dut.i, requests(), gaps=pattern.idle(1)),
        sink(dut.o, len(expected()), into=seen, gaps=pattern.stall(2)),
        background=flash.testbenches(dut.pins),
    )
    assert seen == expected()
    assert flash.reads[-len(READS) :] == [address for address, _ in READS]
    assert (0xED in flash.commands) == double


@rates
@pytest.mark.parametrize("seed", range(3))
def test_serves_random_reads_of_any_make(seed: int, double: bool) -> None:
    rng = random.Random(seed)
    memory = rng.randbytes(256)
    reads = [(rng.randrange(256), rng.choice([1, 2, rng.randint(3, 60)])) for _ in range(12)]
    identity, quad_bit = rng.choice([(WINBOND, 9), (ISSI, 6)])
    flash = model(memory, identity=identity, quad_bit=quad_bit, delay_ns=rng.uniform(4, 19))
    dut, seen = reader(double=double), []
    simulate(
        dut,
        source(dut.i, requests(reads), gaps=PATTERNS[seed].idle(seed)),
        sink(dut.o, sum(length for _, length in reads), into=seen, gaps=PATTERNS[-1 - seed].stall(seed)),
        background=flash.testbenches(dut.pins),
    )
    assert seen == expected(reads, memory)


@pytest.mark.parametrize("divider", [2, 4])
@pytest.mark.parametrize("delay_ns", [1, 9, 10.5, 14, 19.4])
@rates
def test_samples_when_the_bits_are_there(divider: int, delay_ns: float, double: bool) -> None:
    """A cycle has 10 ns; at double rate with ``divider`` 2 the bits are right for 6 of them."""
    dut, flash, seen = reader(divider=divider, double=double), model(delay_ns=delay_ns), []
    position: list[int] = []

    async def note(ctx: Any) -> None:
        while not ctx.get(dut.o_ready):
            await ctx.tick()
        position.append(ctx.get(dut.o_position))

    background = [*flash.testbenches(dut.pins), note]
    simulate(dut, source(dut.i, requests()), sink(dut.o, len(expected()), into=seen), background=background)
    assert seen == expected()
    sampled_ns = 10 + 5 * position[0]
    slot_ns = 10 * divider / (2 if double else 1)
    assert delay_ns < sampled_ns < delay_ns + slot_ns


def test_a_flash_that_is_too_slow_is_a_fault_and_an_erased_one_is_not() -> None:
    """Where the bytes in the middle tell nothing, those at 0 do."""
    half_erased = CONTENTS[:32] + b"\xff" * 992
    for flash, fault in (
        (model(least_period_ns=40), FlashFault.TIMING),
        (model(half_erased, delay_ns=14), FlashFault.NONE),
        (model(b"\xff" * 1024), FlashFault.NONE),
    ):
        dut, seen = reader(), []

        async def look(ctx: Any, dut: FlashReader = dut, seen: list[int] = seen) -> None:
            while not (ctx.get(dut.o_ready) or ctx.get(dut.o_fault)):
                await ctx.tick()
            seen += [ctx.get(dut.o_fault), ctx.get(dut.o_position)]

        simulate(dut, look, background=flash.testbenches(dut.pins), monitored=[])
        assert seen[0] == fault.value
        if flash.memory is half_erased:
            assert 14 < 10 + 5 * seen[1] < 14 + 20
            assert 0 in flash.reads


@rates
def test_bytes_follow_each_other_without_a_pause(double: bool) -> None:
    dut, flash = reader(double=double), model()
    cycles: list[int] = []

    async def read(ctx: Any) -> None:
        ctx.set(dut.i.payload, {"address": 5, "length": 200})
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        while not ctx.get(dut.i.ready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        cycle = 0
        while len(cycles) < 200:
            cycle += 1
            _, _, valid = await ctx.tick().sample(dut.o.valid)
            if valid:
                cycles.append(cycle)

    simulate(dut, read, background=flash.testbenches(dut.pins), monitored=[])
    assert {later - earlier for earlier, later in pairwise(cycles)} == {2 if double else 4}
    # Selecting, 8 + 8 + 4 periods of head and 2 of the first byte, or 8 + 2 * 4 + 7 and 1, its way back
    assert cycles[0] <= 2 * (8 + 8 + 7 + 1 if double else 8 + 8 + 4 + 2) + 12


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, FlashFault.NONE),
        ({"quad": True}, FlashFault.NONE),
        ({"identity": ISSI, "quad_bit": 6}, FlashFault.NONE),
        ({"stuck": 0}, FlashFault.ABSENT),
        ({"stuck": 0b1111}, FlashFault.ABSENT),
        ({"identity": bytes([0x55, 0x60, 0x18])}, FlashFault.UNKNOWN),
        ({"keeps_quad": False}, FlashFault.QUAD),
        ({"identity": NO_DOUBLE}, FlashFault.RATE),
        ({"identity": bytes([0xC2, 0x20, 0x18]), "quad_bit": 6}, FlashFault.RATE),
    ],
    ids=["winbond", "quad already", "issi", "low", "high", "stranger", "no quad", "no double rate", "macronix"],
)
@rates
def test_finds_out_what_is_there(options: dict[str, Any], fault: FlashFault, double: bool) -> None:
    dut, flash = reader(clock_hz=100e6, double=double), FlashModel(CONTENTS, **options)
    if fault is FlashFault.RATE and not double:
        fault = FlashFault.NONE
    found: dict[str, int] = {}

    async def look(ctx) -> None:
        while not (ctx.get(dut.o_ready) or ctx.get(dut.o_fault)):
            await ctx.tick()
        found["fault"], found["identity"] = ctx.get(dut.o_fault), ctx.get(dut.o_identity)
        ctx.set(dut.i.payload, {"address": 0, "length": 1})
        ctx.set(dut.i.valid, 1)
        found["served"] = bool(ctx.get(dut.i.ready))

    simulate(dut, look, background=flash.testbenches(dut.pins), monitored=[])
    assert found["fault"] == fault.value
    assert found["served"] == (fault == FlashFault.NONE)
    if fault != FlashFault.ABSENT:
        assert found["identity"] == int.from_bytes(flash.identity, "big")
    if fault == FlashFault.NONE:
        assert flash.quad
        assert set(flash.commands) <= {0x66, 0x99, 0xAB, 0x9F, 0x35, 0x31, 0x50, 0x05, 0x06, 0x01, 0xEB, 0xED}
        assert (0x01 in flash.commands) == (flash.quad_bit == 6)
    else:
        assert 0xEB not in flash.commands and 0xED not in flash.commands


def test_options_are_checked() -> None:
    for options in ({"divider": 3}, {"divider": 0}, {"deselected": 0}):
        with pytest.raises(ValueError, match="divider|deselected"):
            QuadSpi(**options)
    with pytest.raises(ValueError, match="probe_bytes must be in 1..16777215, not 0"):
        FlashReader(clock_hz=100e6, probe_bytes=0)
