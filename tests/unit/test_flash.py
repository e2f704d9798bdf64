"""The flash controller against a flash that keeps its data sheet's times."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from emberline.gateware.flash.flash_reader import FlashFault, FlashReader
from emberline.gateware.flash.quad_spi import QuadSpi
from emberline.simulation.streams import PATTERNS, Pattern, simulate, sink, source
from tests.support.flash_model import FlashModel

CONTENTS = random.Random(1).randbytes(600)
READS = [(0, 1), (17, 40), (596, 4), (255, 3), (3, 150)]


def reader(**options: int) -> FlashReader:
    return FlashReader(clock_hz=100e6, **options)


def expected(memory: bytes = CONTENTS) -> list[int]:
    return [byte for address, length in READS for byte in (memory + memory)[address : address + length]]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_serves_reads(pattern: Pattern) -> None:
    dut, flash, seen = reader(), FlashModel(CONTENTS), []
    requests = [{"address": address, "length": length} for address, length in READS]
    simulate(
        dut,
        source(dut.i, requests, gaps=pattern.idle(1)),
        sink(dut.o, len(expected()), into=seen, gaps=pattern.stall(2)),
        background=flash.testbenches(dut.pins),
    )
    assert seen == expected()
    assert flash.reads == [address for address, _ in READS]


@pytest.mark.parametrize(("divider", "latency", "delay_ns"), [(2, 1, 3), (2, 2, 9), (2, 2, 19), (2, 3, 19), (4, 2, 15)])
def test_samples_when_the_bits_are_there(divider: int, latency: int, delay_ns: float) -> None:
    dut, flash, seen = reader(divider=divider, latency=latency), FlashModel(CONTENTS, delay_ns=delay_ns), []
    requests = [{"address": address, "length": length} for address, length in READS]
    count = len(expected())
    simulate(dut, source(dut.i, requests), sink(dut.o, count, into=seen), background=flash.testbenches(dut.pins))
    assert seen == expected()


def test_bytes_follow_each_other_without_a_pause() -> None:
    dut, flash = reader(), FlashModel(CONTENTS)
    cycles: list[int] = []

    async def read(ctx) -> None:
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
    assert {later - earlier for earlier, later in pairwise(cycles)} == {4}
    # Selecting, 8 + 8 + 4 periods of head, 2 of the first byte, its way back
    assert cycles[0] <= 2 * (8 + 8 + 4 + 2) + 8


@pytest.mark.parametrize(
    ("flash", "fault"),
    [
        (FlashModel(CONTENTS), FlashFault.NONE),
        (FlashModel(CONTENTS, quad=True), FlashFault.NONE),
        (FlashModel(CONTENTS, identity=bytes([0x9D, 0x60, 0x18]), quad_bit=6), FlashFault.NONE),
        (FlashModel(CONTENTS, stuck=0), FlashFault.ABSENT),
        (FlashModel(CONTENTS, stuck=0b1111), FlashFault.ABSENT),
        (FlashModel(CONTENTS, identity=bytes([0x55, 0x60, 0x18])), FlashFault.UNKNOWN),
        (FlashModel(CONTENTS, keeps_quad=False), FlashFault.QUAD),
    ],
    ids=["winbond", "quad already", "issi", "low", "high", "stranger", "no quad"],
)
def test_finds_out_what_is_there(flash: FlashModel, fault: FlashFault) -> None:
    dut = reader()
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
        assert set(flash.commands) <= {0x66, 0x99, 0xAB, 0x9F, 0x35, 0x31, 0x50, 0x05, 0x06, 0x01, 0xEB}
        assert (0x01 in flash.commands) == (flash.quad_bit == 6)
    else:
        assert 0xEB not in flash.commands


def test_options_are_checked() -> None:
    for options in ({"divider": 3}, {"divider": 0}, {"latency": 0}, {"latency": 5}, {"deselected": 0}):
        with pytest.raises(ValueError, match="divider|latency|deselected"):
            QuadSpi(**options)
