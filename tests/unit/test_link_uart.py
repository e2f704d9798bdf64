"""The serial line: bit timing, tolerance, errors."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.gateware.link.uart import UartReceiver, UartTransmitter, divisor
from emberline.simulation.streams import PATTERNS, Pattern, simulate, sink, source


class Loop(wiring.Component):
    """A transmitter wired to a receiver."""

    def __init__(self, divisor: int) -> None:
        self._divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), "error": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        wiring.connect(m, wiring.flipped(self.i), transmitter.i)
        wiring.connect(m, receiver.o, wiring.flipped(self.o))
        m.d.comb += [receiver.rx.eq(transmitter.tx), self.error.eq(receiver.error)]
        return m


def frame(byte: int) -> list[int]:
    return [0, *(byte >> index & 1 for index in range(8)), 1]


async def drive(ctx, rx, bits: list[int], bit_cycles: float) -> None:
    """Puts bits on the line; an edge falls on the cycle nearest to its time."""
    cycle = 0
    for index, bit in enumerate(bits):
        ctx.set(rx, bit)
        while cycle < round((index + 1) * bit_cycles):
            await ctx.tick()
            cycle += 1


@pytest.mark.parametrize("bit_cycles", [4, 5, 16])
@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[1]], ids=str)
def test_bytes_survive_the_loop(bit_cycles: int, pattern: Pattern) -> None:
    data = [*list(random.Random(bit_cycles).randbytes(20)), 0, 255, 0, 85]
    dut = Loop(bit_cycles)
    seen: list[int] = []
    simulate(dut, source(dut.i, data, gaps=pattern.idle(1)), sink(dut.o, len(data), into=seen))
    assert seen == data


def test_transmitter_keeps_the_bit_time() -> None:
    dut = UartTransmitter(7)
    line: list[int] = []

    async def watch(ctx) -> None:
        for _ in range(100):
            _, _, tx = await ctx.tick().sample(dut.tx)
            line.append(tx)

    simulate(dut, source(dut.i, [0xA6]), watch)
    start = line.index(0)
    assert line[start : start + 70] == [bit for bit in frame(0xA6) for _ in range(7)]
    assert set(line[:start] + line[start + 70 :]) == {1}


CLOCKS = [(16, 15.5), (16, 16.5), (16, 15.8), (4, 4), (5, 5), (40, 38.9), (40, 41.1)]


@pytest.mark.parametrize("cycles, bit_cycles", CLOCKS)
def test_receiver_tolerates_another_clock(cycles: int, bit_cycles: float) -> None:
    dut = UartReceiver(cycles)
    data = [*list(random.Random(3).randbytes(16)), 0, 255]
    seen: list[int] = []

    async def send(ctx) -> None:
        await drive(ctx, dut.rx, [bit for byte in data for bit in frame(byte)], bit_cycles)

    simulate(dut, send, sink(dut.o, len(data), into=seen))
    assert seen == data


def test_receiver_outvotes_a_glitch_in_every_bit() -> None:
    dut = UartReceiver(16)
    seen: list[int] = []

    async def send(ctx) -> None:
        for bit in [*frame(53), 1, 1]:
            for cycle in range(16):
                ctx.set(dut.rx, bit ^ (cycle == 8))
                await ctx.tick()

    simulate(dut, send, sink(dut.o, 1, into=seen))
    assert seen == [0x35]


def _errors(bits: list[int], *, taken: bool) -> tuple[list[int], int]:
    """Bytes received and errors counted."""
    dut = UartReceiver(8)
    seen: list[int] = []
    errors = 0

    async def send(ctx) -> None:
        await drive(ctx, dut.rx, bits, 8)

    async def watch(ctx) -> None:
        nonlocal errors
        ctx.set(dut.o.ready, taken)
        for _ in range(8 * len(bits) + 20):
            _, _, error, valid, byte = await ctx.tick().sample(dut.error, dut.o.valid, dut.o.payload)
            errors += error
            if valid and taken:
                seen.append(byte)

    simulate(dut, send, watch)
    return seen, errors


def test_receiver_reports_a_missing_stop_bit_and_recovers() -> None:
    broken = frame(0x12)[:-1] + [0] * 12
    assert _errors([*broken, 1, 1, *frame(52), 1], taken=True) == ([0x34], 1)


def test_receiver_reports_an_overrun() -> None:
    assert _errors(frame(1) + frame(2) + frame(3) + [1], taken=False)[1] == 2


def test_receiver_ignores_a_short_dip() -> None:
    dut = UartReceiver(16)
    seen: list[int] = []

    async def send(ctx) -> None:
        for level, cycles in ((1, 5), (0, 4), (1, 20)):
            ctx.set(dut.rx, level)
            for _ in range(cycles):
                await ctx.tick()
        await drive(ctx, dut.rx, [*frame(119), 1], 16)

    simulate(dut, send, sink(dut.o, 1, into=seen))
    assert seen == [0x77]


def test_divisor_refuses_what_the_clock_cannot_reach() -> None:
    assert divisor(100_000_000, 1_000_000) == 100
    assert divisor(48_000_000, 115_200) == 417
    with pytest.raises(ValueError, match="misses 15000000 baud by"):
        divisor(100_000_000, 15_000_000)
    with pytest.raises(ValueError, match="needs a clock of at least 4000000 Hz"):
        divisor(3_000_000, 1_000_000)


@pytest.mark.parametrize("unit", [UartReceiver, UartTransmitter])
def test_a_bit_has_at_least_four_cycles(unit: type) -> None:
    with pytest.raises(ValueError, match="at least 4, not 3"):
        unit(3)
