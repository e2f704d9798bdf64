"""The simulated flash gives the flash reader what was written to it, at both rates, and is known for what it is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from emberline.gateware.flash.flash_reader import FlashFault, FlashReader
from emberline.simulation.flash import IDENTITY, SINGLE_IDENTITY, SimulatedFlash, flash_words
from emberline.simulation.streams import simulate

SIZE = 256
CONTENTS = random.Random(3).randbytes(SIZE)
READS = [(0, 20), (250, 6), (33, 1), (7, 40)]


class Pair(wiring.Component):
    """A reader and its flash."""

    def __init__(self, *, double: bool) -> None:
        self.reader = FlashReader(clock_hz=1e6, double=double, probe_bytes=16)
        self.flash = SimulatedFlash(SIZE)
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader, m.submodules.flash = self.reader, self.flash
        wiring.connect(m, self.reader.pins, self.flash.pins)
        return m


@pytest.mark.parametrize("identity", [IDENTITY, SINGLE_IDENTITY], ids=["double rate", "single rate only"])
@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
def test_gives_what_was_written(double: bool, identity: int) -> None:
    dut, seen = Pair(double=double), bytearray()
    reader, flash = dut.reader, dut.flash
    fault: list[int] = []

    async def bench(ctx: Any) -> None:
        ctx.set(flash.identity, identity)
        ctx.set(flash.write_enable, 1)
        for address, word in flash_words(CONTENTS, 0, SIZE):
            ctx.set(flash.write_address, address)
            ctx.set(flash.write_data, word)
            await ctx.tick()
        ctx.set(flash.write_enable, 0)
        while not (ctx.get(reader.o_ready) or ctx.get(reader.o_fault)):
            await ctx.tick()
        fault.append(ctx.get(reader.o_fault))
        if fault[0]:
            return
        ctx.set(reader.o.ready, 1)
        for address, length in READS:
            ctx.set(reader.i.payload, {"address": address, "length": length})
            ctx.set(reader.i.valid, 1)
            while not ctx.get(reader.i.ready):
                await ctx.tick()
            await ctx.tick()
            ctx.set(reader.i.valid, 0)
            for _ in range(length):
                while not ctx.get(reader.o.valid):
                    await ctx.tick()
                seen.append(ctx.get(reader.o.payload))
                await ctx.tick()

    simulate(dut, bench, monitored=[])
    if double and identity == SINGLE_IDENTITY:
        assert fault == [FlashFault.RATE.value]
    else:
        assert fault == [FlashFault.NONE.value]
        assert seen == b"".join(CONTENTS[address : address + length] for address, length in READS)
