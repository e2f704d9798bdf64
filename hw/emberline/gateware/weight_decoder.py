"""Decodes compressed weights (`emberline.arch.weight_code`) at line rate."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.packets import PAYLOAD_CRC
from emberline.arch.weight_code import COUNT_WORDS, HEADER, IDENTIFIER, MAX_SYMBOLS, WIDE_IDENTIFIER, StreamFault
from emberline.gateware.chunk_assembler import CHUNK_WIDTH, ChunkAssembler
from emberline.gateware.link.crc import advance
from emberline.gateware.structures import structure
from emberline.gateware.token_reader import WORD_WIDTH, TokenReader

FAULT_WIDTH = 3
"""Bits of a `StreamFault`."""

INPUT = data.StructLayout({"word": WORD_WIDTH, "last": 1})
"""A word of the stream; ``last`` ends what its feeder was asked for."""


class _State(enum.Enum):
    """Those that take every word have the highest bit set; two more, that take some, have one of their own."""

    TABLE = 0
    START = 1
    DRAIN = 2
    JUDGE = 3
    COUNTS = 4
    TOKENS = 8
    HEADER = 16
    SYMBOLS = 17
    CHECK = 18
    FAULT = 19


class WeightDecoder(wiring.Component):
    """Takes blocks of words and gives the chunks that they stand for, in order (`emberline.model.weight_decoder` is its
    twin).

    Chunks leave before their check is known: they are good when ``done`` says so. A malformed block sets ``fault``
    instead; then the words up to and including the next ``last`` are dropped, no more chunks come, and the tables are
    forgotten. It cannot hang while words come, or ``last`` has come, and chunks are taken.

    Parameters:
        distance: in chunks; the only prediction that it knows, usually ``lanes_in / 4``.
        wide: wide blocks are decoded too, two tokens in each cycle.
        family: as for `memory_output`.

    Members:
        i: words, ``last`` only with the last word of a block.
        o: chunks of four bytes, first byte least significant.
        done: for one cycle: a block's chunks have all been taken and match their check, which is ``check`` then.
        fault: a `StreamFault`, until ``clear``.
        clear: strobe; blocks are taken again when the faulty words have been dropped.

    One token in each cycle: a value, or a run of zeros. Beside them a block takes about 30 cycles, and a table 14 and
    one for each four symbols. Memory: 4 Kibit in one block, 128 x 32; two of them for wide blocks.
    """

    def __init__(self, distance: int, *, wide: bool = False, family: str = "generic") -> None:
        self._reader = TokenReader(wide=wide, family=family)
        self._assembler = ChunkAssembler(distance, wide=wide)
        self._distance, self._wide = distance, wide
        super().__init__(
            {
                "i": In(stream.Signature(INPUT)),
                "o": Out(stream.Signature(CHUNK_WIDTH)),
                "done": Out(1),
                "check": Out(WORD_WIDTH),
                "fault": Out(FAULT_WIDTH),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = self._reader
        m.submodules.assembler = self._assembler
        self._pop = Signal()
        # The last word has been taken; what comes is of the next request, and waits until this one is settled.
        self._ended, self._reopens = Signal(), Signal()
        self._word, self._last, self._available = self._input(m)
        self._state = Signal(_State, init=_State.HEADER)
        self._step = Signal(4)
        self._table = Signal()
        self._present = Signal(2)
        self._fourth = Signal()
        self._raise = Signal(FAULT_WIDTH)
        self._strange = Signal(reset_less=True)
        self._header = Signal(structure(HEADER), reset_less=True)
        self._crc = Signal(PAYLOAD_CRC.width, reset_less=True)
        # One less than the words that are left: negative when all have been taken.
        self._words_left = Signal(signed(len(self._header.words) + 1), reset_less=True)
        self._connect(m)
        with m.Switch(self._state):
            self._read_header(m)
            self._read_tables(m)
            self._read_payload(m)
            self._judge(m)
        # Chosen by few registers, as the whole input waits for it.
        of_payload = ~self._words_left[-1] & self._reader.word_ready
        always, of_tokens, of_counts = (self._state[index] for index in (4, 3, 2))
        taking = always | (of_counts & self._fourth) | (of_tokens & of_payload)
        m.d.comb += self._pop.eq(self._available & taking)
        # A register on the way: states go on for one cycle, in which nothing leaves that must not.
        raised = Signal(FAULT_WIDTH)
        m.d.sync += raised.eq(self._raise)
        with m.If(raised != StreamFault.NONE):
            m.d.sync += [self._state.eq(_State.FAULT), self.fault.eq(raised)]
        with m.If(self.clear):
            m.d.sync += self.fault.eq(StreamFault.NONE)
        return m

    def _input(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """The next word, whether it is the last, and whether it is there: all registers, and so is ``ready``."""
        word, spare = Signal(INPUT, reset_less=True), Signal(INPUT, reset_less=True)
        valid, spare_valid, available = Signal(), Signal(), Signal()
        next_valid, next_ended = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_valid),
            next_valid.eq(Mux(self._pop | ~valid, spare_valid | self.i.valid, 1)),
            next_ended.eq((self._ended & ~self._reopens) | (self._pop & word.last)),
        ]
        m.d.sync += [valid.eq(next_valid), self._ended.eq(next_ended), available.eq(next_valid & ~next_ended)]
        with m.If(self._pop | ~valid):
            with m.If(spare_valid):
                m.d.sync += word.eq(spare)
            with m.Else():
                m.d.sync += word.eq(self.i.payload)
            m.d.sync += spare_valid.eq(0)
        with m.Elif(self.i.valid & ~spare_valid):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        return word.word, word.last, available

    def _connect(self, m: Module) -> None:
        """What is the same in all states."""
        reader, assembler = self._reader, self._assembler
        wiring.connect(m, assembler.o, wiring.flipped(self.o))
        stopped = self._state == _State.FAULT
        m.d.comb += [
            reader.count.eq(self._word.word_select(self._step[:2], 8)),
            reader.symbols.eq(self._word),
            reader.table.eq(self._table),
            reader.pairs.eq(self._header.pairs),
            reader.sparse.eq(self._header.sparse),
            reader.word.eq(self._word),
            reader.room.eq(assembler.room),
            reader.stop.eq(stopped),
            assembler.stop.eq(stopped),
            assembler.chunks.eq(self._header.chunks),
            assembler.predict.eq(self._header.distance != 0),
            assembler.i_valid.eq(reader.o_valid),
            assembler.i.eq(reader.o),
        ]
        if self._wide:
            m.d.comb += [unit.wide.eq(self._header.identifier[0]) for unit in (reader, assembler)]
        # What is checked: the header's words, then the chunks.
        checked, checked_valid = Signal(WORD_WIDTH, reset_less=True), Signal()
        m.d.sync += [
            checked.eq(assembler.o_taken),
            checked_valid.eq(assembler.o_taken_valid),
            self.done.eq(0),
        ]
        with m.If(self._state == _State.HEADER):
            m.d.sync += [checked.eq(self._word), checked_valid.eq(self._pop)]
        with m.If(checked_valid):
            m.d.sync += self._crc.eq(advance(PAYLOAD_CRC, self._crc, checked))
        with m.Elif((self._state == _State.HEADER) & (self._step == 0)):
            m.d.sync += self._crc.eq(PAYLOAD_CRC.initial)

    def _truncated(self, m: Module) -> None:
        """A fault where the words have ended, though the check has not come yet."""
        with m.If(self._ended):
            m.d.comb += self._raise.eq(StreamFault.TRUNCATED)

    def _wrong(self, m: Module) -> None:
        """A fault where the header is of no block, or where the words have ended though the check has not come yet."""
        self._truncated(m)
        with m.If(self._strange):
            m.d.comb += self._raise.eq(StreamFault.HEADER)

    def _read_header(self, m: Module) -> None:
        header = self._header
        with m.Case(_State.HEADER):
            self._truncated(m)
            unknown = (header.identifier | 1) != WIDE_IDENTIFIER if self._wide else header.identifier != IDENTIFIER
            with m.If((self._step == 1) & unknown):
                m.d.comb += self._raise.eq(StreamFault.HEADER)
            with m.If(self._available):
                m.d.sync += [
                    header.as_value().word_select(self._step[:2], WORD_WIDTH).eq(self._word),
                    self._step.eq(self._step + 1),
                ]
                with m.If(self._step == HEADER.word_count - 1):
                    m.d.sync += self._state.eq(_State.TABLE)
        with m.Case(_State.TABLE):
            zeros = Cat((field == 0) for field in (header.chunks, header.pairs, header.words)).any()
            others = (header.distance != 0) & (header.distance != self._distance)
            m.d.comb += self._reader.clear.eq(1)
            m.d.sync += [self._step.eq(0), self._table.eq(~header.new_values)]
            if self._wide:
                others |= header.identifier[0] & header.sparse
            m.d.sync += self._strange.eq(zeros | others | header.reserved_1.any() | header.reserved_2.any())
            with m.If(header.new_values | header.new_runs):
                m.d.sync += self._state.eq(_State.COUNTS)
            with m.Else():
                m.d.sync += self._state.eq(_State.START)

    def _read_tables(self, m: Module) -> None:
        reader, counts = self._reader, 4 * COUNT_WORDS
        left = Signal(range(-2, MAX_SYMBOLS // 4 + 1), reset_less=True)  # words of symbols, less two
        with m.Case(_State.COUNTS):
            self._wrong(m)
            with m.If(self._step < counts):
                m.d.comb += reader.count_enable.eq(self._available)
                with m.If(self._available):
                    m.d.sync += [self._step.eq(self._step + 1), self._fourth.eq(self._step[:2] == 2)]
            with m.Elif(self._step < counts + 2):
                # `complete` comes three cycles after the last count.
                m.d.sync += self._step.eq(self._step + 1)
            with m.Else():
                m.d.sync += [left.eq(((reader.symbol_count + 3) >> 2) - 2), self._state.eq(_State.SYMBOLS)]
                with m.If(~reader.complete):
                    m.d.comb += self._raise.eq(StreamFault.TABLE)
        with m.Case(_State.SYMBOLS):
            self._truncated(m)
            m.d.comb += reader.symbols_enable.eq(self._available)
            with m.If(self._available):
                m.d.sync += left.eq(left - 1)
                with m.If(left[-1]):
                    m.d.sync += [
                        self._state.eq(_State.TABLE),
                        self._present.bit_select(self._table, 1).eq(1),
                        self._header.new_values.eq(0),
                        self._header.new_runs.eq(self._header.new_runs & ~self._table),
                    ]

    def _read_payload(self, m: Module) -> None:
        reader, assembler, header = self._reader, self._assembler, self._header
        exhausted = self._words_left[-1]
        push, fits, starved = Signal(), Signal(), Signal()
        m.d.comb += push.eq(self._available & ~exhausted & reader.word_ready)
        m.d.sync += starved.eq(reader.wants & exhausted)
        m.d.sync += fits.eq(assembler.exact & exhausted & reader.drained)
        with m.Case(_State.START):
            m.d.comb += [reader.start.eq(1), assembler.start.eq(1)]
            m.d.sync += [self._words_left.eq(header.words - 1), self._state.eq(_State.TOKENS)]
            with m.If(~self._present[0] | (header.sparse & ~self._present[1])):
                m.d.comb += self._raise.eq(StreamFault.TABLE)
            self._wrong(m)
        with m.Case(_State.TOKENS):
            self._truncated(m)
            m.d.comb += reader.word_valid.eq(self._available & ~exhausted)
            with m.If(push):
                m.d.sync += self._words_left.eq(self._words_left - 1)
            with m.If(starved | assembler.overrun):
                m.d.comb += self._raise.eq(StreamFault.OVERRUN)
            with m.If(~reader.busy):
                m.d.sync += self._state.eq(_State.DRAIN)
        with m.Case(_State.DRAIN):
            self._truncated(m)
            with m.If(assembler.overrun | (assembler.idle & ~fits)):
                m.d.comb += self._raise.eq(StreamFault.OVERRUN)
            with m.If(assembler.idle):
                m.d.sync += self._state.eq(_State.CHECK)

    def _judge(self, m: Module) -> None:
        check = self.check
        wrong, judged = Signal(), Signal()
        m.d.sync += [wrong.eq((self._crc ^ check) != PAYLOAD_CRC.final_xor), judged.eq(self._state == _State.JUDGE)]
        with m.Case(_State.CHECK):
            self._truncated(m)
            m.d.sync += check.eq(self._word)
            with m.If(self._available):
                m.d.sync += self._state.eq(_State.JUDGE)
        with m.Case(_State.JUDGE):
            with m.If(judged & wrong):
                m.d.comb += self._raise.eq(StreamFault.CHECK)
            with m.Elif(judged & ~self.o.valid):
                m.d.comb += self._reopens.eq(1)
                m.d.sync += [
                    self.done.eq(1),
                    self._step.eq(0),
                    self._state.eq(_State.HEADER),
                ]
        with m.Case(_State.FAULT):
            m.d.sync += [self._present.eq(0), self._step.eq(0)]
            with m.If(self._ended & (self.fault == StreamFault.NONE)):
                m.d.comb += self._reopens.eq(1)
                m.d.sync += self._state.eq(_State.HEADER)
