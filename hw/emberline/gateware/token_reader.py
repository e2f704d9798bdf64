"""From words to tokens: bit streams that take turns, in pairs, and the tables of the code."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch.weight_code import HEADER, MAX_LENGTH, MAX_SYMBOLS, REFILL_BITS
from emberline.gateware.structures import delayed, memory_output

WORD_WIDTH = 32
LATENCY = 9
"""Cycles from the step that decodes a token to the pair that it completes."""

_BUFFER_WIDTH = REFILL_BITS - 1 + WORD_WIDTH
_SYMBOLS_PER_WORD = WORD_WIDTH // 8
_PAIR_WIDTH = next(field.width for field in HEADER.fields if field.name == "pairs")

PAIR = data.StructLayout({"run": 8, "value": 8})
"""So many zeros, then this byte."""


class TokenReader(wiring.Component):
    """Decodes the payload of a block of `emberline.arch.weight_code`.

    Two bit streams take turns at one decoder: while the length of a token is found in one of them, the other is moved
    on by the length of its own. Behind this loop symbols are looked up in a pipeline. There may be a second decoder,
    for the other two streams of wide blocks, in step with the first one.

    Parameters:
        wide: wide blocks can be decoded.
        family: as for `memory_output`.

    Members:
        table: 0 for values, 1 for runs: which one ``clear``, ``count`` and ``symbols`` are about.
        clear: strobe: a table begins.
        count, count_enable: how many codes have one bit, two bits, …: `MAX_LENGTH` strobes.
        symbols, symbols_enable: four symbols each, in the order of their codes.
        complete: three cycles after the counts: they are a complete code of at most 256 symbols.
        symbol_count: their number.
        start: strobe: a payload of ``pairs`` pairs begins, ``sparse`` or not, ``wide`` or not; all stay until ``busy``
            has fallen.
        word, word_valid, word_ready: the payload's words, of which up to two wait inside. drained: none does.
        wants: a word is needed to go on.
        room: 0 stops new tokens, but not those on their way: up to ``LATENCY`` + 1 pairs may still come.
        stop: forgets the payload.
        busy: not every token has left.
        o_valid, o: pairs, of a dense block one for each token, with a run of 0; of a wide one for two tokens, the
            second of them in the place of the run. No back-pressure but ``room``.

    One token each cycle; of a wide block two, but for a cycle where both need a word at once, and for words that do not
    wait inside.
    """

    def __init__(self, *, wide: bool = False, family: str = "generic") -> None:
        self._wide, self._family = wide, family
        super().__init__(
            {
                **({"wide": In(1)} if wide else {}),
                "table": In(1),
                "clear": In(1),
                "count": In(8),
                "count_enable": In(1),
                "symbols": In(WORD_WIDTH),
                "symbols_enable": In(1),
                "complete": Out(1),
                "symbol_count": Out(range(MAX_SYMBOLS + 1)),
                "start": In(1),
                "pairs": In(_PAIR_WIDTH),
                "sparse": In(1),
                "word": In(WORD_WIDTH),
                "word_valid": In(1),
                "word_ready": Out(1),
                "drained": Out(1),
                "wants": Out(1),
                "room": In(1),
                "stop": In(1),
                "busy": Out(1),
                "o_valid": Out(1),
                "o": Out(PAIR),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._place = Signal(range(MAX_SYMBOLS // _SYMBOLS_PER_WORD), reset_less=True)
        self._load(m)
        # What `start` sets is not reset.
        running = Signal()
        need = Signal(reset_less=True)
        # The words that wait: none, the first, or both.
        waiting = Signal(2, reset_less=True)
        self._next_word, second = Signal(WORD_WIDTH, reset_less=True), Signal(WORD_WIDTH, reset_less=True)
        go = Signal()
        priming = Signal(2, reset_less=True)
        odd = Signal(reset_less=True)
        # One less than the steps that are left, so that its sign marks the last one.
        left = Signal(_PAIR_WIDTH + 3, reset_less=True)
        needs, there, wants = need, waiting[0], need & ~waiting[0]
        others_word = Signal(WORD_WIDTH, reset_less=True)
        if self._wide:
            # Each decoder has a register that its next word lies in: the same word, unless both need one. Then the
            # other one's is the word behind it, after a cycle.
            others_need, parted = Signal(reset_less=True), Signal(reset_less=True)
            both = need & others_need
            needs, there = need | others_need, Mux(both, parted, waiting[0])
            wants = (needs & ~waiting[0]) | (both & ~waiting[1])
        m.d.comb += [
            self.wants.eq(running & wants),
            go.eq(running & self.room & (~needs | there)),
            self.word_ready.eq(~waiting[1]),
            self.drained.eq(~waiting[0]),
        ]
        # Nothing but registers decides whether a word is taken in.
        with m.If(go & needs):
            following = Mux(waiting[1], second, self.word)
            m.d.sync += [
                self._next_word.eq(following),
                others_word.eq(following),
                waiting.eq(waiting[1] | (self.word_valid & ~waiting[1])),
            ]
        with m.Elif(self.word_valid & ~waiting[1]):
            m.d.sync += [second.eq(self.word), waiting.eq(Cat(1, waiting[0]))]
            with m.If(~waiting[0]):
                m.d.sync += [self._next_word.eq(self.word), others_word.eq(self.word)]
        with m.If(go):
            m.d.sync += [priming.eq(priming[1:]), left.eq(left - 1), odd.eq(~odd)]
            with m.If(left[-1]):
                m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(1), priming.eq(0b11), odd.eq(0), left.eq(Cat(C(0, 1), self.pairs))]
            m.d.sync += waiting.eq(0)
        with m.If(self.stop):
            m.d.sync += running.eq(0)
        # `odd` is that of the token at hand; it has just begun or the next one is the other.
        codes, number = self._turn(m, go, need, C(1, 1), priming[0], self.sparse & odd & ~self.start, self._next_word)
        valid, runs = Signal(), Signal()
        m.d.sync += valid.eq(go & ~priming[0] & ~self.stop)
        with m.If(go):
            m.d.sync += runs.eq(self.sparse & ~odd)
        symbol, runs = self._look_up(m, "symbols", codes, number, runs)
        pipeline = self._give(m, valid, symbol, runs)
        if self._wide:
            with m.If(both & waiting[1] & ~parted):
                m.d.sync += [others_word.eq(second), parted.eq(1)]
            with m.If(go & both):
                m.d.sync += waiting.eq(0)
            with m.If(go | self.start):
                m.d.sync += parted.eq(0)
            with m.If(self.start & self.wide):
                m.d.sync += left.eq(self.pairs)
            others = self._turn(m, go, others_need, self.wide, priming[0], C(0, 1), others_word)
            symbol, _ = self._look_up(m, "other_symbols", *others, C(0, 1))
            with m.If(self.wide):
                m.d.sync += self.o.run.eq(symbol)
        m.d.comb += self.busy.eq(running | pipeline)
        return m

    def _load(self, m: Module) -> None:
        """Ends of the codes of each length, and what leads from a code to its symbol's place.

        ``ends[table][l]`` is the first number of ``l`` bits that is no code of at most ``l`` bits; a symbol lies at the
        sum of its code and ``offsets[table][l]``.
        """
        self._ends = [
            [Signal(length + 1, name=f"end_{t}_{length}", reset_less=True) for length in range(MAX_LENGTH + 1)]
            for t in (0, 1)
        ]
        self._offsets = [
            [Signal(8, name=f"offset_{t}_{length}", reset_less=True) for length in range(MAX_LENGTH + 1)]
            for t in (0, 1)
        ]
        code = Signal(MAX_LENGTH + 4, reset_less=True)
        end = Signal(MAX_LENGTH + 4)
        total = Signal(range(MAX_LENGTH * 255 + 1), reset_less=True)
        turn = Signal(MAX_LENGTH, reset_less=True)  # whose length's count comes next
        too_many = Signal(reset_less=True)
        count, enable = delayed(m, self.count, 1, name="count"), delayed(m, self.count_enable, 1, name="enable")
        m.d.comb += end.eq(code + count)
        m.d.sync += too_many.eq(too_many | (code > 2 << MAX_LENGTH))
        with m.If(enable):
            m.d.sync += [code.eq(end << 1), total.eq(total + count), turn.eq(turn << 1)]
            for index in range(1, MAX_LENGTH + 1):
                with m.If(turn[index - 1]):
                    for table in (0, 1):
                        with m.If(self.table == table):
                            m.d.sync += [
                                self._ends[table][index].eq(end),
                                self._offsets[table][index].eq(total - code),
                            ]
        with m.If(self.clear):
            m.d.sync += [code.eq(0), total.eq(0), turn.eq(1), too_many.eq(0), self._place.eq(0)]
        with m.Elif(self.symbols_enable):
            m.d.sync += self._place.eq(self._place + 1)
        m.d.sync += self.complete.eq(~too_many & (code == 2 << MAX_LENGTH) & (total <= MAX_SYMBOLS))
        m.d.comb += self.symbol_count.eq(total[: len(self.symbol_count)])

    def _turn(
        self,
        m: Module,
        go: Value,
        need: Signal,
        takes: Value,
        priming: Value,
        runs_next: Value,
        word: Value,
    ) -> tuple[Value, Value]:
        """The loop; the next bits of the stream whose turn it was, and how many of them, less one, are a token.

        Parameters: ``need``: to drive: whether a word follows the bits that are here; never without ``takes``.
        """
        near, far, far_word = (
            Signal(_BUFFER_WIDTH, name=name, reset_less=True) for name in ("near", "far", "far_word")
        )
        near_count, far_count = (Signal(6, name=name, reset_less=True) for name in ("near_count", "far_count"))
        longer = Signal(MAX_LENGTH - 1, reset_less=True)
        none_spare, spare = Signal(reset_less=True), Signal(MAX_LENGTH - 1, reset_less=True)
        codes = Signal(MAX_LENGTH, reset_less=True)
        # The ends of the table for the token at hand.
        ends = [Signal.like(end, name=f"current_{bits}", reset_less=True) for bits, end in enumerate(self._ends[0])]
        with m.If(go | self.start):
            for current, values, runs in zip(ends, *self._ends, strict=True):
                m.d.sync += current.eq(Mux(runs_next, runs, values))
        # Cycle 1: how long is the token? A word follows the bits that are here where they are few.
        following = near[-MAX_LENGTH:]
        beyond = [following[-bits:] >= ends[bits] for bits in range(1, MAX_LENGTH)]
        aligned = Signal(_BUFFER_WIDTH)
        m.d.comb += aligned.eq(Cat(C(0, _BUFFER_WIDTH - WORD_WIDTH), word) >> near_count[:5])
        # All but the last bit of the token's length are found in cycle 1: its steps come first.
        steps = Signal(3, reset_less=True)
        number = Cat(_thermometer(list(longer))[0], steps)
        count = Signal(6)
        m.d.comb += count.eq(near_count + Mux(need, WORD_WIDTH, 0))
        with m.If(go):
            m.d.sync += [
                far.eq(near),
                far_word.eq(Mux(need, aligned, 0)),
                far_count.eq(count),
                none_spare.eq(count <= REFILL_BITS),
                *[bit.eq(count == REFILL_BITS + 1 + bits) for bits, bit in enumerate(spare)],
                longer.eq(Mux(priming, 0, Cat(*beyond))),
                steps.eq(Mux(priming, 0, _thermometer(beyond)[1:])),
                codes.eq(following),
            ]
            # Cycle 2: what is left. The large steps first: their bits are known earlier.
            moved = ((far | far_word) << 1)[:_BUFFER_WIDTH]
            for index in reversed(range(len(number))):
                moved = Mux(number[index], (moved << (1 << index))[:_BUFFER_WIDTH], moved)
            m.d.sync += [near.eq(moved), near_count.eq(far_count - 1 - number)]
            # Whether they are few then: where none were to spare, or the token is longer than those that were.
            m.d.sync += need.eq(takes & (none_spare | (spare & longer).any()))
        with m.If(self.start):
            # A bit that the step without a token takes.
            m.d.sync += [near_count.eq(1), far_count.eq(2), near.eq(0), far.eq(0), far_word.eq(0), longer.eq(0)]
            m.d.sync += [need.eq(takes), none_spare.eq(1), steps.eq(0)]
        return codes, number

    def _look_up(self, m: Module, name: str, codes: Value, number: Value, runs: Value) -> tuple[Signal, Value]:
        """The pipeline behind the loop: the symbol of a token, and whether it is a run. ``name``: of its memory."""
        m.submodules[name] = memory = Memory(
            shape=unsigned(WORD_WIDTH), depth=2 * MAX_SYMBOLS // _SYMBOLS_PER_WORD, init=[]
        )
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(Cat(self._place, self.table)),
            write.data.eq(self.symbols),
            write.en.eq(self.symbols_enable),
        ]
        # Cycle 3
        codes, runs = delayed(m, codes, 1, name="codes_3"), delayed(m, runs, 1, name="runs_3")
        number = delayed(m, number, 1, name="number_3")
        # Cycle 4: the code, and the way from it to its symbol
        code = Signal(8, reset_less=True)
        offsets = [Signal(8, name=f"offset_{table}", reset_less=True) for table in (0, 1)]
        m.d.sync += code.eq((codes >> (MAX_LENGTH - 1 - number)[:4])[:8])
        m.d.sync += [offset.eq(_select(self._offsets[table][1:], number)) for table, offset in enumerate(offsets)]
        runs = delayed(m, runs, 1, name="runs_4")
        # Cycle 5: the symbol's place
        place = Signal(8, reset_less=True)
        m.d.sync += place.eq(code + Mux(runs, offsets[1], offsets[0]))
        runs = delayed(m, runs, 1, name="runs_5")
        # Cycles 6 and 7: the word that it is in
        m.d.comb += read.addr.eq(Cat(place[2:], runs))
        word = memory_output(m, read.data, family=self._family, name="symbols_word")
        lane = delayed(m, place[:2], 2, name="lane")
        # Cycle 8: the symbol
        symbol = Signal(8, reset_less=True)
        m.d.sync += symbol.eq(word.word_select(lane, 8))
        return symbol, delayed(m, runs, 3, name="runs_8")

    def _give(self, m: Module, valid: Value, symbol: Value, runs: Value) -> Value:
        """The end of the pipeline; whether anything is in it."""
        stages = [valid]
        for stage in range(3, 9):
            register = Signal(name=f"valid_{stage}")
            m.d.sync += register.eq(stages[-1] & ~self.stop)
            stages.append(register)
        # Cycle 9: a pair
        with m.If(stages[-1] & runs):
            m.d.sync += self.o.run.eq(symbol)
        with m.If(self.start & ~self.sparse):
            m.d.sync += self.o.run.eq(0)
        m.d.sync += [self.o.value.eq(symbol), self.o_valid.eq(stages[-1] & ~runs & ~self.stop)]
        return Cat(*stages, self.o_valid).any()


def _select(choices: Sequence[Value], index: Value) -> Value:
    """One of some values, by a tree of multiplexers."""
    if len(choices) == 1:
        return choices[0]
    pairs = [
        Mux(index[0], choices[low + 1], choices[low]) if low + 1 < len(choices) else choices[low]
        for low in range(0, len(choices), 2)
    ]
    return _select(pairs, index[1:])


def _thermometer(bits: list[Value]) -> Value:
    """How many of some bits are 1, of which those that are come first."""
    level = C(0, 0)
    for index in reversed(range(4)):
        step = 1 << index
        # Bit `index` of the number: between an odd and an even multiple of the step.
        terms = [
            bits[low - 1] & (~bits[low + step - 1] if low + step - 1 < len(bits) else C(1, 1))
            for low in range(step, len(bits) + 1, 2 * step)
        ]
        found = Cat(*terms).any()
        level = Cat(found, level)
    return level
