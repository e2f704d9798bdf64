"""Two flashes side by side, read as one that is twice as fast."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.flash import PAIR_FLASHES
from emberline.arch.layout import WORD_BYTES
from emberline.gateware.flash.flash_reader import READ, FlashFault, FlashReader
from emberline.gateware.flash.quad_spi import FlashPins


class FlashPair(wiring.Component):
    """Serves reads of words that lie in two flashes in turn: word ``w`` is word ``w // 2`` of flash ``w % 2``.

    Both are waked, identified and timed by a `FlashReader` of their own, so that they may be of different makers and
    lie at different distances; neither has to keep step with the other.

    Parameters: ``clock_hz``, ``divider``, ``double``, ``probe_bytes``: of `FlashReader`.

    Members:
        i: reads (``READ``), ``address`` and ``length`` multiples of four, ``length`` at least eight. Ready once both
            flashes have been identified and no read is under way; all words of the read before must have been taken.
        o: their words, little endian, as fast as both flashes together give them.
        o_ready: reads can be served. o_fault: the first flash's, or else the second's.
        pins_0, pins_1: of the flashes.

    The first word comes four cycles later than `FlashReader` alone would give it.
    """

    def __init__(self, *, clock_hz: float, divider: int = 2, double: bool = False, probe_bytes: int = 64) -> None:
        self._readers = [
            FlashReader(clock_hz=clock_hz, divider=divider, double=double, probe_bytes=probe_bytes)
            for _ in range(PAIR_FLASHES)
        ]
        super().__init__(
            {
                "i": In(stream.Signature(READ)),
                "o": Out(stream.Signature(8 * WORD_BYTES)),
                "o_ready": Out(1),
                "o_fault": Out(FlashFault),
                **{f"pins_{index}": Out(FlashPins()) for index in range(PAIR_FLASHES)},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = self._readers
        m.d.comb += [
            self.o_ready.eq(first.o_ready & second.o_ready),
            self.o_fault.eq(Mux(first.o_fault != FlashFault.NONE, first.o_fault, second.o_fault)),
        ]
        taken, turn, idle, passes = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [taken.eq(self.i.valid & self.i.ready), self.i.ready.eq(idle)]
        place, count = self.i.payload.address[2:], self.i.payload.length[2:]
        words, full, asks = [], [], []
        for index, reader in enumerate(self._readers):
            m.submodules[f"reader_{index}"] = reader
            wiring.connect(m, reader.pins, wiring.flipped(getattr(self, f"pins_{index}")))
            # The first flash has the even words, of which an odd place begins with the next one.
            skipped, more = (place[0], ~place[0]) if index == 0 else (0, place[0])
            request = Signal(READ, name=f"request_{index}", reset_less=True)
            asked = Signal(name=f"asked_{index}")
            with m.If(taken):
                m.d.sync += [
                    request.address.eq(((place >> 1) + skipped) << 2),
                    request.length.eq(((count + more) >> 1) << 2),
                    asked.eq(1),
                ]
            with m.Elif(reader.i.ready):
                m.d.sync += asked.eq(0)
            m.d.comb += [reader.i.payload.eq(request), reader.i.valid.eq(asked)]
            word, whole = self._gather(m, index, reader, passes & (turn == index))
            words.append(word)
            full.append(whole)
            asks.append(asked)
        m.d.sync += idle.eq(first.i.ready & second.i.ready & ~taken & ~Cat(asks).any())
        # A word goes on through a register, which has a cycle to become free: words come half as often at most.
        m.d.comb += passes.eq(Cat(full).bit_select(turn, 1) & ~self.o.valid)
        with m.If(passes):
            m.d.sync += [self.o.payload.eq(Array(words)[turn]), self.o.valid.eq(1), turn.eq(~turn)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(taken):
            m.d.sync += turn.eq(place[0])
        return m

    def _gather(self, m: Module, index: int, reader: FlashReader, taken: Signal) -> tuple[Signal, Signal]:
        """A flash's bytes, four at a time: the word, and whether it is whole."""
        word, count = Signal(8 * WORD_BYTES, name=f"word_{index}", reset_less=True), Signal(2, name=f"count_{index}")
        full = Signal(name=f"full_{index}")
        m.d.comb += reader.o.ready.eq(~full)
        with m.If(taken):
            m.d.sync += full.eq(0)
        with m.If(reader.o.valid & ~full):
            m.d.sync += [word.eq(Cat(word[8:], reader.o.payload)), count.eq(count + 1), full.eq(count == 3)]
        return word, full
