"""Fetches instructions, runs the loops and the pointers, and hands out rows when they may start."""

from __future__ import annotations

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault, Opcode
from emberline.arch.layout import WORD_WIDTH
from emberline.gateware import frame_writer, result_reader
from emberline.gateware.structures import memory_output, structure

ROW_AND_MORE = data.StructLayout(
    {
        "row": data.StructLayout({**structure(isa.ROW).members, "unused": 32 * isa.ROW.word_count - isa.ROW.width}),
        "more": data.UnionLayout({"add": structure(isa.ADD), "pool": structure(isa.POOL)}),
    }
)
"""A fetched ROW, with the fields of its ADD or POOL if it has one."""

_OPERANDS = ("source", "target", "residual")
"""The third operand is the residual of an ADD or the copy of a POOL: their pointer fields are the same bits."""


class State(enum.Enum):
    """What the sequencer does."""

    STOPPED = 0
    REQUEST = 1
    WAIT = 2
    HEAD = 3
    EXECUTE = 4
    BODY = 5
    APPLY = 6
    POINTERS = 7
    READY = 8
    BEGIN = 9
    END = 10


class Sequencer(wiring.Component):
    """Executes a program; a ROW is handed out with its three addresses resolved.

    A ROW is handed out when at most one other ROW is in flight, or none if it has ``fence``; when ``wait_rows`` frame
    rows are there; and, if it has ``hold_result``, when the last frame's result has been released.

    Members:
        write_enable, write_address, write_data: the instruction memory.
        start: run from word 0; only while not ``running``.
        running, fault (`emberline.arch.isa.Fault`).
        o_frame, o_frame_configure: a FRAME instruction; o_result, o_result_configure: a RESULT instruction.
        o_row, o_add, o_pool: the ROW, its ADD fields, its POOL fields.
        o_source, o_target, o_third: addresses in groups; the third is the residual's or the copy's.
        o_row_valid: it may start; i_row_taken: it does.
        i_row_end: the ROW being walked has read its last word; i_row_done: a ROW's last group has been written.
        i_rows, i_rows_count: frame rows have come; o_release, o_release_count: rows that are free again.
        result_release: the result may be overwritten.
        result_valid, frames_done: a frame has been computed. cycles, stall_cycles: of that frame: from BEGIN with its
            rows there to the last group written; those of them in which only the link was waited for.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        address = range(architecture.program_depth_words)
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(address),
                "write_data": In(WORD_WIDTH),
                "start": In(1),
                "running": Out(1),
                "fault": Out(8),
                "o_frame": Out(frame_writer.SETTINGS),
                "o_frame_configure": Out(1),
                "o_result": Out(result_reader.SETTINGS),
                "o_result_configure": Out(1),
                "o_row": Out(ROW_AND_MORE["row"].shape),
                "o_add": Out(structure(isa.ADD)),
                "o_pool": Out(structure(isa.POOL)),
                "o_source": Out(isa.ADDRESS_WIDTH),
                "o_target": Out(isa.ADDRESS_WIDTH),
                "o_third": Out(isa.ADDRESS_WIDTH),
                "o_row_valid": Out(1),
                "i_row_taken": In(1),
                "i_row_end": In(1),
                "i_row_done": In(1),
                "i_rows": In(1),
                "i_rows_count": In(frame_writer.ROW_COUNT_WIDTH),
                "o_release": Out(1),
                "o_release_count": Out(8),
                "result_release": In(1),
                "result_valid": Out(1),
                "frames_done": Out(16),
                "cycles": Out(32),
                "stall_cycles": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state = Signal(State)
        self._loop_depth = Signal(range(isa.LOOP_DEPTH + 1))
        self._length = Signal(range(32))  # words of the instruction
        self._index = Signal(range(32))  # which of them is in the fetch register
        self._address = Signal(range(self._architecture.program_depth_words))
        self._shadow = Array(
            Signal(WORD_WIDTH, name=f"word_{i}", reset_less=True)
            for i in range(isa.ROW.word_count + isa.ADD.word_count)
        )
        self._instruction_memory(m)
        self._pointer_writes(m)
        self._decode(m)
        self._resolve_pointers(m)
        self._count_rows(m)
        self._control(m)
        self._count_cycles(m)
        return m

    def _instruction_memory(self, m: Module) -> None:
        m.submodules.memory = memory = Memory(
            shape=unsigned(WORD_WIDTH), depth=self._architecture.program_depth_words, init=[]
        )
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.addr.eq(self._address),
        ]
        self._word = memory_output(m, read.data, family=self._architecture.family, name="word")

    def _pointer_writes(self, m: Module) -> None:
        m.submodules.pointers = pointers = Memory(shape=unsigned(isa.ADDRESS_WIDTH), depth=isa.POINTER_COUNT, init=[])
        self._pointer_write = pointers.write_port()
        self._pointer_read = pointers.read_port(domain="comb")

    def _decode(self, m: Module) -> None:
        """The instruction's views: its first word while it is in HEAD, all of it afterwards."""
        shadow = Cat(*self._shadow)
        fetched = data.View(ROW_AND_MORE, shadow[: ROW_AND_MORE.size])
        m.d.comb += [
            self.o_row.eq(fetched.row),
            self.o_add.eq(fetched.more.add),
            self.o_pool.eq(fetched.more.pool),
        ]
        frame = data.View(structure(isa.FRAME), shadow[: isa.FRAME.width])
        result = data.View(structure(isa.RESULT), shadow[: isa.RESULT.width])
        m.d.comb += [self.o_frame[name].eq(frame[name]) for name, _ in frame_writer.SETTINGS]
        m.d.comb += [self.o_result[name].eq(result[name]) for name, _ in result_reader.SETTINGS]

    def _resolve_pointers(self, m: Module) -> None:
        """POINTERS: each operand takes its pointer and moves it on, three cycles deep, one operand after the other."""
        self._operand = operand = Signal(range(8))
        fields = {
            "source": self.o_row,
            "target": self.o_row,
            "residual": self.o_add,
        }
        self._last_operand = Mux(self.o_row.add | self.o_row.pool, 2, 1)

        def field(name: str, index: Value) -> Value:
            return Array(fields[each][f"{each}_{name}"] for each in _OPERANDS)[index]

        active = self._state == State.POINTERS
        # Cycle 1: read
        value = Signal(isa.ADDRESS_WIDTH, reset_less=True)
        read = active & (operand <= self._last_operand)
        m.d.comb += self._pointer_read.addr.eq(field("pointer", operand[:2]))
        m.d.sync += value.eq(self._pointer_read.data)
        with m.If(read):
            with m.Switch(operand):
                for index, target in enumerate((self.o_source, self.o_target, self.o_third)):
                    with m.Case(index):
                        m.d.sync += target.eq(self._pointer_read.data)
        # Cycle 2: step
        operand_2 = Signal(2, reset_less=True)
        valid_2 = Signal()
        total = Signal(isa.ADDRESS_WIDTH + 1, reset_less=True)
        m.d.sync += [operand_2.eq(operand), valid_2.eq(read), total.eq(value + field("step", operand_2))]
        # Cycle 3: how far beyond the end
        operand_3 = Signal(2, reset_less=True)
        valid_3 = Signal()
        total_3 = Signal.like(total)
        beyond = Signal(isa.ADDRESS_WIDTH + 2, reset_less=True)
        m.d.sync += [operand_3.eq(operand_2), valid_3.eq(valid_2), total_3.eq(total)]
        m.d.sync += beyond.eq(total - field("end", operand_3))
        # Cycle 4: wrap and write back
        operand_4 = Signal(2, reset_less=True)
        valid_4 = Signal()
        m.d.sync += [operand_4.eq(operand_3), valid_4.eq(valid_3)]
        wrapped = Mux(beyond[-1], total_3, beyond + field("start", operand_4))
        self._pointer_last = valid_4 & (operand_4 == self._last_operand)
        setting = data.View(structure(isa.SET), self._shadow[0][: isa.SET.width])
        is_set = (self._state == State.EXECUTE) & (setting.opcode == Opcode.SET)
        m.d.comb += [
            self._pointer_write.en.eq(valid_4 | is_set),
            self._pointer_write.addr.eq(Mux(valid_4, field("pointer", operand_4), setting.pointer)),
            self._pointer_write.data.eq(Mux(valid_4, wrapped, setting.value)),
        ]
        with m.If(active):
            m.d.sync += operand.eq(operand + 1)
        with m.Else():
            m.d.sync += operand.eq(0)

    def _count_rows(self, m: Module) -> None:
        """Frame rows that are there and that no issued ROW has given up."""
        self._rows = rows = Signal(frame_writer.ROW_COUNT_WIDTH)
        release = Signal(8)
        taken = Mux(self.i_row_taken, self.o_row.release_rows, 0)
        m.d.sync += rows.eq(rows + Mux(self.i_rows, self.i_rows_count, 0) - taken)
        with m.If(self.i_row_taken):
            m.d.sync += release.eq(self.o_row.release_rows)
        m.d.comb += [self.o_release.eq(self.i_row_end), self.o_release_count.eq(release)]

    def _control(self, m: Module) -> None:
        state, word = self._state, self._word
        head = self._shadow[0]
        begin = data.View(structure(isa.BEGIN), head[: isa.BEGIN.width])
        begin_address = Signal.like(self._address)
        self._program_counter = counter = Signal.like(self._address)
        begin_rows = Signal(12)
        in_flight = Signal(2)
        drained = Signal()
        m.d.sync += in_flight.eq(in_flight + self.i_row_taken - self.i_row_done)
        m.d.comb += drained.eq(in_flight == 0)
        self._passes_begin = Signal()
        self._passes_end = Signal()
        fault = Signal(Fault)
        m.d.comb += [self.running.eq(state != State.STOPPED)]

        # Words arrive two cycles after their address, one each cycle.
        with m.If(state != State.STOPPED):
            m.d.sync += self._address.eq(self._address + 1)

        def fetch(address: Value) -> list:
            return [self._address.eq(address), counter.eq(address), state.eq(State.REQUEST)]

        with m.Switch(state):
            with m.Case(State.STOPPED):
                with m.If(self.start):
                    m.d.sync += [*fetch(0), self.fault.eq(Fault.NONE), self._loop_depth.eq(0)]
            with m.Case(State.REQUEST):
                m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT):
                m.d.sync += state.eq(State.HEAD)
            with m.Case(State.HEAD):
                m.d.sync += [
                    self._shadow[0].eq(word),
                    self._index.eq(1),
                    self._length.eq(self._instruction_length(word)),
                    state.eq(State.EXECUTE),
                ]
                with m.If((word[:4] == Opcode.FRAME) | (word[:4] == Opcode.RESULT) | (word[:4] == Opcode.ROW)):
                    m.d.sync += state.eq(State.BODY)
            with m.Case(State.EXECUTE):
                m.d.sync += fetch(counter + 1)
                with m.If(counter == self._architecture.program_depth_words - 1):
                    m.d.comb += fault.eq(Mux(head[:4] == Opcode.END, Fault.NONE, Fault.ADDRESS))
                with m.Switch(head[:4]):
                    with m.Case(Opcode.SET):
                        pass
                    with m.Case(Opcode.LOOP, Opcode.NEXT):
                        self._loop(m, fetch, fault)
                    with m.Case(Opcode.BEGIN):
                        m.d.sync += [
                            begin_address.eq(counter),
                            begin_rows.eq(begin.wait_rows),
                            state.eq(State.BEGIN),
                        ]
                    with m.Case(Opcode.END):
                        m.d.sync += state.eq(State.END)
                    with m.Default():
                        m.d.comb += fault.eq(Fault.OPCODE)
            with m.Case(State.BODY):
                m.d.sync += [self._shadow[self._index].eq(word), self._index.eq(self._index + 1)]
                with m.If(self._index == self._length - 1):
                    m.d.sync += [
                        counter.eq(counter + self._length),
                        state.eq(Mux(self.o_row.opcode == Opcode.ROW, State.POINTERS, State.APPLY)),
                    ]
            with m.Case(State.APPLY):
                m.d.comb += [
                    self.o_frame_configure.eq(self.o_row.opcode == Opcode.FRAME),
                    self.o_result_configure.eq(self.o_row.opcode == Opcode.RESULT),
                ]
                m.d.sync += fetch(counter)
            with m.Case(State.POINTERS):
                with m.If(self._pointer_last):
                    m.d.sync += state.eq(State.READY)
            with m.Case(State.READY):
                with m.If(self.i_row_taken):
                    m.d.sync += fetch(counter)
            with m.Case(State.BEGIN):
                with m.If(self._rows >= begin_rows):
                    m.d.comb += self._passes_begin.eq(1)
                    m.d.sync += fetch(counter)
            with m.Case(State.END):
                with m.If(drained):
                    m.d.comb += self._passes_end.eq(1)
                    m.d.sync += fetch(begin_address)

        # A ROW may start when the row before the last is done, its input is there and its output may be overwritten.
        row = self.o_row
        self._link_ready = link_ready = Signal()
        free = Mux(row.fence, in_flight == 0, in_flight <= 1)
        m.d.comb += link_ready.eq((self._rows >= row.wait_rows) & ~(row.hold_result & self.result_valid))
        m.d.sync += self.o_row_valid.eq((state == State.READY) & ~self.i_row_taken & free & link_ready)

        with m.If(self._passes_end):
            m.d.sync += [self.result_valid.eq(1), self.frames_done.eq(self.frames_done + 1)]
        with m.Elif(self.result_release):
            m.d.sync += self.result_valid.eq(0)
        with m.If(fault != Fault.NONE):
            m.d.sync += [self.fault.eq(fault), state.eq(State.STOPPED)]

    @staticmethod
    def _instruction_length(word: Value) -> Value:
        """Words of the FRAME, RESULT or ROW that begins with ``word``."""
        row = data.View(structure(isa.ROW), Cat(word, C(0, isa.ROW.width - WORD_WIDTH)))
        plain = isa.ROW.word_count
        row_length = Mux(row.add, plain + isa.ADD.word_count, Mux(row.pool, plain + isa.POOL.word_count, plain))
        other = Mux(row.opcode == Opcode.FRAME, isa.FRAME.word_count, isa.RESULT.word_count)
        return Mux(row.opcode == Opcode.ROW, row_length, other)

    def _loop(self, m: Module, fetch: object, fault: Signal) -> None:
        """LOOP and NEXT, with a stack of ``LOOP_DEPTH``."""
        counter = self._program_counter
        loop = data.View(structure(isa.LOOP), self._shadow[0][: isa.LOOP.width])
        starts = Array(Signal.like(counter, name=f"loop_start_{i}") for i in range(isa.LOOP_DEPTH))
        lefts = Array(Signal(16, name=f"loop_left_{i}", reset_less=True) for i in range(isa.LOOP_DEPTH))
        depth = self._loop_depth
        inner = Signal(range(isa.LOOP_DEPTH))
        m.d.comb += inner.eq(depth - 1)
        with m.If(loop.opcode == Opcode.LOOP):
            with m.If(depth == isa.LOOP_DEPTH):
                m.d.comb += fault.eq(Fault.LOOP)
            with m.Else():
                m.d.sync += [
                    starts[depth[: len(inner)]].eq(counter + 1),
                    lefts[depth[: len(inner)]].eq(loop.count - 1),
                    depth.eq(depth + 1),
                ]
        with m.Elif(depth == 0):
            m.d.comb += fault.eq(Fault.LOOP)
        with m.Elif(lefts[inner] == 0):
            m.d.sync += depth.eq(depth - 1)
        with m.Else():
            m.d.sync += [lefts[inner].eq(lefts[inner] - 1), *fetch(starts[inner])]

    def _count_cycles(self, m: Module) -> None:
        cycles = Signal(32)
        stalls = Signal(32)
        m.d.sync += cycles.eq(cycles + 1)
        with m.If((self._state == State.READY) & ~self._link_ready):
            m.d.sync += stalls.eq(stalls + 1)
        with m.If(self._passes_begin):
            m.d.sync += [cycles.eq(1), stalls.eq(0)]
        with m.If(self._passes_end):
            m.d.sync += [self.cycles.eq(cycles), self.stall_cycles.eq(stalls)]
