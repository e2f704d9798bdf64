"""Reads from the board's configuration flash: wakes it, identifies it, allows four lines, finds out when its data are
there, then serves reads."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, ValueLike
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.flash import DESELECTED_SECONDS, FLASH_OFFSET
from emberline.gateware.flash.quad_spi import (
    DOUBLE_READ_COMMAND,
    DUMMY_WIDTH,
    LENGTH_WIDTH,
    POSITIONS,
    READ_COMMAND,
    TRANSACTION,
    FlashPins,
    QuadSpi,
)

RESET_SECONDS = 35e-6
"""tSRST of an IS25LP128F, during which it accepts no command; tRST of a W25Q128JV is 30 us."""
WAKE_SECONDS = 5e-6
"""More than tRES1 of both, 3 us, to leave power-down."""
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
    RATE = 4
    """Reads are to be at double rate, and it is not known to have that."""
    TIMING = 5
    """At no position its data are those of a slow read."""


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

DUMMIES = 2
"""Pairs of dummy cycles behind the mode of a read at single rate, in all of them."""
DOUBLE_DUMMIES = {0xEF7018: 7, 0x9D6018: 5}
"""Whose reads at double rate are known, and their dummy cycles behind the mode: W25Q128JV-DTR, whose relatives without
it say EF4018; IS25LP128 and IS25LP128F, data sheet table 6.11: six, the mode among them."""

CHECK_POLYNOMIAL = 0x1021
"""Of the sums by which bytes are compared."""

READ = data.StructLayout({"address": 24, "length": LENGTH_WIDTH})
"""Bytes from ``address`` on, at least one."""


class FlashReader(wiring.Component):
    """Serves reads of a serial NOR flash with *Fast Read Quad I/O*, or *DTR Fast Read Quad I/O* at double rate.

    Everything before is slow. Then some bytes are read slowly, and at full speed at each of `QuadSpi`'s positions;
    reads are sampled in the middle of those at which they were the same. The bytes are those at `FLASH_OFFSET`, where
    weights lie, or at 0, where a bitstream does, if the former are all alike, as in an erased flash.

    Parameters:
        clock_hz: of the design, for the flash's waiting times.
        divider: of `QuadSpi`. double: reads are at double rate.
        probe_bytes: how many are compared.

    Members:
        i: reads (``READ``). Ready once the flash has been identified and none is under way.
        o: their bytes, back to back, two SCK periods each, one at double rate; the first one
            `emberline.compiler.fetch.COMMAND_PERIODS` after the request, at most, plus the time for which the flash
            must stay deselected.
        o_ready: the flash is there and reads can be served. o_identity: manufacturer, type and capacity as it gave
            them, the manufacturer in the top byte. o_position: where reads are sampled.
        o_fault: `FlashFault`; then no read is ever taken.
        pins: of the flash.
    """

    def __init__(self, *, clock_hz: float, divider: int = 2, double: bool = False, probe_bytes: int = 64) -> None:
        if not 1 <= probe_bytes < 1 << LENGTH_WIDTH:
            raise ValueError(f"probe_bytes must be in 1..{(1 << LENGTH_WIDTH) - 1}, not {probe_bytes}")
        self._clock_hz, self._divider, self._double, self._probe_bytes = clock_hz, divider, double, probe_bytes
        super().__init__(
            {
                "i": In(stream.Signature(READ)),
                "o": Out(stream.Signature(8)),
                "o_ready": Out(1),
                "o_identity": Out(24),
                "o_position": Out(range(POSITIONS)),
                "o_fault": Out(FlashFault),
                "pins": Out(FlashPins()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        deselected = max(2, -int(-self._clock_hz * DESELECTED_SECONDS // 1))
        m.submodules.bus = bus = QuadSpi(divider=self._divider, deselected=deselected)
        wiring.connect(m, bus.pins, wiring.flipped(self.pins))
        # The transaction that begins in this cycle; the lines are told in the next one.
        self._transaction, self._begins, self._idle = Signal(TRANSACTION), Signal(), Signal()
        handed, is_handed = Signal(TRANSACTION, reset_less=True), Signal()
        m.d.sync += [handed.eq(self._transaction), is_handed.eq(self._begins)]
        m.d.comb += [
            bus.i.payload.eq(handed),
            bus.i.valid.eq(is_handed),
            self._idle.eq(bus.i.ready & ~is_handed),
        ]
        self._given, self._has_byte = Signal(), bus.o.valid
        self._answer = Signal(24, reset_less=True)
        self._dummies = Signal(DUMMY_WIDTH, init=DUMMIES)
        self._sum, self._begun, self._varies = Signal(16), Signal(), Signal()
        serving = Signal()
        m.d.comb += [
            self.o.payload.eq(bus.o.payload),
            self.o.valid.eq(bus.o.valid & serving),
            bus.o.ready.eq(self.o.ready | ~serving),
            bus.position.eq(self.o_position),
        ]
        with m.If(bus.o.valid & ~serving):
            turned = Cat(Const(0, 1), self._sum[:-1]) ^ Mux(self._sum[-1], CHECK_POLYNOMIAL, 0)
            m.d.sync += [
                self._answer.eq(Cat(bus.o.payload, self._answer)),
                self._sum.eq(turned ^ bus.o.payload),
                self._begun.eq(1),
                self._varies.eq(self._varies | (self._begun & (bus.o.payload != self._answer[:8]))),
            ]
        with m.FSM():
            self._wake(m)
            self._allow(m)
            self._probe(m)
            with m.State("FAULT"):
                pass
            with m.State("SERVE"):
                m.d.sync += serving.eq(1)
                m.d.comb += [
                    self.o_ready.eq(serving),
                    *self._read(self.i.payload.address, self.i.payload.length),
                    self._begins.eq(self.i.valid & self._idle & serving),
                    self.i.ready.eq(self._idle & serving),
                ]
        return m

    def _wake(self, m: Module) -> None:
        """States that find out which flash it is."""
        reset_cycles, wake_cycles = (int(self._clock_hz * seconds) + 1 for seconds in (RESET_SECONDS, WAKE_SECONDS))
        pause = Signal(range(reset_cycles + 1))
        self._in_second = Signal()
        # What is asked of an answer is a register: states that ask come a cycle after its last byte at least.
        first, second, absent = (Signal(name=name, reset_less=True) for name in ("first", "second", "absent"))
        m.d.sync += [
            first.eq(self._answer[16:].matches(*QUAD_IN_STATUS)),
            second.eq(self._answer[16:].matches(*QUAD_IN_STATUS_2)),
            absent.eq((self._answer == 0) | self._answer.all()),
        ]
        rested, woken = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [rested.eq(pause == reset_cycles), woken.eq(pause == wake_cycles)]
        self._send(m, "ENABLE_RESET", Command.ENABLE_RESET, "RESET")
        self._send(m, "RESET", Command.RESET, "PAUSE")
        with m.State("PAUSE"):
            m.d.sync += pause.eq(pause + 1)
            with m.If(rested):
                m.d.sync += pause.eq(0)
                m.next = "WAKE"
        self._send(m, "WAKE", Command.WAKE, "WOKEN")
        with m.State("WOKEN"):
            m.d.sync += pause.eq(pause + 1)
            with m.If(woken):
                m.next = "IDENTIFY"
        self._send(m, "IDENTIFY", Command.IDENTIFY, "JUDGE", answer=3)
        with m.State("JUDGE"):
            m.d.sync += [self.o_identity.eq(self._answer), self._in_second.eq(second)]
            m.next = "RATE"
            with m.If(absent):
                m.d.sync += self.o_fault.eq(FlashFault.ABSENT)
                m.next = "FAULT"
            with m.Elif(~(first | second)):
                m.d.sync += self.o_fault.eq(FlashFault.UNKNOWN)
                m.next = "FAULT"
        known = {identity: Signal(name=f"is_{identity:06x}", reset_less=True) for identity in DOUBLE_DUMMIES}
        m.d.sync += [is_it.eq(self._answer == identity) for identity, is_it in known.items()]
        with m.State("RATE"):
            with m.If(self._in_second):
                m.next = "READ_STATUS_2"
            with m.Else():
                m.next = "READ_STATUS"
            if self._double:
                for identity, dummies in DOUBLE_DUMMIES.items():
                    with m.If(known[identity]):
                        m.d.sync += self._dummies.eq(dummies)
                with m.If(~Cat(known.values()).any()):
                    m.d.sync += self.o_fault.eq(FlashFault.RATE)
                    m.next = "FAULT"

    def _allow(self, m: Module) -> None:
        """States that allow four lines."""
        polls = Signal(range(POLLS))
        quad, writing = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            quad.eq(Mux(self._in_second, self._answer[1], self._answer[6])),
            writing.eq(self._answer[0] & ~self._in_second),
        ]
        self._send(m, "READ_STATUS_2", Command.READ_STATUS_2, "CHECK_2", answer=1)
        with m.State("CHECK_2"):
            m.next = "PROBE"
            with m.If(~quad):
                m.next = "VOLATILE_WRITE_ENABLE"
        self._send(m, "VOLATILE_WRITE_ENABLE", Command.VOLATILE_WRITE_ENABLE, "WRITE_STATUS_2")
        self._send(m, "WRITE_STATUS_2", Command.WRITE_STATUS_2, "READ_AGAIN_2", argument=0x02)
        self._send(m, "READ_AGAIN_2", Command.READ_STATUS_2, "CONFIRM", answer=1)
        self._send(m, "READ_STATUS", Command.READ_STATUS, "CHECK", answer=1)
        with m.State("CHECK"):
            m.next = "PROBE"
            with m.If(~quad):
                m.next = "WRITE_ENABLE"
        self._send(m, "WRITE_ENABLE", Command.WRITE_ENABLE, "WRITE_STATUS")
        self._send(m, "WRITE_STATUS", Command.WRITE_STATUS, "READ_AGAIN", argument=0x40)
        self._send(m, "READ_AGAIN", Command.READ_STATUS, "CONFIRM", answer=1)
        with m.State("CONFIRM"):
            m.d.sync += polls.eq(polls + 1)
            with m.If(quad & ~writing):
                m.next = "PROBE"
            with m.Elif(self._in_second | polls.all()):
                m.d.sync += self.o_fault.eq(FlashFault.QUAD)
                m.next = "FAULT"
            with m.Else():
                m.next = "READ_AGAIN"

    def _probe(self, m: Module) -> None:
        """States that read some bytes slowly, then at every position, and choose one of those that give the same."""
        elsewhere, same, found, tells = Signal(), Signal(), Signal(), Signal()
        expected = Signal.like(self._sum)
        first, last = Signal(range(POSITIONS)), Signal(range(POSITIONS))
        address = Mux(elsewhere, 0, FLASH_OFFSET)
        m.d.sync += same.eq(self._sum == expected)
        with m.State("PROBE"):
            m.d.sync += [self._sum.eq(0), self._begun.eq(0), self._varies.eq(0), found.eq(0), self.o_position.eq(0)]
            m.next = "EXPECT"
        self._transact(m, "EXPECT", self._read(address, self._probe_bytes, slow=True), "KEEP")
        with m.State("KEEP"):
            m.d.sync += [expected.eq(self._sum), tells.eq(self._varies), self._sum.eq(0)]
            m.next = "TRY"
        self._transact(m, "TRY", self._read(address, self._probe_bytes), "COMPARE")
        with m.State("COMPARE"):
            m.d.sync += [self._sum.eq(0), self.o_position.eq(self.o_position + 1)]
            m.next = "TRY"
            with m.If(same):
                m.d.sync += [found.eq(1), last.eq(self.o_position)]
                with m.If(~found):
                    m.d.sync += first.eq(self.o_position)
            with m.If(self.o_position == POSITIONS - 1):
                m.next = "CHOOSE"
        with m.State("CHOOSE"):
            m.d.sync += self.o_position.eq((first + last) >> 1)
            m.next = "SERVE"
            with m.If(~found):
                m.d.sync += self.o_fault.eq(FlashFault.TIMING)
                m.next = "FAULT"
            with m.Elif(~tells & ~elsewhere):
                m.d.sync += elsewhere.eq(1)
                m.next = "PROBE"

    def _read(self, address: ValueLike, length: ValueLike, *, slow: bool = False) -> list[Any]:
        """The transaction of a read; slow ones are at single rate."""
        double = self._double and not slow
        payload = self._transaction
        return [
            payload.command.eq(DOUBLE_READ_COMMAND if double else READ_COMMAND),
            payload.is_read.eq(1),
            payload.is_slow.eq(slow),
            payload.is_double.eq(double),
            payload.dummies.eq(self._dummies if double else DUMMIES),
            payload.address.eq(address),
            payload.length.eq(length),
        ]

    def _send(
        self, m: Module, state: str, command: Command, following: str, *, argument: int | None = None, answer: int = 0
    ) -> None:
        """A state that carries out a command, and goes on when its answer is there."""
        payload = self._transaction
        transaction = [
            payload.command.eq(command),
            payload.argument.eq(argument or 0),
            payload.has_argument.eq(argument is not None),
            payload.is_slow.eq(1),
            payload.length.eq(answer),
        ]
        self._transact(m, state, transaction, following)

    def _transact(self, m: Module, state: str, transaction: list[Any], following: str) -> None:
        """A state that carries out a transaction, and goes on when it is over."""
        given = self._given
        with m.State(state):
            m.d.comb += [*transaction, self._begins.eq(~given & self._idle)]
            with m.If(self._idle):
                m.d.sync += given.eq(1)
                with m.If(given & ~self._has_byte):
                    m.d.sync += given.eq(0)
                    m.next = following
