"""From runs and values to chunks of four bytes, with the prediction added."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch.weight_code import CHUNK_BYTES, MAX_CHUNKS, MAX_DISTANCE
from emberline.gateware.token_reader import LATENCY, PAIR

CHUNK_WIDTH = 8 * CHUNK_BYTES
_DEPTH = 16
_FULL = _DEPTH - LATENCY - 3
"""Pairs above which no more are asked for: those on their way still find room."""


class ChunkAssembler(wiring.Component):
    """Zeros and bytes one behind the other, four at a time.

    Parameters:
        distance: the only one that ``predict`` can mean, in chunks.
        wide: blocks may be so.

    Members:
        start: strobe: a block of ``chunks`` chunks begins, with ``predict`` or without, ``wide`` or not; all stay until
            ``idle``. In a wide one the run is no run, but the byte behind the value.
        i_valid, i: pairs; they must be taken. room: no more than a few are waiting.
        o: chunks. o_taken: the chunk that has just been handed to ``o``, for its check; with ``o_taken_valid``.
        stop: forgets what has not reached ``o``.
        idle: everything has reached ``o``.
        exact: there were just ``chunks`` chunks. overrun: there are more.

    A pair each cycle, and one cycle more for each chunk of which it ends the zeros; honours back-pressure.
    """

    def __init__(self, distance: int, *, wide: bool = False) -> None:
        if not 1 <= distance <= MAX_DISTANCE:
            raise ValueError(f"distance must be in 1..{MAX_DISTANCE}, not {distance}")
        self._distance, self._wide = distance, wide
        super().__init__(
            {
                **({"wide": In(1)} if wide else {}),
                "start": In(1),
                "chunks": In(range(MAX_CHUNKS + 1)),
                "predict": In(1),
                "i_valid": In(1),
                "i": In(PAIR),
                "room": Out(1),
                "o": Out(stream.Signature(CHUNK_WIDTH)),
                "o_taken": Out(CHUNK_WIDTH),
                "o_taken_valid": Out(1),
                "stop": In(1),
                "idle": Out(1),
                "exact": Out(1),
                "overrun": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waiting, pair, pop = self._queue(m)
        chunk, chunk_valid, chunk_taken = Signal(CHUNK_WIDTH, reset_less=True), Signal(), Signal()
        # One less than the chunks that are left: negative when all are there.
        left = Signal(range(-2, MAX_CHUNKS + 1), reset_less=True)
        part, place = Signal(CHUNK_WIDTH - 8, reset_less=True), Signal(2, reset_less=True)
        held, value, zeros = Signal(), Signal(8, reset_less=True), Signal(9, reset_less=True)
        # Cycle 1: the next pair; `zeros` counts from the beginning of the chunk.
        within = Signal()
        m.d.comb += within.eq(zeros[2:] == 0)
        emit, advance = Signal(), Signal()
        m.d.comb += [
            emit.eq(held & (~within | (zeros[:2] == CHUNK_BYTES - 1))),
            advance.eq(~held | ~emit | ~chunk_valid | chunk_taken),
            pop.eq(waiting & (~held | (within & advance))),
        ]
        whole = Signal(CHUNK_WIDTH)
        m.d.comb += whole.eq(part)
        for byte in range(CHUNK_BYTES):
            with m.If(within & (zeros[:2] == byte)):
                m.d.comb += whole.word_select(byte, 8).eq(value)
        next_place = Signal(2)
        m.d.comb += next_place.eq(Mux(held, zeros[:2] + 1, place))
        if self._wide:
            second = Signal(8, reset_less=True)
            with m.If(self.wide):
                # Two bytes at place 0 or 2
                m.d.comb += emit.eq(held & zeros[1])
                m.d.comb += next_place.eq(Mux(held, zeros[:2] + 2, place))
                for byte in (0, 2):
                    with m.If(zeros[1] == byte >> 1):
                        m.d.comb += whole.word_select(byte + 1, 8).eq(second)
        with m.If(chunk_taken):
            m.d.sync += chunk_valid.eq(0)
        with m.If(held & advance):
            m.d.sync += [part.eq(whole), place.eq(zeros[:2] + 1), zeros.eq(zeros - CHUNK_BYTES)]
            if self._wide:
                with m.If(self.wide):
                    m.d.sync += place.eq(zeros[:2] + 2)
            with m.If(within):
                m.d.sync += held.eq(0)
            with m.If(emit):
                # Cycle 2: a chunk
                m.d.sync += [chunk.eq(whole), chunk_valid.eq(1), left.eq(left - 1), part.eq(0)]
                m.d.sync += self.overrun.eq(self.overrun | (left < 0))
        with m.If(pop):
            m.d.sync += [held.eq(1), value.eq(pair.value), zeros.eq(pair.run + next_place)]
            if self._wide:
                m.d.sync += second.eq(pair.run)
                with m.If(self.wide):
                    m.d.sync += zeros.eq(next_place)
        self._predict(m, chunk, chunk_valid, chunk_taken)
        m.d.sync += self.idle.eq(~(waiting | held | chunk_valid | self.i_valid | self.start))
        m.d.comb += self.exact.eq((left == -1) & (place == 0))
        with m.If(self.start):
            m.d.sync += [left.eq(self.chunks - 1), self.overrun.eq(0), part.eq(0), place.eq(0)]
        with m.If(self.stop):
            m.d.sync += [held.eq(0), chunk_valid.eq(0)]
        return m

    def _queue(self, m: Module) -> tuple[Signal, PAIR, Signal]:
        """Pairs that wait: whether there is one, the oldest, and the signal that removes it."""
        m.submodules.queue = memory = Memory(shape=PAIR, depth=_DEPTH, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        first, end, level = Signal(range(_DEPTH)), Signal(range(_DEPTH)), Signal(range(_DEPTH + 1))
        pop = Signal()
        m.d.comb += [
            write.addr.eq(end),
            write.data.eq(self.i),
            write.en.eq(self.i_valid),
            read.addr.eq(first),
        ]
        m.d.sync += [level.eq(level + self.i_valid - pop), self.room.eq(level <= _FULL)]
        with m.If(self.i_valid):
            m.d.sync += end.eq(end + 1)
        with m.If(pop):
            m.d.sync += first.eq(first + 1)
        with m.If(self.stop):
            m.d.sync += [level.eq(0), first.eq(0), end.eq(0)]
        waiting = Signal()
        m.d.comb += waiting.eq(level != 0)
        return waiting, read.data, pop

    def _predict(self, m: Module, chunk: Signal, chunk_valid: Signal, chunk_taken: Signal) -> None:
        """Cycle 3: the exclusive or with what lies ``distance`` chunks back."""
        history = [Signal(CHUNK_WIDTH, name=f"history_{index}", reset_less=True) for index in range(self._distance)]
        final = Signal(CHUNK_WIDTH)
        m.d.comb += [
            chunk_taken.eq(chunk_valid & (~self.o.valid | self.o.ready)),
            final.eq(chunk ^ Mux(self.predict, history[-1], 0)),
            self.o_taken.eq(self.o.payload),
        ]
        m.d.sync += self.o_taken_valid.eq(chunk_taken & ~self.stop)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(chunk_taken & ~self.stop):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(final), Cat(*history).eq(Cat(final, *history))]
        with m.If(self.start):
            m.d.sync += Cat(*history).eq(0)
