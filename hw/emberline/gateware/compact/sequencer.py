"""The compact machine's sequencer: one instruction after the other, each finished before the next is fetched."""

from __future__ import annotations

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault, Opcode
from emberline.arch.layout import WORD_WIDTH
from emberline.gateware import frame_writer, result_reader
from emberline.gateware.pointer_path import OPERANDS
from emberline.gateware.program_ports import program_members
from emberline.gateware.structures import structure

ROW = data.StructLayout({**structure(isa.ROW).members, "unused": WORD_WIDTH * isa.ROW.word_count - isa.ROW.width})
ADD = structure(isa.ADD)

SCALE_WIDTH = 36
"""Bits of a multiplier and its shift, three of which follow each other in ADD."""


class State(enum.Enum):
    """What the sequencer does."""

    STOPPED = 0
    REQUEST = 1
    BODY = 2
    EXECUTE = 3
    READ_POINTER = 4
    STEP = 5
    COMPARE = 6
    WRITE_POINTER = 7
    READY = 8
    RUN = 9
    BEGIN = 10


class CompactSequencer(wiring.Component):
    """Executes a program; a ROW is started with its addresses resolved, and the next word fetched when it is done.

    An instruction of ``n`` words takes ``n + 2`` cycles; a ROW four more for each pointer, one to start, and its walk.

    Members: those of `program_members`, and:
        o_row, o_add: the ROW and its ADD fields, from ``o_row_start`` to ``i_row_done``.
        o_source, o_target, o_residual: addresses in words. ``i_next_group``: target and residual move on by one.
        i_rotate: the three scales of ADD take each other's places, the next one comes first.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        address = range(architecture.activation_depth_words)
        super().__init__(
            program_members(architecture)
            | {
                "o_row": Out(ROW),
                "o_add": Out(ADD),
                "o_source": Out(address),
                "o_target": Out(address),
                "o_residual": Out(address),
                "o_row_start": Out(1),
                "i_next_group": In(1),
                "i_rotate": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state = Signal(State)
        self._counter = Signal(range(self._architecture.program_depth_words))
        self._loop_depth = Signal(range(isa.LOOP_DEPTH + 1))
        self._operand = Signal(2)
        word_count = isa.ROW.word_count + isa.ADD.word_count
        self._shadow = [Signal(WORD_WIDTH, name=f"word_{index}", reset_less=True) for index in range(word_count)]
        self._head = self._shadow[0]
        self._decode(m)
        word = self._instruction_memory(m)
        self._resolve_pointers(m)
        self._rows = self._count_rows(m)
        self._control(m, word)
        self._count_cycles(m)
        return m

    def _view(self, layout: isa.Layout) -> data.View:
        return data.View(structure(layout), Cat(*self._shadow)[: layout.width])

    def _decode(self, m: Module) -> None:
        shadow = Cat(*self._shadow)
        m.d.comb += [
            self.o_row.eq(shadow[: ROW.size]),
            self.o_add.eq(shadow[ROW.size : ROW.size + ADD.size]),
            self.o_release.eq(self.i_row_done),
            self.o_release_count.eq(self.o_row.release_rows),
        ]
        frame, result = self._view(isa.FRAME), self._view(isa.RESULT)
        m.d.comb += [self.o_frame[name].eq(frame[name]) for name, _ in frame_writer.SETTINGS]
        m.d.comb += [self.o_result[name].eq(result[name]) for name, _ in result_reader.SETTINGS]
        first_scale = sum(field.width for field in isa.ADD.fields) - 3 * SCALE_WIDTH
        scales = shadow[ROW.size + first_scale : ROW.size + ADD.size]
        with m.If(self.i_rotate):
            m.d.sync += scales.eq(scales.rotate_right(SCALE_WIDTH))

    def _instruction_memory(self, m: Module) -> Value:
        m.submodules.memory = memory = Memory(
            shape=unsigned(WORD_WIDTH), depth=self._architecture.program_depth_words, init=[]
        )
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.addr.eq(self._counter),
        ]
        return read.data

    def _resolve_pointers(self, m: Module) -> None:
        """Each operand takes its pointer, and the pointer is moved on and wrapped into its ring."""
        width = ceil_log2(self._architecture.activation_depth_words)
        m.submodules.pointers = pointers = Memory(shape=unsigned(width), depth=isa.POINTER_COUNT, init=[])
        write, read = pointers.write_port(), pointers.read_port()
        fields = {"source": self.o_row, "target": self.o_row, "residual": self.o_add}

        def field(name: str) -> Value:
            return Array(fields[each][f"{each}_{name}"] for each in OPERANDS)[self._operand]

        total, beyond = Signal(width + 1, reset_less=True), Signal(width + 2, reset_less=True)
        setting = self._view(isa.SET)
        is_set = (self._state == State.EXECUTE) & (setting.opcode == Opcode.SET)
        moved = Mux(beyond[-1], total, beyond + field("start"))
        m.d.sync += [total.eq(read.data + field("step")[: width + 1]), beyond.eq(total - field("end")[: width + 1])]
        m.d.comb += [
            read.addr.eq(field("pointer")),
            write.en.eq(is_set | (self._state == State.WRITE_POINTER)),
            write.addr.eq(Mux(is_set, setting.pointer, field("pointer"))),
            write.data.eq(Mux(is_set, setting.value, moved)),
        ]
        for index, target in enumerate((self.o_source, self.o_target, self.o_residual)):
            with m.If((self._state == State.STEP) & (self._operand == index)):
                m.d.sync += target.eq(read.data)
        with m.If(self.i_next_group):
            m.d.sync += [self.o_target.eq(self.o_target + 1), self.o_residual.eq(self.o_residual + 1)]

    def _count_rows(self, m: Module) -> Signal:
        """Frame rows that are there and that no ROW has given up."""
        rows = Signal(frame_writer.ROW_COUNT_WIDTH)
        m.d.sync += rows.eq(
            rows + Mux(self.i_rows, self.i_rows_count, 0) - Mux(self.i_row_done, self.o_row.release_rows, 0)
        )
        return rows

    def _control(self, m: Module, word: Value) -> None:
        state, counter = self._state, self._counter
        index, length = Signal(range(len(self._shadow) + 1)), Signal(range(len(self._shadow) + 1))
        last = Signal()
        begin_address = Signal.like(counter)
        fault = Signal(Fault)
        self._passes_begin, self._passes_end, self._link_ready = Signal(), Signal(), Signal()
        row = self.o_row
        m.d.comb += [
            self.running.eq(state != State.STOPPED),
            last.eq(Mux(index == 0, self._length(word) == 1, index == length)),
            self._link_ready.eq((self._rows >= row.wait_rows) & ~(row.hold_result & self.result_valid)),
        ]
        with m.Switch(state):
            with m.Case(State.STOPPED):
                m.d.sync += [counter.eq(0), index.eq(0)]
                with m.If(self.start):
                    m.d.sync += [state.eq(State.REQUEST), self.fault.eq(Fault.NONE), self._loop_depth.eq(0)]
            with m.Case(State.REQUEST):
                m.d.sync += [counter.eq(counter + 1), index.eq(0), state.eq(State.BODY)]
            with m.Case(State.BODY):
                for place, register in enumerate(self._shadow):
                    with m.If(index == place):
                        m.d.sync += register.eq(word)
                with m.If(index == 0):
                    m.d.sync += length.eq(self._length(word) - 1)
                m.d.sync += index.eq(index + 1)
                with m.If(last):
                    m.d.sync += state.eq(State.EXECUTE)
                with m.Else():
                    m.d.sync += counter.eq(counter + 1)
            with m.Case(State.EXECUTE):
                m.d.sync += state.eq(State.REQUEST)
                self._execute(m, begin_address, fault)
            with m.Case(State.READ_POINTER):
                m.d.sync += state.eq(State.STEP)
            with m.Case(State.STEP):
                m.d.sync += state.eq(State.COMPARE)
            with m.Case(State.COMPARE):
                m.d.sync += state.eq(State.WRITE_POINTER)
            with m.Case(State.WRITE_POINTER):
                m.d.sync += [self._operand.eq(self._operand + 1), state.eq(State.READ_POINTER)]
                with m.If(self._operand == Mux(row.add, 2, 1)):
                    m.d.sync += state.eq(State.READY)
            with m.Case(State.READY):
                m.d.comb += self.o_row_start.eq(self._link_ready)
                with m.If(self._link_ready):
                    m.d.sync += state.eq(State.RUN)
            with m.Case(State.RUN):
                with m.If(self.i_row_done):
                    m.d.sync += state.eq(State.REQUEST)
            with m.Case(State.BEGIN):
                with m.If(self._rows >= self._view(isa.BEGIN).wait_rows):
                    m.d.comb += self._passes_begin.eq(1)
                    m.d.sync += state.eq(State.REQUEST)
        with m.If(self._passes_end):
            m.d.sync += [self.result_valid.eq(1), self.frames_done.eq(self.frames_done + 1)]
        with m.Elif(self.result_release):
            m.d.sync += self.result_valid.eq(0)
        with m.If(fault != Fault.NONE):
            m.d.sync += [self.fault.eq(fault), state.eq(State.STOPPED)]

    def _execute(self, m: Module, begin_address: Signal, fault: Signal) -> None:
        """EXECUTE: the counter is already at the next instruction."""
        state, counter = self._state, self._counter
        m.d.sync += self._operand.eq(0)
        with m.If((counter == 0) & (self.o_row.opcode != Opcode.END)):
            m.d.comb += fault.eq(Fault.ADDRESS)
        with m.Switch(self.o_row.opcode):
            with m.Case(Opcode.SET):
                pass
            with m.Case(Opcode.LOOP, Opcode.NEXT):
                self._loop(m, fault)
            with m.Case(Opcode.BEGIN):
                m.d.sync += [begin_address.eq(counter - 1), state.eq(State.BEGIN)]
            with m.Case(Opcode.END):
                m.d.comb += self._passes_end.eq(1)
                m.d.sync += counter.eq(begin_address)
            with m.Case(Opcode.FRAME):
                m.d.comb += self.o_frame_configure.eq(1)
            with m.Case(Opcode.RESULT):
                m.d.comb += self.o_result_configure.eq(1)
            with m.Case(Opcode.ROW):
                m.d.sync += state.eq(State.READ_POINTER)
                with m.If(self.o_row.pool | self.o_row.depthwise):
                    m.d.comb += fault.eq(Fault.OPCODE)
            with m.Default():
                m.d.comb += fault.eq(Fault.OPCODE)

    @staticmethod
    def _length(word: Value) -> Value:
        """Words of the instruction that begins with ``word``."""
        row = data.View(structure(isa.ROW), Cat(word, C(0, isa.ROW.width - WORD_WIDTH)))
        row_length = Mux(row.add, isa.ROW.word_count + isa.ADD.word_count, isa.ROW.word_count)
        return Mux(
            row.opcode == Opcode.ROW,
            row_length,
            Mux(
                row.opcode == Opcode.FRAME,
                isa.FRAME.word_count,
                Mux(row.opcode == Opcode.RESULT, isa.RESULT.word_count, 1),
            ),
        )

    def _loop(self, m: Module, fault: Signal) -> None:
        """LOOP and NEXT, with a stack of ``LOOP_DEPTH``."""
        counter, depth = self._counter, self._loop_depth
        loop = self._view(isa.LOOP)
        starts = Array(Signal.like(counter, name=f"loop_start_{i}") for i in range(isa.LOOP_DEPTH))
        lefts = Array(Signal(16, name=f"loop_left_{i}", reset_less=True) for i in range(isa.LOOP_DEPTH))
        inner = Signal(range(isa.LOOP_DEPTH))
        m.d.comb += inner.eq(depth - 1)
        with m.If(loop.opcode == Opcode.LOOP):
            with m.If(depth == isa.LOOP_DEPTH):
                m.d.comb += fault.eq(Fault.LOOP)
            with m.Else():
                m.d.sync += [
                    starts[depth[: len(inner)]].eq(counter),
                    lefts[depth[: len(inner)]].eq(loop.count - 1),
                    depth.eq(depth + 1),
                ]
        with m.Elif(depth == 0):
            m.d.comb += fault.eq(Fault.LOOP)
        with m.Elif(lefts[inner] == 0):
            m.d.sync += depth.eq(depth - 1)
        with m.Else():
            m.d.sync += [lefts[inner].eq(lefts[inner] - 1), counter.eq(starts[inner])]

    def _count_cycles(self, m: Module) -> None:
        cycles, stalls = Signal(32), Signal(32)
        m.d.sync += cycles.eq(cycles + 1)
        with m.If((self._state == State.READY) & ~self._link_ready):
            m.d.sync += stalls.eq(stalls + 1)
        with m.If(self._passes_begin):
            m.d.sync += [cycles.eq(1), stalls.eq(0)]
        with m.If(self._passes_end):
            m.d.sync += [self.cycles.eq(cycles), self.stall_cycles.eq(stalls)]
