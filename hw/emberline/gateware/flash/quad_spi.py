"""One transaction after the other on the six lines of a serial flash: a command, what follows it, and the answer."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, ClockDomain, ClockSignal, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from emberline.gateware.structures import delayed

LENGTH_WIDTH = 24
READ_COMMAND = 0xEB
DOUBLE_READ_COMMAND = 0xED
DUMMY_WIDTH = 3
"""Enough for the dummy cycles of any flash that is known."""
SLOW_DIVIDER = 8
"""Cycles of a slow transaction's SCK period: enough for its data to come back, whatever lies between."""
POSITIONS = 8
"""Times at which full speed can be sampled: position ``p`` is ``1 + p / 2`` cycles after SCK's edge."""
_HEAD_BYTES = 4  # address and mode, behind the command
_FIRST_SAMPLE = 2
_QUEUE = 16


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
        "is_read": 1,  # address and mode on four lines, dummy cycles, then the answer on four lines
        "is_slow": 1,  # SCK is the clock divided by SLOW_DIVIDER, and no position is needed
        "is_double": 1,  # of a read that is not slow: everything behind the command at both edges of SCK
        "dummies": DUMMY_WIDTH,  # of a read: periods behind the mode at double rate, pairs of them at single rate
        "address": 24,
        "length": LENGTH_WIDTH,  # bytes of the answer; at least 1 if is_read
    }
)
"""Commands are sent on line 0, answers without ``is_read`` come on line 1. A read is a *Fast Read Quad I/O* (Winbond
W25Q128JV data sheet, section 8.2.12) or, with ``is_double``, a *DTR Fast Read Quad I/O* (ISSI IS25LP128F data sheet,
section 8.44): behind the command three bytes of address, one of mode (0: no continuous read) and the dummy cycles."""


class _State(enum.Enum):
    IDLE = 0
    SELECT = 1
    SEND = 2
    SEND_QUAD = 3
    TURN = 4
    RECEIVE = 5
    DRAIN = 6
    DESELECT = 7


class QuadSpi(wiring.Component):
    """A serial flash's bus, SPI mode 0.

    What is transferred at once, a bit or a nibble, takes a *slot*: at single rate a period of SCK, low first, with the
    rising edge in its middle; at double rate half of one. There the head is sent at half the speed, so that SCK's edges
    are again in the middle of what they transfer, and all outputs change at edges of the machine's clock. The flash
    answers at each edge of SCK, a nibble every ``divider / 2`` cycles.

    When an answer can be sampled depends on pads, the flash's clock-to-output time and the way back, and at the highest
    rate it is there for less than a cycle. So the lines are sampled at both edges of the machine's clock.

    Parameters:
        divider: cycles of one SCK period, even; in slow transactions it is ``SLOW_DIVIDER``. A byte takes two periods
            on four lines, one at double rate, eight on one line.
        deselected: cycles for which the flash stays deselected between two transactions (its data sheet's tSHSL).

    Members:
        i: transactions. Ready while none is under way.
        position: when the answer of a transaction that is not slow is sampled, see ``POSITIONS``; stable meanwhile.
        o: the answer's bytes. While they are not taken, SCK stands still.
        o_busy: a transaction is under way.
        pins: of the flash; outputs are registers.
    """

    def __init__(self, *, divider: int = 2, deselected: int = 8) -> None:
        if divider < 2 or divider % 2:
            raise ValueError(f"divider must be an even number of cycles, not {divider}")
        if deselected < 1:
            raise ValueError(f"deselected must be at least 1, not {deselected}")
        self._divider, self._deselected = divider, deselected
        super().__init__(
            {
                "i": In(stream.Signature(TRANSACTION)),
                "position": In(range(POSITIONS)),
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
        drained = self._divider + _FIRST_SAMPLE + POSITIONS // 2
        pause = Signal(range(max(self._deselected, drained + 1)), reset_less=True)
        outgoing = Signal(8 * (1 + _HEAD_BYTES), reset_less=True)
        # Of the slots: on four lines, at double rate, and half as long as the others
        quad, double, short = Signal(), Signal(), Signal()
        receives, has_room = Signal(), Signal()
        m.d.comb += [
            receives.eq(state == _State.RECEIVE),
            self.i.ready.eq(state == _State.IDLE),
            self.o_busy.eq(state != _State.IDLE),
        ]
        moving = state.matches(_State.SEND, _State.SEND_QUAD, _State.TURN, _State.RECEIVE)
        begins, byte_begins, byte_ends = self._clock(
            m, moving, receives & ~has_room, quad=quad, double=double, short=short, slow=transaction.is_slow
        )
        drives = state == _State.SEND_QUAD  # behind the mode the lines turn round
        m.d.sync += last_byte.eq(bytes_left == 1)
        with m.If(moving):
            m.d.sync += self.pins.data_enable.eq(Mux(quad, drives.replicate(4), 0b1101))
        with m.If(begins):
            m.d.sync += [
                self.pins.data_out.eq(Mux(quad, outgoing[-4:], Cat(outgoing[-1], Const(0b110, 3)))),
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
                    outgoing.eq(
                        Cat(
                            Const(0, 8),
                            Mux(transaction.has_argument, Cat(Const(0, 16), transaction.argument), transaction.address),
                            transaction.command,
                        )
                    ),
                    bytes_left.eq(Mux(transaction.has_argument, 2, 1)),
                    Cat(quad, double, short).eq(0),
                ]
                with m.If(pause == 0):
                    m.d.sync += state.eq(_State.SEND)
            with m.Case(_State.SEND, _State.SEND_QUAD, _State.TURN, _State.RECEIVE):
                m.d.sync += pause.eq(drained)
                with m.If(byte_ends):
                    m.d.sync += bytes_left.eq(bytes_left - 1)
                with m.If(byte_ends & last_byte):
                    with m.Switch(state):
                        with m.Case(_State.SEND):
                            m.d.sync += [
                                bytes_left.eq(Mux(transaction.is_read, _HEAD_BYTES, transaction.length)),
                                quad.eq(transaction.is_read),
                                double.eq(transaction.is_double),
                            ]
                            with m.If(transaction.is_read):
                                m.d.sync += state.eq(_State.SEND_QUAD)
                            with m.Else():
                                m.d.sync += state.eq(
                                    Mux(transaction.length == 0, _State.DRAIN, _State.RECEIVE),
                                )
                        with m.Case(_State.SEND_QUAD):
                            m.d.sync += [
                                bytes_left.eq(transaction.dummies),
                                short.eq(transaction.is_double),
                                state.eq(_State.TURN),
                            ]
                        with m.Case(_State.TURN):
                            m.d.sync += [bytes_left.eq(transaction.length), state.eq(_State.RECEIVE)]
                        with m.Default():
                            m.d.sync += state.eq(_State.DRAIN)
            with m.Case(_State.DRAIN):
                m.d.sync += pause.eq(pause - 1)
                with m.If(pause == 0):
                    m.d.sync += [self.pins.select.eq(0), self.pins.data_enable.eq(0b1101)]
                    m.d.sync += [pause.eq(self._deselected - 1), state.eq(_State.DESELECT)]
            with m.Case(_State.DESELECT):
                m.d.sync += pause.eq(pause - 1)
                with m.If(pause == 0):
                    m.d.sync += state.eq(_State.IDLE)
        position = Signal(range(POSITIONS))
        m.d.sync += position.eq(Mux(transaction.is_slow, POSITIONS - 1, self.position))
        self._receive(m, receives & begins, receives & byte_begins, quad, position, has_room)
        return m

    def _clock(
        self, m: Module, moving: Value, held: Value, *, quad: Value, double: Value, short: Value, slow: Value
    ) -> tuple[Value, Value, Value]:
        """SCK, slot by slot; ``held`` keeps a byte from beginning.

        Returns when a slot begins, when a byte does, and when one ends.
        """
        phase = Signal(range(max(self._divider, SLOW_DIVIDER)))
        slot = Signal(3)
        at_byte, runs, ends, byte_ends, late = Signal(), Signal(), Signal(), Signal(), Signal()
        half = self._divider // 2
        last = Mux(slow, SLOW_DIVIDER - 1, Mux(short, half - 1, self._divider - 1))
        m.d.comb += [
            at_byte.eq((phase == 0) & (slot == 0)),
            runs.eq(moving & ~(held & at_byte)),
            ends.eq(runs & (phase == last)),
            byte_ends.eq(ends & (slot == Mux(quad, 1, 7))),
            late.eq((phase >= Mux(slow, SLOW_DIVIDER // 2, half)) & ~short),
        ]
        with m.If(runs):
            m.d.sync += phase.eq(Mux(ends, 0, phase + 1))
        with m.If(ends):
            m.d.sync += slot.eq(Mux(byte_ends, 0, slot + 1))
        m.d.sync += self.pins.clock.eq(runs & (late ^ (double & slot[0])))
        return runs & (phase == 0), runs & at_byte, byte_ends

    def _receive(
        self, m: Module, begins: Value, byte_begins: Value, quad: Value, position: Signal, has_room: Signal
    ) -> None:
        """Sample each slot's bits when they have come; a byte is complete when the next one's first bits come."""
        m.submodules.queue = queue = SyncFIFO(width=8, depth=_QUEUE)
        room = Signal(range(_QUEUE + 1), init=_QUEUE)
        taken = queue.r_en & queue.r_rdy
        m.d.sync += [room.eq(room - byte_begins + taken), has_room.eq(room != 0)]  # in time: a byte has two slots
        times = [delayed(m, begins, _FIRST_SAMPLE, name="begun", reset=True)]
        for index in range(POSITIONS // 2):
            times.append(delayed(m, times[-1], 1, name=f"sample_{index}", reset=True))
        early, late = self._sample(m)
        samples, arrived = Signal(), Signal(4)
        m.d.comb += [
            samples.eq(Array([times[(index + 1) // 2] for index in range(POSITIONS)])[position]),
            arrived.eq(Mux(position[0], early, late)),
        ]
        incoming = Signal(8, reset_less=True)
        count = Signal(3)  # bits or nibbles of the byte
        complete = Signal()
        m.d.sync += complete.eq(0)
        with m.If(samples):
            m.d.sync += [
                incoming.eq(Mux(quad, Cat(arrived, incoming), Cat(arrived[1], incoming))),
                count.eq(count + 1),
            ]
            with m.If(count == Mux(quad, 1, 7)):
                m.d.sync += [complete.eq(1), count.eq(0)]
        m.d.comb += [
            queue.w_en.eq(complete),
            queue.w_data.eq(incoming),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]

    def _sample(self, m: Module) -> tuple[Signal, Signal]:
        """The lines as they were in the middle of the cycle before, and at its end."""
        falling = ClockDomain("falling", clk_edge="neg", reset_less=True, local=True)
        m.domains += falling
        middle, early, late = (Signal(4, name=name, reset_less=True) for name in ("middle", "early", "late"))
        m.d.comb += falling.clk.eq(ClockSignal("sync"))
        m.d.falling += middle.eq(self.pins.data_in)
        m.d.sync += [early.eq(middle), late.eq(self.pins.data_in)]
        return early, late
