"""Fetches instructions, runs the loops and the pointers, and hands out rows when they may start."""

from __future__ import annotations

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault, Opcode
from emberline.arch.layout import WORD_WIDTH
from emberline.gateware import frame_writer, result_reader, weight_loader
from emberline.gateware.pointer_path import PointerPath, State
from emberline.gateware.program_ports import program_members
from emberline.gateware.structures import delayed, memory_output, structure

ROW_AND_MORE = data.StructLayout(
    {
        "row": data.StructLayout({**structure(isa.ROW).members, "unused": 32 * isa.ROW.word_count - isa.ROW.width}),
        "more": data.UnionLayout({"add": structure(isa.ADD), "pool": structure(isa.POOL)}),
    }
)
"""A fetched ROW, with the fields of its ADD or POOL if it has one."""


class Sequencer(PointerPath):
    """Executes a program; a ROW is handed out with its three addresses resolved.

    A ROW is handed out when at most one other ROW is in flight, or none if it has ``fence``; when ``wait_rows`` frame
    rows are there; and, if it has ``hold_result``, when the last frame's result has been released.

    Members: those of `program_members`, and:
        o_row, o_add, o_pool: the ROW, its ADD fields, its POOL fields.
        o_load, o_load_valid: a LOAD that is queued, not while i_loads_pending is ``isa.LOAD_QUEUE``. i_loads_pending,
            i_weights_pending, i_pages_pending: those that are not complete, all or by kind; i_load_late: the one under
            way takes longer than announced; i_load_fault: stop.
        o_source, o_target, o_third: addresses in groups; the third is the residual's or the copy's.
        o_row_valid: it may start; i_row_taken: it does; i_ready: it could.
        i_row_end: the ROW being walked has read its last word.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        # Instructions of more than one word
        self._long = [Opcode.FRAME, Opcode.RESULT, Opcode.ROW] + architecture.streams * [Opcode.LOAD]
        super().__init__(
            program_members(architecture)
            | {
                "o_row": Out(ROW_AND_MORE["row"].shape),
                "o_add": Out(structure(isa.ADD)),
                "o_pool": Out(structure(isa.POOL)),
                "o_load": Out(weight_loader.LOAD),
                "o_load_valid": Out(1),
                "i_loads_pending": In(range(isa.LOAD_QUEUE + 1)),
                "i_weights_pending": In(range(isa.LOAD_QUEUE + 1)),
                "i_pages_pending": In(range(isa.LOAD_QUEUE + 1)),
                "i_load_late": In(1),
                "i_load_fault": In(Fault),
                "o_source": Out(isa.ADDRESS_WIDTH),
                "o_target": Out(isa.ADDRESS_WIDTH),
                "o_third": Out(isa.ADDRESS_WIDTH),
                "o_row_valid": Out(1),
                "i_row_taken": In(1),
                "i_ready": In(1),
                "i_row_end": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state = Signal(State)
        self._loop_depth = Signal(range(isa.LOOP_DEPTH + 1))
        self._length = Signal(range(32), reset_less=True)  # words of the instruction
        self._body_left = Signal(signed(6), reset_less=True)  # cycles in BODY, less one
        self._address = Signal(range(self._architecture.program_depth_words))
        self._shadow = Array(
            Signal(WORD_WIDTH, name=f"word_{i}", reset_less=True)
            for i in range(isa.ROW.word_count + isa.ADD.word_count)
        )
        self._begin_ready = Signal()
        self._kinds = {opcode: Signal(name=f"is_{opcode.name.lower()}", reset_less=True) for opcode in Opcode}
        self._unknown = Signal(reset_less=True)
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
        word = memory_output(m, read.data, family=self._architecture.family, name="word")
        # From there to registers that may be anywhere
        self._word = delayed(m, word, 1, name="word_on_its_way")

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
        load = data.View(structure(isa.LOAD), shadow[: isa.LOAD.width])
        m.d.comb += [self.o_result[name].eq(result[name]) for name, _ in result_reader.SETTINGS]
        m.d.comb += [self.o_load[name].eq(load[name]) for name, _ in weight_loader.LOAD]
        opcode = self._shadow[0][:4]
        m.d.sync += [kind.eq(opcode == code) for code, kind in self._kinds.items()]
        fetching = (Opcode.LOAD, Opcode.JUMP)
        known = [each for each in Opcode if each not in fetching or self._architecture.streams]
        m.d.sync += self._unknown.eq(~opcode.matches(*known))

    def _count_rows(self, m: Module) -> None:
        """Frame rows that are there and that no issued ROW has given up."""
        self._rows = rows = Signal(frame_writer.ROW_COUNT_WIDTH)
        taken = delayed(m, self.i_row_taken, 1, name="taken", reset=True)
        release = Signal(8, reset_less=True)
        change = Signal(signed(frame_writer.ROW_COUNT_WIDTH + 2))
        m.d.sync += [
            rows.eq(rows + change),
            change.eq(Mux(self.i_rows, self.i_rows_count, 0) - Mux(taken, self.o_row.release_rows, 0)),
        ]
        with m.If(taken):
            m.d.sync += release.eq(self.o_row.release_rows)
        m.d.comb += [self.o_release.eq(self.i_row_end), self.o_release_count.eq(release)]

    def _control(self, m: Module) -> None:
        state, kinds, head = self._state, self._kinds, self._shadow[0]
        begin = data.View(structure(isa.BEGIN), head[: isa.BEGIN.width])
        jump = data.View(structure(isa.JUMP), head[: isa.JUMP.width])
        self._program_counter = counter = Signal.like(self._address)
        # The addresses of the next instruction, of the one behind the body, of BEGIN; and where GO goes
        following, behind, begin_address = (
            Signal.like(counter, name=name, reset_less=True) for name in ("following", "behind", "begin_address")
        )
        self._target = target = Signal.like(counter, reset_less=True)
        begin_rows = Signal(12, reset_less=True)
        in_flight = Signal(2)
        at_end = Signal()
        m.d.sync += [
            in_flight.eq(in_flight + self.i_row_taken - self.i_row_done),
            following.eq(counter + 1),
            behind.eq(counter + self._length),
            at_end.eq(counter == self._architecture.program_depth_words - 1),
        ]
        self._passes_begin = Signal()
        self._passes_end = Signal()
        self._page_there = Signal()
        fault = Signal(Fault)

        # Words arrive three cycles after their address, one each cycle; each is kept as it comes. What comes behind the
        # instruction is kept too, where nobody looks.
        m.d.sync += self._address.eq(self._address + 1)
        keep: Value = delayed(m, state == State.ARRIVE, 1, name="keep_0")
        for index, kept in enumerate(self._shadow):
            with m.If(keep):
                m.d.sync += kept.eq(self._word)
            keep = delayed(m, keep, 1, name=f"keep_{index + 1}")

        with m.Switch(state):
            with m.Case(State.STOPPED):
                m.d.sync += target.eq(0)
                with m.If(self.start):
                    m.d.sync += [
                        state.eq(State.GO),
                        self.running.eq(1),
                        self.fault.eq(Fault.NONE),
                        self._loop_depth.eq(0),
                    ]
            with m.Case(State.GO):
                m.d.sync += [self._address.eq(target), counter.eq(target), state.eq(State.REQUEST)]
            with m.Case(State.REQUEST):
                m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT):
                m.d.sync += state.eq(State.ARRIVE)
            with m.Case(State.ARRIVE):
                m.d.sync += state.eq(State.HEAD)
            with m.Case(State.HEAD):
                m.d.sync += state.eq(State.DECODE)
            with m.Case(State.DECODE):
                m.d.sync += state.eq(State.EXECUTE)
                with m.If(head[:4].matches(*self._long)):
                    m.d.sync += state.eq(State.BODY)
            with m.Case(State.EXECUTE):
                m.d.sync += [target.eq(following), state.eq(State.GO)]
                with m.If(at_end & ~kinds[Opcode.END] & ~kinds[Opcode.JUMP]):
                    m.d.comb += fault.eq(Fault.ADDRESS)
                with m.If(kinds[Opcode.BEGIN]):
                    m.d.sync += [begin_address.eq(counter), begin_rows.eq(begin.wait_rows), state.eq(State.BEGIN)]
                with m.If(kinds[Opcode.END]):
                    m.d.sync += [target.eq(begin_address), state.eq(State.END)]
                if self._architecture.streams:
                    with m.If(kinds[Opcode.JUMP]):
                        m.d.sync += state.eq(State.JUMP)
                with m.If(self._unknown):
                    m.d.comb += fault.eq(Fault.OPCODE)
            with m.Case(State.BODY):
                m.d.sync += self._body_left.eq(self._body_left - 1)
                with m.If(self._body_left[-1]):
                    m.d.sync += state.eq(Mux(kinds[Opcode.ROW], State.POINTERS, State.APPLY))
                    if self._architecture.streams:
                        with m.If(kinds[Opcode.LOAD]):
                            m.d.sync += state.eq(State.LOAD)
            with m.Case(State.APPLY):
                m.d.sync += [target.eq(behind), state.eq(State.GO)]
            if self._architecture.streams:
                with m.Case(State.LOAD):
                    m.d.sync += target.eq(behind)
                    with m.If(self.i_loads_pending != isa.LOAD_QUEUE):
                        m.d.comb += self.o_load_valid.eq(1)
                        m.d.sync += state.eq(State.GO)
                with m.Case(State.JUMP):
                    m.d.sync += target.eq(jump.address)
                    with m.If(self._page_there):
                        m.d.sync += state.eq(State.GO)
            with m.Case(State.POINTERS):
                m.d.sync += target.eq(behind)
                with m.If(self._pointer_last):
                    m.d.sync += state.eq(State.READY)
            with m.Case(State.READY):
                with m.If(self.i_row_taken):
                    m.d.sync += state.eq(State.GO)
            with m.Case(State.BEGIN):
                with m.If(self._begin_ready):
                    m.d.comb += self._passes_begin.eq(1)
                    m.d.sync += state.eq(State.GO)
            with m.Case(State.END):
                with m.If(in_flight == 0):
                    m.d.comb += self._passes_end.eq(1)
                    m.d.sync += state.eq(State.GO)
        self._loop(m, fault)
        with m.If(state == State.DECODE):
            length = self._instruction_length(head)
            m.d.sync += [self._length.eq(length), self._body_left.eq(length - 4)]
        applies = state == State.APPLY
        m.d.sync += [
            self.o_frame_configure.eq(applies & kinds[Opcode.FRAME]),
            self.o_result_configure.eq(applies & kinds[Opcode.RESULT]),
        ]

        # A ROW may start when the row before the last is done, its input is there and its output may be overwritten.
        row = self.o_row
        self._link_ready = link_ready = Signal()
        waits = state == State.BEGIN
        m.d.sync += [
            link_ready.eq((self._rows >= row.wait_rows) & ~(row.hold_result & self.result_valid)),
            self._begin_ready.eq(waits & (self._rows >= begin_rows) & ~self._begin_ready),
        ]
        self._free = free = (in_flight == 0) | (~row.fence & ~in_flight[1])
        self._loaded = loaded = Signal(init=1)
        if self._architecture.streams:
            m.d.sync += loaded.eq((self.i_weights_pending <= row.loads) | row.loads.all())
            m.d.sync += self._page_there.eq(self.i_pages_pending == 0)
            with m.If((self.i_load_fault != Fault.NONE) & (state != State.STOPPED)):
                m.d.comb += fault.eq(self.i_load_fault)
        m.d.sync += self.o_row_valid.eq((state == State.READY) & ~self.i_row_taken & free & link_ready & loaded)

        # A cycle later. A ROW that is still taken meanwhile waits for nothing that is at fault.
        raised = Signal(Fault)
        m.d.sync += raised.eq(fault)
        with m.If(raised != Fault.NONE):
            m.d.sync += [self.fault.eq(raised), self.running.eq(0), state.eq(State.STOPPED)]

    def _instruction_length(self, word: Value) -> Value:
        """Words of the FRAME, RESULT, LOAD or ROW that begins with ``word``."""
        row = data.View(structure(isa.ROW), Cat(word, C(0, isa.ROW.width - WORD_WIDTH)))
        plain = isa.ROW.word_count
        row_length = Mux(row.add, plain + isa.ADD.word_count, Mux(row.pool, plain + isa.POOL.word_count, plain))
        other = Mux(row.opcode == Opcode.FRAME, isa.FRAME.word_count, isa.RESULT.word_count)
        if self._architecture.streams:
            other = Mux(row.opcode == Opcode.LOAD, isa.LOAD.word_count, other)
        return Mux(row.opcode == Opcode.ROW, row_length, other)

    def _loop(self, m: Module, fault: Signal) -> None:
        """LOOP and NEXT, with a stack of ``LOOP_DEPTH``; what they rest on has been in registers since the last one."""
        loop = data.View(structure(isa.LOOP), self._shadow[0][: isa.LOOP.width])
        starts = Array(Signal.like(self._target, name=f"loop_start_{i}") for i in range(isa.LOOP_DEPTH))
        lefts = Array(Signal(16, name=f"loop_left_{i}", reset_less=True) for i in range(isa.LOOP_DEPTH))
        depth = self._loop_depth
        inner = Signal(range(isa.LOOP_DEPTH))
        start = Signal.like(self._target, reset_less=True)
        left, less, count_less = (Signal(16, name=name, reset_less=True) for name in ("left", "less", "count_less"))
        full, empty, ends = (Signal(name=f"loops_{name}", reset_less=True) for name in ("full", "empty", "ended"))
        following = Signal.like(self._target, reset_less=True)
        m.d.sync += [
            inner.eq(depth - 1),
            start.eq(starts[inner]),
            left.eq(lefts[inner]),
            less.eq(left - 1),
            ends.eq(left == 0),
            full.eq(depth == isa.LOOP_DEPTH),
            empty.eq(depth == 0),
            count_less.eq(loop.count - 1),
            following.eq(self._program_counter + 1),
        ]
        is_depth, is_inner = (Signal(isa.LOOP_DEPTH, name=name, reset_less=True) for name in ("is_depth", "is_inner"))
        executes = Signal()  # NEXT and LOOP, as any instruction of one word
        m.d.sync += executes.eq((self._state == State.DECODE) & ~self._shadow[0][:4].matches(*self._long))
        m.d.sync += [is_depth[index].eq(depth == index) for index in range(isa.LOOP_DEPTH)]
        m.d.sync += [is_inner[index].eq(inner == index) for index in range(isa.LOOP_DEPTH)]
        opens = executes & self._kinds[Opcode.LOOP]
        repeats = executes & self._kinds[Opcode.NEXT]
        with m.If((opens & full) | (repeats & empty)):
            m.d.comb += fault.eq(Fault.LOOP)
        with m.If(opens & ~full):
            m.d.sync += depth.eq(depth + 1)
        with m.If(repeats & ends):
            m.d.sync += depth.eq(depth - 1)
        with m.If(repeats & ~ends):
            m.d.sync += self._target.eq(start)
        for index in range(isa.LOOP_DEPTH):
            with m.If(opens & is_depth[index]):
                m.d.sync += [starts[index].eq(following), lefts[index].eq(count_less)]
            with m.If(repeats & is_inner[index]):
                m.d.sync += lefts[index].eq(less)

    def _count_cycles(self, m: Module) -> None:
        cycles, stalls = Signal(32, reset_less=True), Signal(32, reset_less=True)
        waits: Value = ~self._link_ready
        if self._architecture.streams:
            late = delayed(m, self.i_load_late, 1, name="late", reset=True)
            waits = Mux(self._loaded, waits, late)
        could = (self._state == State.READY) & self._free
        blocked = delayed(m, could & waits, 1, name="blocked", reset=True)
        held: Value = C(0)
        if self._architecture.streams:
            jumps = (self._state == State.JUMP) & ~self._page_there
            held = delayed(m, jumps & late, 1, name="held", reset=True)
        begins, ends, stalled = (
            delayed(m, value, 1, name=name, reset=True)
            for value, name in (
                (self._passes_begin, "begins"),
                (self._passes_end, "ends"),
                ((blocked & self.i_ready) | held, "stalled"),
            )
        )
        m.d.sync += [cycles.eq(cycles + 1), stalls.eq(stalls + stalled)]
        with m.If(begins):
            m.d.sync += [cycles.eq(1), stalls.eq(0)]
        with m.If(ends):
            m.d.sync += [
                self.cycles.eq(cycles),
                self.stall_cycles.eq(stalls),
                self.result_valid.eq(1),
                self.frames_done.eq(self.frames_done + 1),
            ]
        with m.Elif(self.result_release):
            m.d.sync += self.result_valid.eq(0)
