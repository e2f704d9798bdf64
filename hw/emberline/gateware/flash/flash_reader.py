"""Reads from the board's configuration flash: wakes it, identifies it, allows four lines, then serves reads."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.gateware.flash.quad_spi import LENGTH_WIDTH, READ_COMMAND, FlashPins, QuadSpi

RESET_SECONDS = 30e-6
"""tRST of a W25Q128JV, during which it accepts no command; leaving power-down (tRES1) takes 3 us."""
DESELECTED_SECONDS = 50e-9
"""tSHSL: 10 ns between reads, 50 ns behind writes."""
POLLS = 1 << 16
"""Reads of the status until a write of it must be over; a write of a status register takes up to 15 ms."""


class FlashFault(enum.Enum):
    """Why the flash cannot be read."""

    NONE = 0
    ABSENT = 1
    """It answers with zeros or ones only."""
    UNKNOWN = 2
    """Its manufacturer's way to four lines is not known."""
    QUAD = 3
    """It does not keep the bit that allows four lines."""


class Command(enum.IntEnum):
    """What is sent; the status registers hold the quad enable bit in different places."""

    ENABLE_RESET = 0x66
    RESET = 0x99
    WAKE = 0xAB
    IDENTIFY = 0x9F
    READ_STATUS = 0x05
    READ_STATUS_2 = 0x35
    WRITE_ENABLE = 0x06
    VOLATILE_WRITE_ENABLE = 0x50
    WRITE_STATUS = 0x01
    WRITE_STATUS_2 = 0x31


QUAD_IN_STATUS_2 = (0xEF, 0xC8)
"""Winbond, GigaDevice: bit 1 of the second status register; it can be written for as long as there is power."""
QUAD_IN_STATUS = (0x9D, 0xC2)
"""ISSI, Macronix: bit 6 of the status register, which is kept for good."""

READ = data.StructLayout({"address": 24, "length": LENGTH_WIDTH})
"""Bytes from ``address`` on, at least one."""


class FlashReader(wiring.Component):
    """Serves reads of a serial NOR flash with *Fast Read Quad I/O*.

    Parameters:
        clock_hz: of the design, for the flash's waiting times.
        divider, latency: of `QuadSpi`.

    Members:
        i: reads (``READ``). Ready once the flash has been identified and none is under way.
        o: their bytes, back to back, two SCK periods each; the first one ``14 + 8`` periods after the request, plus the
            time for which the flash must stay deselected.
        o_ready: the flash is there and reads can be served. o_identity: manufacturer, type and capacity as it gave
            them, the manufacturer in the top byte.
        o_fault: `FlashFault`; then no read is ever taken.
        pins: of the flash.
    """

    def __init__(self, *, clock_hz: float, divider: int = 2, latency: int = 2) -> None:
        self._clock_hz, self._divider, self._latency = clock_hz, divider, latency
        super().__init__(
            {
                "i": In(stream.Signature(READ)),
                "o": Out(stream.Signature(8)),
                "o_ready": Out(1),
                "o_identity": Out(24),
                "o_fault": Out(FlashFault),
                "pins": Out(FlashPins()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        deselected = max(2, -int(-self._clock_hz * DESELECTED_SECONDS // 1))
        m.submodules.bus = bus = QuadSpi(divider=self._divider, latency=self._latency, deselected=deselected)
        wiring.connect(m, bus.pins, wiring.flipped(self.pins))
        self._bus = bus
        self._answer = Signal(24, reset_less=True)
        serving = Signal()
        m.d.comb += [
            self.o.payload.eq(bus.o.payload),
            self.o.valid.eq(bus.o.valid & serving),
            bus.o.ready.eq(self.o.ready | ~serving),
        ]
        with m.If(bus.o.valid & ~serving):
            m.d.sync += self._answer.eq(Cat(bus.o.payload, self._answer))
        pause = Signal(range(int(self._clock_hz * RESET_SECONDS) + 2))
        polls = Signal(range(POLLS))
        quad = Signal()
        second = self._answer[16:].matches(*QUAD_IN_STATUS_2)
        in_second = Signal()
        m.d.comb += quad.eq(Mux(in_second, self._answer[1], self._answer[6]))
        with m.FSM():
            self._send(m, "ENABLE_RESET", Command.ENABLE_RESET, "RESET")
            self._send(m, "RESET", Command.RESET, "PAUSE")
            with m.State("PAUSE"):
                m.d.sync += pause.eq(pause + 1)
                with m.If(pause == int(self._clock_hz * RESET_SECONDS) + 1):
                    m.d.sync += pause.eq(0)
                    m.next = "WAKE"
            self._send(m, "WAKE", Command.WAKE, "WOKEN")
            with m.State("WOKEN"):
                m.d.sync += pause.eq(pause + 1)
                with m.If(pause == int(self._clock_hz * RESET_SECONDS) + 1):
                    m.next = "IDENTIFY"
            self._send(m, "IDENTIFY", Command.IDENTIFY, "JUDGE", answer=3)
            with m.State("JUDGE"):
                m.d.sync += [self.o_identity.eq(self._answer), in_second.eq(second)]
                with m.If((self._answer == 0) | self._answer.all()):
                    m.d.sync += self.o_fault.eq(FlashFault.ABSENT)
                    m.next = "FAULT"
                with m.Elif(second):
                    m.next = "READ_STATUS_2"
                with m.Elif(self._answer[16:].matches(*QUAD_IN_STATUS)):
                    m.next = "READ_STATUS"
                with m.Else():
                    m.d.sync += self.o_fault.eq(FlashFault.UNKNOWN)
                    m.next = "FAULT"
            self._send(m, "READ_STATUS_2", Command.READ_STATUS_2, "CHECK_2", answer=1)
            with m.State("CHECK_2"):
                m.next = "SERVE"
                with m.If(~quad):
                    m.next = "VOLATILE_WRITE_ENABLE"
            self._send(m, "VOLATILE_WRITE_ENABLE", Command.VOLATILE_WRITE_ENABLE, "WRITE_STATUS_2")
            self._send(m, "WRITE_STATUS_2", Command.WRITE_STATUS_2, "READ_AGAIN_2", argument=0x02)
            self._send(m, "READ_AGAIN_2", Command.READ_STATUS_2, "CONFIRM", answer=1)
            self._send(m, "READ_STATUS", Command.READ_STATUS, "CHECK", answer=1)
            with m.State("CHECK"):
                m.next = "SERVE"
                with m.If(~quad):
                    m.next = "WRITE_ENABLE"
            self._send(m, "WRITE_ENABLE", Command.WRITE_ENABLE, "WRITE_STATUS")
            self._send(m, "WRITE_STATUS", Command.WRITE_STATUS, "READ_AGAIN", argument=0x40)
            self._send(m, "READ_AGAIN", Command.READ_STATUS, "CONFIRM", answer=1)
            with m.State("CONFIRM"):
                m.d.sync += polls.eq(polls + 1)
                with m.If(quad & ~(self._answer[0] & ~in_second)):
                    m.next = "SERVE"
                with m.Elif(in_second | polls.all()):
                    m.d.sync += self.o_fault.eq(FlashFault.QUAD)
                    m.next = "FAULT"
                with m.Else():
                    m.next = "READ_AGAIN"
            with m.State("FAULT"):
                pass
            with m.State("SERVE"):
                m.d.comb += [
                    self.o_ready.eq(1),
                    serving.eq(1),
                    bus.i.payload.command.eq(READ_COMMAND),
                    bus.i.payload.is_read.eq(1),
                    bus.i.payload.address.eq(self.i.payload.address),
                    bus.i.payload.length.eq(self.i.payload.length),
                    bus.i.valid.eq(self.i.valid),
                    self.i.ready.eq(bus.i.ready),
                ]
        return m

    def _send(
        self, m: Module, state: str, command: Command, following: str, *, argument: int | None = None, answer: int = 0
    ) -> None:
        """A state that carries out a command, and goes on when its answer is there."""
        bus = self._bus
        given = Signal(name=f"given_{state.lower()}")
        with m.State(state):
            m.d.comb += [
                bus.i.payload.command.eq(command),
                bus.i.payload.argument.eq(argument or 0),
                bus.i.payload.has_argument.eq(argument is not None),
                bus.i.payload.length.eq(answer),
                bus.i.valid.eq(~given),
            ]
            with m.If(bus.i.ready):
                m.d.sync += given.eq(1)
                with m.If(given & ~bus.o.valid):
                    m.d.sync += given.eq(0)
                    m.next = following
