"""A stand-in for the accelerator with the same outside and trivial contents: in Python and as a component.

A "program" is one word, at address 0: bytes of a row (bits 0-15), rows of a frame (16-23), rows of the ring (24-31, at
most 15). A frame's result is the sum of each of its rows' bytes, plus the first weight byte, modulo 256. It is there
after ``8 * rows`` cycles, or at once in Python, as soon as the rows are in and the previous result has been released. A
row whose first byte is 0xEE stops the machine with fault 7.

With weights from the link, a frame takes a word of them for each of its rows as well, and waits for them; the lowest
byte of each is added to its row's sum. There is room for ``SUPPLY_WORDS``.
"""

from __future__ import annotations

from amaranth.hdl import Array, C, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.packets import SUPPLY_WORDS
from emberline.gateware.link.core_ports import supply_members

FAULT = 7
FAULT_BYTE = 0xEE
RESULT_LIMIT = 8
INDEX_WIDTH = 4


def configuration(row_bytes: int, rows: int, ring_rows: int) -> int:
    """The program word."""
    return row_bytes | rows << 16 | ring_rows << 24


class FakeMachine:
    """Implements `emberline.driver.link_model.Machine`. Parameters: ``supplied``: weights come over the link."""

    def __init__(self, supplied: bool = False) -> None:
        self._supplied = supplied
        self.program = {0: 0}
        self.weights = {0: 0}
        self.clear()

    def clear(self) -> None:
        self.running = False
        self.fault = 0
        self.frames_done = 0
        self.result: bytes | None = None
        self.cycles = self.stall_cycles = 0
        self.row_bytes = self.result_bytes = self.free_rows = 0
        self._rows: list[bytes] = []
        self._words: list[bytes] = []

    @property
    def weight_room(self) -> int:
        return SUPPLY_WORDS - len(self._words)

    @property
    def weights_awaited(self) -> bool:
        return self._frame_is_there() and len(self._words) < self.result_bytes

    def enter_weights(self, data: bytes) -> None:
        self._words += [data[at : at + 4] for at in range(0, len(data), 4)]
        self._compute()

    def _frame_is_there(self) -> bool:
        return self.running and self.result is None and len(self._rows) >= self.result_bytes > 0

    def write_program(self, address: int, words: list[int]) -> None:
        self.program.update({address + index: word for index, word in enumerate(words)})

    def write_weights(self, offset: int, data: bytes) -> None:
        self.weights.update({offset + index: byte for index, byte in enumerate(data)})

    def start(self) -> None:
        word = self.program[0]
        self.running = True
        self.row_bytes, self.result_bytes, self.free_rows = word & 0xFFFF, word >> 16 & 0xFF, word >> 24

    def enter_rows(self, data: bytes) -> None:
        rows = [data[start : start + self.row_bytes] for start in range(0, len(data), self.row_bytes)]
        self.free_rows -= len(rows)
        self._rows += rows
        if any(row[0] == FAULT_BYTE for row in rows):
            self.fault, self.running = FAULT, False
        self._compute()

    def release(self) -> None:
        self.result = None
        self._compute()

    def _compute(self) -> None:
        if self._frame_is_there() and not (self._supplied and self.weights_awaited):
            frame, self._rows = self._rows[: self.result_bytes], self._rows[self.result_bytes :]
            words = [word[0] for word in self._words] if self._supplied else [0] * self.result_bytes
            self._words = self._words[self.result_bytes :]
            self.result = bytes(
                (sum(row) + self.weights[0] + word) & 0xFF for row, word in zip(frame, words, strict=False)
            )
            self.free_rows += self.result_bytes
            self.frames_done += 1
            self.cycles, self.stall_cycles = 8 * self.result_bytes, self.frames_done


class FakeAccelerator(wiring.Component):
    """The same as a component with the accelerator's ports."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(
            {
                "program_enable": In(1),
                "program_address": In(range(architecture.program_depth_words)),
                "program_data": In(32),
                "weight_enable": In(1),
                "weight_address": In(range(architecture.weight_bytes // 4)),
                "weight_data": In(32),
                "i_frame": In(stream.Signature(8)),
                "frame_free_rows": Out(12),
                "frame_row_bytes": Out(20),
                "frame_commit": In(1),
                "frame_abort": In(1),
                "frames_done": Out(16),
                "result_valid": Out(1),
                "result_bytes": Out(20),
                "result_start": In(1),
                "o_result": Out(stream.Signature(8)),
                "result_release": In(1),
                "start": In(1),
                "clear": In(1),
                "running": Out(1),
                "fault": Out(8),
                "cycles": Out(32),
                "stall_cycles": Out(32),
                **{name: member.flip() for name, member in supply_members(architecture).items()},
            }
        )
        self._architecture = architecture

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        m.submodules.program = program = Memory(shape=32, depth=architecture.program_depth_words, init=[])
        m.submodules.weights = weights = Memory(shape=32, depth=architecture.weight_bytes // 4, init=[])
        for memory, name in ((program, "program"), (weights, "weight")):
            port = memory.write_port()
            m.d.comb += [
                port.addr.eq(getattr(self, f"{name}_address")),
                port.data.eq(getattr(self, f"{name}_data")),
                port.en.eq(getattr(self, f"{name}_enable")),
            ]
        word, weight = program.read_port(domain="comb"), weights.read_port(domain="comb")
        m.submodules.core = ResetInserter(self.clear)(
            _Core(self, word.data, weight.data, supplied=architecture.fetches_from_link)
        )
        return m


class _Core(wiring.Component):
    """Everything that ``clear`` resets."""

    def __init__(self, ports: FakeAccelerator, word: Signal, weight: Signal, *, supplied: bool) -> None:
        self._ports, self._word, self._weight, self._supplied = ports, word, weight, supplied
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        p = self._ports
        rows_of_frame = Signal(8)
        sums = Array(Signal(8, name=f"sum_{index}") for index in range(1 << INDEX_WIDTH))
        head, committed, tail, fill = (Signal(INDEX_WIDTH, name=name) for name in ("head", "committed", "tail", "fill"))
        total, column = Signal(8), Signal(20)
        results = Array(Signal(8, name=f"result_{index}") for index in range(RESULT_LIMIT))
        compute, position, sending, bad = Signal(16), Signal(20), Signal(), Signal()
        m.d.comb += [
            p.i_frame.ready.eq(p.running & ~p.frame_commit & ~p.frame_abort),
            p.result_bytes.eq(rows_of_frame),
            p.o_result.valid.eq(sending),
            p.o_result.payload.eq(results[position[:3]]),
            p.cycles.eq(Mux(p.frames_done == 0, 0, rows_of_frame * 8)),
            p.stall_cycles.eq(p.frames_done),
            fill.eq(committed - tail),
        ]
        with m.If(p.start):
            m.d.sync += [
                p.running.eq(1),
                p.frame_row_bytes.eq(self._word[:16]),
                rows_of_frame.eq(self._word[16:24]),
                p.frame_free_rows.eq(self._word[24:]),
            ]
        with m.If(p.i_frame.valid & p.i_frame.ready):
            m.d.sync += [total.eq(total + p.i_frame.payload), column.eq(column + 1)]
            with m.If((column == 0) & (p.i_frame.payload == FAULT_BYTE)):
                m.d.sync += bad.eq(1)
            with m.If(column == p.frame_row_bytes - 1):
                m.d.sync += [
                    sums[head].eq(total + p.i_frame.payload),
                    head.eq(head + 1),
                    total.eq(0),
                    column.eq(0),
                ]
        with m.If(p.frame_commit):
            m.d.sync += [committed.eq(head), p.frame_free_rows.eq(p.frame_free_rows - (head - committed)[:INDEX_WIDTH])]
            with m.If(bad):
                m.d.sync += [p.fault.eq(FAULT), p.running.eq(0)]
        with m.If(p.frame_abort):
            m.d.sync += [head.eq(committed), total.eq(0), column.eq(0), bad.eq(0)]
        with m.If(p.result_release):
            m.d.sync += p.result_valid.eq(0)
        enough = p.running & ~p.result_valid & (fill >= rows_of_frame) & (rows_of_frame != 0) & ~p.frame_commit
        computed = Signal()
        m.d.comb += computed.eq(enough & (compute == rows_of_frame * 8))
        words: list[Value] = [C(0, 8)] * RESULT_LIMIT
        if self._supplied:
            enough, words = self._supply(m, enough, computed, rows_of_frame)
        with m.If(enough):
            m.d.sync += compute.eq(compute + 1)
            with m.If(compute == rows_of_frame * 8):
                m.d.sync += [
                    compute.eq(0),
                    p.result_valid.eq(1),
                    p.frames_done.eq(p.frames_done + 1),
                    tail.eq(tail + rows_of_frame),
                    p.frame_free_rows.eq(p.frame_free_rows + rows_of_frame),
                ]
                for index in range(RESULT_LIMIT):
                    m.d.sync += results[index].eq(sums[(tail + index)[:INDEX_WIDTH]] + self._weight[:8] + words[index])
        with m.If(sending & p.o_result.ready):
            m.d.sync += position.eq(position + 1)
            with m.If(position == rows_of_frame - 1):
                m.d.sync += sending.eq(0)
        with m.If(p.result_start):
            m.d.sync += [sending.eq(1), position.eq(0)]
        return m

    def _supply(self, m: Module, enough: Value, computed: Value, taken: Value) -> tuple[Value, list[Value]]:
        """Whether the frame's words are there too, and the lowest bytes of the first ones."""
        p = self._ports
        m.submodules.supplied = memory = Memory(shape=8, depth=SUPPLY_WORDS, init=[])
        head, committed, tail = (Signal(range(SUPPLY_WORDS), name=f"words_{name}") for name in ("in", "good", "out"))
        new, kept = Signal(range(SUPPLY_WORDS + 1)), Signal(range(SUPPLY_WORDS + 1))
        write = memory.write_port()
        m.d.comb += [write.addr.eq(head), write.data.eq(p.supply_data[:8]), write.en.eq(p.supply_enable)]
        with m.If(p.supply_enable):
            m.d.sync += [head.eq(head + 1), new.eq(new + 1)]
        with m.If(p.supply_commit):
            m.d.sync += [committed.eq(head), new.eq(0)]
        with m.If(p.supply_abort):
            m.d.sync += [head.eq(committed), new.eq(0)]
        m.d.sync += kept.eq(kept + Mux(p.supply_commit, new, 0) - Mux(computed, taken, 0))
        with m.If(computed):
            m.d.sync += tail.eq(tail + taken)
        there = kept >= taken
        m.d.comb += [p.supply_room.eq(SUPPLY_WORDS - kept), p.supply_awaited.eq(enough & ~there)]
        words = []
        for index in range(RESULT_LIMIT):
            port = memory.read_port(domain="comb")
            m.d.comb += port.addr.eq(tail + index)
            words.append(port.data)
        return enough & there, words
