"""Carries out LOADs: compressed weights from a reader's bytes into the lanes' memories, while rows are computed.

Pages of the program come the same way, into the instruction memory.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.flash import flash_count
from emberline.arch.isa import Fault
from emberline.gateware.flash.flash_reader import READ, FlashFault
from emberline.gateware.lane_control import CHUNK_WIDTH
from emberline.gateware.structures import delayed, structure
from emberline.gateware.weight_decoder import WeightDecoder

LOAD = structure(isa.LOAD, skip=("opcode",))
FLASH_FAULT_WIDTH = len(FlashFault).bit_length()

_FAULTS = {
    FlashFault.ABSENT: Fault.FLASH_ABSENT,
    FlashFault.UNKNOWN: Fault.FLASH_UNKNOWN,
    FlashFault.QUAD: Fault.FLASH_QUAD,
    FlashFault.RATE: Fault.FLASH_RATE,
    FlashFault.TIMING: Fault.FLASH_TIMING,
}


class State(enum.Enum):
    """What is done for the first LOAD of the queue."""

    IDLE = 0
    ASK = 1
    DECODE = 2
    WAIT = 3
    LEAVE = 4


class WeightLoader(wiring.Component):
    """Takes LOADs, at most ``isa.LOAD_QUEUE`` at once, and carries them out in their order.

    Let a LOAD be taken in cycle ``t``, the ROW that is walked then end in ``e`` (``i_row_end`` is high in ``e + 1``)
    and the LOAD before it be complete in ``c``: it starts in cycle ``max(t, e, c) + 2``, and is complete ``cycles``
    later, or when its blocks have been decoded and match, whichever is later. Its weights enter lane 0 before that.

    Members:
        i, i_valid: a LOAD, taken in every cycle with ``i_valid``; not while ``o_pending`` is ``isa.LOAD_QUEUE``.
        i_row_taken, i_row_end: of the issuer.
        o_pending: LOADs taken and not complete, from the cycle after. o_weights_pending, o_pages_pending: those of them
            without and with ``page``, a cycle later.
        o_late: the LOAD under way takes more than its ``cycles``.
        o_fault: a `Fault`, kept until reset.
        read, i_bytes: what is asked of a reader of the flash, and its answer; of a pair of flashes it is ``i_words``.
            i_flash_fault: its ``o_fault``.
        write_enable, write_address, write_data: four bytes of the weight image at byte ``4 * write_address``, or with
            ``page_enable`` instead of ``write_enable`` a word of the instruction memory.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._takes_words = flash_count(architecture) > 1
        answer = {"i_words": In(stream.Signature(32))} if self._takes_words else {"i_bytes": In(stream.Signature(8))}
        self._chunk_bits = ceil_log2(architecture.multipliers * 8 // CHUNK_WIDTH)
        super().__init__(
            {
                "i": In(LOAD),
                "i_valid": In(1),
                "i_row_taken": In(1),
                "i_row_end": In(1),
                "o_pending": Out(range(isa.LOAD_QUEUE + 1)),
                "o_weights_pending": Out(range(isa.LOAD_QUEUE + 1)),
                "o_pages_pending": Out(range(isa.LOAD_QUEUE + 1)),
                "o_late": Out(1),
                "o_fault": Out(Fault),
                "read": Out(stream.Signature(READ)),
                **answer,
                "i_flash_fault": In(FlashFault),
                "write_enable": Out(1),
                "page_enable": Out(1),
                "write_address": Out(range(max(architecture.weight_bytes // 4, architecture.program_depth_words))),
                "write_data": Out(CHUNK_WIDTH),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state = state = Signal(State)
        self._load = load = Signal(LOAD, reset_less=True)
        self._complete = complete = Signal()
        self._starts = starts = Signal()
        first, ready = self._queue(m)
        m.submodules.decoder = self._decoder = WeightDecoder(
            self._architecture.lanes_in * 8 // CHUNK_WIDTH,
            wide=self._architecture.decodes_wide,
            family=self._architecture.family,
        )
        # What a LOAD begins with is taken in every idle cycle, so that nothing but the state has to know in that cycle
        # whether there is one.
        idle = state == State.IDLE
        # Negative in the cycle in which the LOAD may be complete
        timer = Signal(signed(len(load.cycles) + 1), reset_less=True)
        m.d.sync += timer.eq(Mux(idle, first.cycles - 2, Mux(timer[-1], timer, timer - 1)))
        m.d.comb += [
            starts.eq(idle & ready),
            complete.eq((state == State.WAIT) & timer[-1]),
            self.read.valid.eq(state == State.ASK),
            self.read.payload.address.eq(load.source),
            self.read.payload.length.eq(load.length),
        ]
        m.d.sync += self.o_late.eq(timer[-1] & state.matches(State.ASK, State.DECODE))
        self._feed(m, first, idle)
        self._write(m)
        decoded = self._judge(m, idle)
        with m.Switch(state):
            with m.Case(State.IDLE):
                m.d.sync += load.eq(first)
                with m.If(ready):
                    m.d.sync += state.eq(State.ASK)
            with m.Case(State.ASK):
                with m.If(self.read.ready):
                    m.d.sync += state.eq(State.DECODE)
            with m.Case(State.DECODE):
                with m.If(decoded):
                    m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT):
                with m.If(complete):
                    m.d.sync += state.eq(State.LEAVE)
            with m.Case(State.LEAVE):
                m.d.sync += state.eq(State.IDLE)
        return m

    def _queue(self, m: Module) -> tuple[data.View, Signal]:
        """The LOADs that are waiting: the first of them, and whether it may start."""
        m.submodules.queue = queue = Memory(shape=unsigned(LOAD.size), depth=isa.LOAD_QUEUE, init=[])
        write, read = queue.write_port(), queue.read_port(domain="comb")
        head, tail = Signal(range(isa.LOAD_QUEUE)), Signal(range(isa.LOAD_QUEUE))
        # How many are waiting, and how many of them, the first ones, for no ROW.
        waiting, free = (Signal(range(isa.LOAD_QUEUE + 1), name=name) for name in ("waiting", "free"))
        walking, ready = Signal(), Signal()
        first = Signal(LOAD, reset_less=True)
        load = delayed(m, self.i.as_value(), 1, name="load")
        queued = data.View(LOAD, load)
        valid = delayed(m, self.i_valid, 1, name="load_valid", reset=True)
        blocks = delayed(m, walking & ~self.i_row_end, 1, name="load_blocked", reset=True)
        left = waiting + valid - self._starts
        m.d.comb += [
            write.en.eq(valid),
            write.addr.eq(tail),
            write.data.eq(load),
            read.addr.eq(head),
            ready.eq(free != 0),
        ]
        m.d.sync += [
            self.o_pending.eq(self.o_pending + self.i_valid - self._complete),
            self.o_weights_pending.eq(
                self.o_weights_pending + (valid & ~queued.page) - (self._complete & ~self._load.page)
            ),
            self.o_pages_pending.eq(self.o_pages_pending + (valid & queued.page) - (self._complete & self._load.page)),
            walking.eq((walking & ~self.i_row_end) | self.i_row_taken),
            waiting.eq(left),
            free.eq(Mux(self.i_row_end, left, free + (valid & ~blocks) - self._starts)),
            # A register on the way, past which the first one of an empty queue goes.
            first.eq(Mux(waiting == 0, load, read.data)),
        ]
        with m.If(valid):
            m.d.sync += tail.eq(tail + 1)
        with m.If(self._starts):
            m.d.sync += head.eq(head + 1)
        return first, ready

    def _feed(self, m: Module, first: data.View, idle: Value) -> None:
        """Words for the decoder, ``last`` with the last one."""
        words_left = Signal(signed(len(first.length) - 1), reset_less=True)  # behind the one that is at hand, less one
        taken, then = self._take_words(m, words_left) if self._takes_words else self._gather(m, words_left)
        with m.If(taken):
            m.d.sync += [*then, words_left.eq(words_left - 1)]
        with m.If(idle):
            m.d.sync += words_left.eq((first.length >> 2) - 2)
        self._all_taken = all_taken = Signal()
        m.d.sync += all_taken.eq(~idle & (all_taken | (taken & words_left[-1])))

    def _take_words(self, m: Module, words_left: Signal) -> tuple[Value, list[Any]]:
        """Words as they come: when one is taken, and what happens then."""
        decoder = self._decoder
        m.d.comb += [
            decoder.i.payload.word.eq(self.i_words.payload),
            decoder.i.payload.last.eq(words_left[-1]),
            decoder.i.valid.eq(self.i_words.valid),
            self.i_words.ready.eq(decoder.i.ready),
        ]
        return self.i_words.valid & decoder.i.ready, []

    def _gather(self, m: Module, words_left: Signal) -> tuple[Value, list[Any]]:
        """Words of bytes: when one is taken, and what happens then."""
        word, count, full = Signal(32, reset_less=True), Signal(2), Signal()
        taken = Signal()
        m.d.comb += [
            self._decoder.i.payload.word.eq(word),
            self._decoder.i.payload.last.eq(words_left[-1]),
            self._decoder.i.valid.eq(full),
            taken.eq(full & self._decoder.i.ready),
            self.i_bytes.ready.eq(~full),
        ]
        with m.If(self.i_bytes.valid & ~full):
            m.d.sync += [word.eq(Cat(word[8:], self.i_bytes.payload)), count.eq(count + 1), full.eq(count == 3)]
        return taken, [full.eq(0)]

    def _write(self, m: Module) -> None:
        """The decoder's chunks into one of the memories, never more than the LOAD names."""
        load = self._load
        chunks_left = Signal(signed(len(load.words) + self._chunk_bits + 1), reset_less=True)  # less one
        address = Signal.like(self.write_address, reset_less=True)
        m.d.comb += self._decoder.o.ready.eq(1)
        comes = delayed(m, self._decoder.o.valid, 1, name="chunk_comes", reset=True)
        chunk = delayed(m, self._decoder.o.payload, 1, name="chunk")
        m.d.sync += [
            self.write_enable.eq(comes & ~chunks_left[-1] & ~load.page),
            self.page_enable.eq(comes & ~chunks_left[-1] & load.page),
            self.write_address.eq(address),
            self.write_data.eq(chunk),
        ]
        self._overflow, self._all_written = Signal(), Signal()
        with m.If(comes):
            m.d.sync += [address.eq(address + 1), chunks_left.eq(chunks_left - 1)]
            with m.If(chunks_left[-1]):
                m.d.sync += self._overflow.eq(1)
        m.d.sync += self._all_written.eq(chunks_left == -1)
        with m.If(self._state == State.ASK):
            m.d.sync += [
                address.eq(Mux(load.page, load.address, load.address << self._chunk_bits)),
                chunks_left.eq(Mux(load.page, load.words, load.words << self._chunk_bits) - 1),
            ]

    def _judge(self, m: Module, idle: Value) -> Signal:
        """Whether all blocks have been decoded and are this program's; anything else is a fault."""
        decoder = self._decoder
        check = Signal.like(self._load.check, reset_less=True)
        done, ended = Signal(), Signal()
        decoded = Signal()
        m.d.sync += [done.eq(decoder.done), ended.eq(done & self._all_taken & (self._state == State.DECODE))]
        with m.If(idle):
            m.d.sync += check.eq(0)
        with m.Elif(decoder.done):
            m.d.sync += check.eq(check ^ decoder.check)
        right = Signal()
        m.d.sync += right.eq(check == self._load.check)
        whole = self._all_written & ~self._overflow
        m.d.comb += decoded.eq(ended & whole & right)
        # Faults are a cycle later; nothing becomes complete behind one.
        malformed, strange = Signal(), Signal()
        m.d.sync += [
            malformed.eq((decoder.fault != 0) | self._overflow | (ended & ~whole)),
            strange.eq(ended & ~right),
        ]
        with m.If(self.o_fault == Fault.NONE):
            with m.If(malformed):
                m.d.sync += self.o_fault.eq(Fault.WEIGHTS)
            with m.Elif(strange):
                m.d.sync += self.o_fault.eq(Fault.WEIGHTS_CHECK)
            with m.Elif(self._state == State.ASK):
                for flash_fault, fault in _FAULTS.items():
                    with m.If(self.i_flash_fault == flash_fault):
                        m.d.sync += self.o_fault.eq(fault)
        return decoded
