"""Asynchronous serial: eight data bits, no parity, one stop bit."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

BITS = 8
BAUD_TOLERANCE = 0.015
"""A receiver samples the stop bit 9.5 bits after the edge it has synchronised to; both ends share half a bit."""


def divisor(clock_hz: int, baud: int) -> int:
    """Clock cycles of one bit. ``ValueError`` if no whole number comes close enough."""
    cycles = round(clock_hz / baud)
    if cycles < 4:
        raise ValueError(f"{baud} baud needs a clock of at least {4 * baud} Hz, not {clock_hz}")
    error = abs(clock_hz / cycles / baud - 1)
    if error > BAUD_TOLERANCE:
        raise ValueError(f"a clock of {clock_hz} Hz misses {baud} baud by {error:.1%}")
    return cycles


class UartTransmitter(wiring.Component):
    """Sends bytes.

    Parameters: ``divisor``, cycles of one bit, at least 4.

    Members: ``i``: bytes; ``tx``: the line, idle 1, registered.

    Throughput: one byte in 10 * divisor + 1 cycles.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < 4:
            raise ValueError(f"divisor must be at least 4, not {divisor}")
        self._divisor = divisor
        super().__init__({"i": In(stream.Signature(BITS)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = Signal(BITS + 1, init=-1)
        left = Signal(range(BITS + 2))  # bits after this one
        timer = Signal(range(self._divisor))
        idle = Signal(init=1)
        m.d.comb += self.i.ready.eq(idle)
        m.d.sync += self.tx.eq(bits[0])
        with m.If(idle):
            m.d.sync += [timer.eq(self._divisor - 1), left.eq(BITS + 1)]
            with m.If(self.i.valid):
                m.d.sync += [bits.eq(Cat(Const(0, 1), self.i.payload)), idle.eq(0)]
        with m.Elif(timer == 0):
            m.d.sync += [
                timer.eq(self._divisor - 1),
                bits.eq(Cat(bits[1:], Const(1, 1))),
                left.eq(left - 1),
                idle.eq(left == 0),
            ]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m


class UartReceiver(wiring.Component):
    """Receives bytes; each bit is the majority of three samples around its middle.

    Parameters: ``divisor``, cycles of one bit, at least 4.

    Members:
        rx: the line, asynchronous.
        o: bytes. One waits; another that arrives before it is taken is lost.
        error: for one cycle: a byte was lost (overrun) or had no stop bit (framing error).

    A start bit must still be there in its middle. After a framing error the line must be idle before the next.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < 4:
            raise ValueError(f"divisor must be at least 4, not {divisor}")
        self._divisor = divisor
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(BITS)), "error": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1, stages=3)
        samples = Signal(3, init=-1)
        m.d.sync += samples.eq(Cat(line, samples))
        bit = Signal()
        sampled = Signal()
        timer = Signal(range(self._divisor))
        left = Signal(range(BITS + 1))
        bits = Signal(BITS)
        m.d.comb += [
            bit.eq((samples[0] & samples[1]) | (samples[1] & samples[2]) | (samples[0] & samples[2])),
            sampled.eq(timer == 0),
        ]
        m.d.sync += self.error.eq(0)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += timer.eq(timer - 1)
        with m.If(sampled):
            m.d.sync += timer.eq(self._divisor - 1)

        with m.FSM():
            with m.State("IDLE"):
                # The three samples are one to three cycles old when the timer is 0. A bit decided so soon leaves time
                # to see the next start bit's edge even with four cycles to a bit.
                m.d.sync += timer.eq(self._divisor // 2)
                with m.If(~line):
                    m.next = "START"
            with m.State("START"):
                with m.If(sampled):
                    m.d.sync += left.eq(BITS)
                    m.next = "DATA"
                    with m.If(bit):
                        m.next = "IDLE"
            with m.State("DATA"):
                with m.If(sampled):
                    m.d.sync += [bits.eq(Cat(bits[1:], bit)), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "STOP"
            with m.State("STOP"):
                with m.If(sampled):
                    m.next = "IDLE"
                    with m.If(~bit):
                        m.d.sync += self.error.eq(1)
                        m.next = "BREAK"
                    with m.Elif(self.o.valid & ~self.o.ready):
                        m.d.sync += self.error.eq(1)
                    with m.Else():
                        m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(bits)]
            with m.State("BREAK"):
                with m.If(line):
                    m.next = "IDLE"
        return m
