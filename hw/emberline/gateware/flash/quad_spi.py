"""One transaction after the other on the six lines of a serial flash: a command, what follows it, and the answer."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from emberline.gateware.structures import delayed

LENGTH_WIDTH = 24
READ_COMMAND = 0xEB
_ADDRESS_BYTES, _DUMMY_BYTES = 3, 2
_QUEUE = 8


class FlashPins(wiring.Signature):
    """A serial flash's lines, seen from the controller: chip select (1: selected), clock, and four data lines.

    ``data_enable`` is 1 where the controller drives a line. In single-line transfers line 0 goes to the flash and line
    1 comes from it; lines 2 and 3 (write protect, hold) are driven high.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "select": Out(1),
                "clock": Out(1),
                "data_out": Out(4, init=0b1100),
                "data_enable": Out(4, init=0b1101),
                "data_in": In(4),
            }
        )


TRANSACTION = data.StructLayout(
    {
        "command": 8,
        "argument": 8,
        "has_argument": 1,  # a byte on line 0 behind the command
        "is_read": 1,  # address and mode on four lines, then the answer on four lines
        "address": 24,
        "length": LENGTH_WIDTH,  # bytes of the answer; at least 1 if is_read
    }
)
"""Commands are sent on line 0, answers without ``is_read`` come on line 1. A read is a *Fast Read Quad I/O*
(Winbond W25Q128JV data sheet, section 8.2.12): behind the command three bytes of address, one of mode (0: no continuous
read) and four dummy cycles on four lines."""


class _State(enum.Enum):
    IDLE = 0
    SELECT = 1
    SEND = 2
    SEND_QUAD = 3
    RECEIVE = 4
    DRAIN = 5
    DESELECT = 6


class QuadSpi(wiring.Component):
    """A serial flash's bus, SPI mode 0.

    Parameters:
        divider: cycles of one SCK period, even. A byte takes two periods on four lines, eight on one.
        latency: cycles from the register that lets SCK fall to the one that samples the bit that this edge brings:
            pads, the flash's clock-to-output time and the way back. 1 to 4.
        deselected: cycles for which the flash stays deselected between two transactions (its data sheet's tSHSL).

    Members:
        i: transactions. Ready while none is under way.
        o: the answer's bytes. While they are not taken, SCK stands still.
        o_busy: a transaction is under way.
        pins: of the flash; outputs are registers.
    """

    def __init__(self, *, divider: int = 2, latency: int = 2, deselected: int = 8) -> None:
        if divider < 2 or divider % 2:
            raise ValueError(f"divider must be an even number of cycles, not {divider}")
        if not 1 <= latency <= 4:
            raise ValueError(f"latency must be in 1..4, not {latency}")
        if deselected < 1:
            raise ValueError(f"deselected must be at least 1, not {deselected}")
        self._divider, self._latency, self._deselected = divider, latency, deselected
        super().__init__(
            {
                "i": In(stream.Signature(TRANSACTION)),
                "o": Out(stream.Signature(8)),
                "o_busy": Out(1),
                "pins": Out(FlashPins()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(_State)
        transaction = Signal(TRANSACTION, reset_less=True)
        bytes_left = Signal(LENGTH_WIDTH, reset_less=True)
        last_byte = Signal(reset_less=True)
        pause = Signal(range(max(self._deselected, self._divider + self._latency + 2)), reset_less=True)
        outgoing = Signal(8 * (_ADDRESS_BYTES + 1), reset_less=True)
        receives, quad, has_room = Signal(), Signal(), Signal()
        m.d.comb += [
            receives.eq(state == _State.RECEIVE),
            quad.eq((state == _State.SEND_QUAD) | (receives & transaction.is_read)),
            self.i.ready.eq(state == _State.IDLE),
            self.o_busy.eq(state != _State.IDLE),
        ]
        moving = state.matches(_State.SEND, _State.SEND_QUAD, _State.RECEIVE)
        begins, byte_begins, byte_ends = self._clock(m, moving, quad, receives & ~has_room)
        drives = (state == _State.SEND_QUAD) & (bytes_left > _DUMMY_BYTES)  # behind the mode the lines turn round
        m.d.sync += last_byte.eq(bytes_left == 1)
        with m.If(begins):
            m.d.sync += [
                self.pins.data_out.eq(Mux(quad, outgoing[-4:], Cat(outgoing[-1], Const(0b110, 3)))),
                self.pins.data_enable.eq(Mux(quad, drives.replicate(4), 0b1101)),
                outgoing.eq(Mux(quad, outgoing << 4, outgoing << 1)),
            ]
        with m.Switch(state):
            with m.Case(_State.IDLE):
                m.d.sync += [transaction.eq(self.i.payload), self.pins.select.eq(self.i.valid), pause.eq(1)]
                with m.If(self.i.valid):
                    m.d.sync += state.eq(_State.SELECT)
            with m.Case(_State.SELECT):
                m.d.sync += [
                    pause.eq(pause - 1),
                    outgoing[-16:].eq(Cat(transaction.argument, transaction.command)),
                    bytes_left.eq(Mux(transaction.has_argument, 2, 1)),
                ]
                with m.If(pause == 0):
                    m.d.sync += state.eq(_State.SEND)
            with m.Case(_State.SEND, _State.SEND_QUAD, _State.RECEIVE):
                m.d.sync += pause.eq(self._divider + self._latency + 1)
                with m.If(byte_ends):
                    m.d.sync += bytes_left.eq(bytes_left - 1)
                with m.If(byte_ends & last_byte):
                    with m.If((state == _State.SEND) & transaction.is_read):
                        m.d.sync += [
                            outgoing.eq(Cat(Const(0, 8), transaction.address)),
                            bytes_left.eq(_ADDRESS_BYTES + 1 + _DUMMY_BYTES),
                            state.eq(_State.SEND_QUAD),
                        ]
                    with m.Elif(receives | (transaction.length == 0)):
                        m.d.sync += state.eq(_State.DRAIN)
                    with m.Else():
                        m.d.sync += [bytes_left.eq(transaction.length), state.eq(_State.RECEIVE)]
            with m.Case(_State.DRAIN):
                m.d.sync += pause.eq(pause - 1)
                with m.If(pause == 0):
                    m.d.sync += [self.pins.select.eq(0), self.pins.data_enable.eq(0b1101)]
                    m.d.sync += [pause.eq(self._deselected - 1), state.eq(_State.DESELECT)]
            with m.Case(_State.DESELECT):
                m.d.sync += pause.eq(pause - 1)
                with m.If(pause == 0):
                    m.d.sync += state.eq(_State.IDLE)
        self._receive(m, receives & begins, receives & byte_begins, transaction.is_read, has_room)
        return m

    def _clock(self, m: Module, moving: Value, quad: Value, held: Value) -> tuple[Value, Value, Value]:
        """SCK's periods, low first; ``held`` keeps a byte from beginning.

        Returns when a period begins, when a byte does, and when one ends.
        """
        phase = Signal(range(self._divider))
        period = Signal(3)
        at_byte, runs, ends, byte_ends = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            at_byte.eq((phase == 0) & (period == 0)),
            runs.eq(moving & ~(held & at_byte)),
            ends.eq(runs & (phase == self._divider - 1)),
            byte_ends.eq(ends & (period == Mux(quad, 1, 7))),
        ]
        with m.If(runs):
            m.d.sync += phase.eq(Mux(ends, 0, phase + 1))
        with m.If(ends):
            m.d.sync += period.eq(Mux(byte_ends, 0, period + 1))
        m.d.sync += self.pins.clock.eq(runs & (phase >= self._divider // 2))
        return runs & (phase == 0), runs & at_byte, byte_ends

    def _receive(self, m: Module, begins: Value, byte_begins: Value, quad: Value, has_room: Signal) -> None:
        """Sample each period's bits when they have come; a byte is complete when the next one's first bits come."""
        m.submodules.queue = queue = SyncFIFO(width=8, depth=_QUEUE)
        room = Signal(range(_QUEUE + 1), init=_QUEUE)
        taken = queue.r_en & queue.r_rdy
        m.d.sync += room.eq(room - byte_begins + taken)
        samples = delayed(m, begins, self._latency, name="samples", reset=True)
        incoming = Signal(8, reset_less=True)
        count = Signal(3)  # bits or nibbles of the byte
        complete = Signal()
        m.d.sync += complete.eq(0)
        with m.If(samples):
            m.d.sync += [
                incoming.eq(Mux(quad, Cat(self.pins.data_in, incoming), Cat(self.pins.data_in[1], incoming))),
                count.eq(count + 1),
            ]
            with m.If(count == Mux(quad, 1, 7)):
                m.d.sync += [complete.eq(1), count.eq(0)]
        m.d.comb += [
            has_room.eq(room != 0),
            queue.w_en.eq(complete),
            queue.w_data.eq(incoming),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]
