"""Weights that the host sends while a frame is computed: kept until LOADs take them, in the place of a flash."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch.packets import SUPPLY_WORDS
from emberline.gateware.flash.flash_reader import READ
from emberline.gateware.structures import memory_output

WORD_WIDTH = 32
WORD_BYTES = WORD_WIDTH // 8


class WeightSupply(wiring.Component):
    """Keeps words in their order and serves reads with their bytes; where they come from does not matter.

    Words count once they have been committed, all since the last commit or abort at once; an abort forgets them.

    Parameters:
        depth: words that it holds, a power of two.
        family: whose block memories keep them.

    Members:
        i_enable, i_data: a word, taken in every cycle with ``i_enable``; never more than ``o_room``, with those that
            have not been committed.
        i_commit, i_abort: strobes, no earlier than the cycle behind the last word.
        o_room: free words, as of some cycles before. Only a commit makes it smaller.
        o_awaited: a read waits for words that have not come.
        i: reads (``READ``): the next ``length`` bytes, a multiple of four and at least four, whatever their address.
        o: their bytes.

    Two cycles from a read to its first byte if that is there; a word in five cycles, if the sink takes its bytes at
    once. Honours back-pressure.
    """

    def __init__(self, depth: int = SUPPLY_WORDS, *, family: str = "generic") -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 2 on, not {depth}")
        self._depth, self._family = depth, family
        super().__init__(
            {
                "i_enable": In(1),
                "i_data": In(WORD_WIDTH),
                "i_commit": In(1),
                "i_abort": In(1),
                "o_room": Out(range(depth + 1)),
                "o_awaited": Out(1),
                "i": In(stream.Signature(READ)),
                "o": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken = Signal()
        self._keep(m, taken)
        # The word whose bytes are leaving; how many of them are left, less one
        shifted, left = Signal(WORD_WIDTH, reset_less=True), Signal(range(WORD_BYTES))
        # Words that the read still takes, less one
        wanted = Signal(signed(len(self.i.payload.length) - 1), init=-1)
        m.d.comb += [
            self.i.ready.eq(wanted[-1] & ~self.o.valid),
            self.o.payload.eq(shifted[:8]),
            taken.eq(self._ahead & ~wanted[-1] & ~self.o.valid),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [shifted.eq(shifted >> 8), left.eq(left - 1), self.o.valid.eq(left != 0)]
        with m.If(taken):
            m.d.sync += [shifted.eq(self._word), left.eq(-1), self.o.valid.eq(1), wanted.eq(wanted - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += wanted.eq((self.i.payload.length >> 2) - 1)
        m.d.sync += self.o_awaited.eq(~wanted[-1] & ~self.o.valid & ~self._ahead & ~self._some)
        return m

    def _keep(self, m: Module, taken: Signal) -> None:
        """The memory as a queue, whose first word is read ahead into a register."""
        m.submodules.memory = memory = Memory(shape=unsigned(WORD_WIDTH), depth=self._depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        place, count = range(self._depth), range(self._depth + 1)
        head, committed, tail = (Signal(place, name=name) for name in ("head", "committed", "tail"))
        new, kept = Signal(count), Signal(count)  # words not committed; committed, and not yet read ahead
        commits, fetched = Signal(), Signal()
        m.d.comb += [
            write.en.eq(self.i_enable),
            write.addr.eq(head),
            write.data.eq(self.i_data),
            read.addr.eq(tail),
        ]
        counted = Signal()
        m.d.comb += counted.eq(commits & ~fetched)
        with m.If(self.i_enable):
            m.d.sync += [head.eq(head + 1), new.eq(new + 1)]
        with m.If(self.i_commit):
            m.d.sync += committed.eq(head)
        with m.If(self.i_abort):
            m.d.sync += head.eq(committed)
        with m.If(self.i_abort | counted):
            m.d.sync += new.eq(0)
        # One addition a cycle: a commit waits while a word is fetched
        m.d.sync += commits.eq(self.i_commit | (commits & fetched))
        with m.If(fetched):
            m.d.sync += [kept.eq(kept - 1), tail.eq(tail + 1)]
        with m.Elif(commits):
            m.d.sync += kept.eq(kept + new)
        m.d.sync += self.o_room.eq(self._depth - kept)

        self._word, self._ahead, self._some = Signal(WORD_WIDTH, reset_less=True), Signal(), Signal()
        fetch, coming = Signal(), Signal()
        m.d.comb += fetch.eq(self._some & ~self._ahead & ~coming & ~fetched)
        m.d.sync += [self._some.eq(kept != 0), coming.eq(fetch), fetched.eq(coming)]
        output = memory_output(m, read.data, family=self._family, name="output")
        with m.If(fetched):
            m.d.sync += [self._word.eq(output), self._ahead.eq(1)]
        with m.Elif(taken):
            m.d.sync += self._ahead.eq(0)
