"""Pointers of a program: the operands of a ROW take theirs, and move them on."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory

from emberline.arch import isa
from emberline.arch.isa import Opcode
from emberline.gateware.structures import delayed, structure

OPERANDS = ("source", "target", "residual")
"""The third operand is the residual of an ADD or the copy of a POOL: their pointer fields are the same bits."""


class State(enum.Enum):
    """What the sequencer does."""

    STOPPED = 0
    GO = 1
    REQUEST = 2
    WAIT = 3
    ARRIVE = 4
    HEAD = 5
    DECODE = 6
    EXECUTE = 7
    BODY = 8
    APPLY = 9
    POINTERS = 10
    READY = 11
    BEGIN = 12
    END = 13
    LOAD = 14
    JUMP = 15


class PointerPath(wiring.Component):
    """The part of `Sequencer` that has the pointers."""

    def _pointer_writes(self, m: Module) -> None:
        m.submodules.pointers = pointers = Memory(shape=unsigned(isa.ADDRESS_WIDTH), depth=isa.POINTER_COUNT, init=[])
        self._pointer_write = pointers.write_port()
        self._pointer_read = pointers.read_port(domain="comb")

    def _resolve_pointers(self, m: Module) -> None:
        """POINTERS: each operand takes its pointer and moves it on, five cycles deep, one operand after the other."""
        self._operand = operand = Signal(range(8))
        fields = {"source": self.o_row, "target": self.o_row, "residual": self.o_add}
        last_operand = Mux(self.o_row.add | self.o_row.pool, 2, 1)

        def field(name: str, index: Value) -> Value:
            return Array(fields[each][f"{each}_{name}"] for each in OPERANDS)[index]

        active = self._state == State.POINTERS
        operands = [operand[:2]]
        valids = [active & (operand <= last_operand)]
        for stage in range(1, 6):
            operands.append(delayed(m, operands[-1], 1, name=f"operand_{stage}"))
            valids.append(delayed(m, valids[-1], 1, name=f"operand_valid_{stage}"))
        # Cycle 1: which pointer
        pointer = delayed(m, field("pointer", operands[0]), 1, name="pointer")
        # Cycle 2: read
        value = Signal(isa.ADDRESS_WIDTH, reset_less=True)
        m.d.comb += self._pointer_read.addr.eq(pointer)
        m.d.sync += value.eq(self._pointer_read.data)
        step = delayed(m, field("step", operands[1]), 1, name="step")
        # Cycle 3: step
        for index, target in enumerate((self.o_source, self.o_target, self.o_third)):
            address = Signal(isa.ADDRESS_WIDTH, name=f"address_{index}", reset_less=True)
            with m.If(valids[2] & (operands[2] == index)):
                m.d.sync += address.eq(value)
            m.d.comb += target.eq(address)
        total = Signal(isa.ADDRESS_WIDTH + 1, reset_less=True)
        m.d.sync += total.eq(value + step)
        end = delayed(m, field("end", operands[2]), 1, name="end")
        # Cycle 4: how far beyond the end
        beyond = Signal(isa.ADDRESS_WIDTH + 2, reset_less=True)
        m.d.sync += beyond.eq(total - end)
        start = delayed(m, field("start", operands[3]), 1, name="start")
        # Cycle 5: wrap; then write back
        total = delayed(m, total, 1, name="total")
        wrapped = Signal(isa.ADDRESS_WIDTH, reset_less=True)
        m.d.sync += wrapped.eq(Mux(beyond[-1], total, beyond + start))
        pointers = [pointer]
        for stage in range(2, 6):
            pointers.append(delayed(m, pointers[-1], 1, name=f"pointer_{stage}"))
        self._pointer_last = valids[5] & (operands[5] == last_operand)
        setting = data.View(structure(isa.SET), self._shadow[0][: isa.SET.width])
        is_set = (self._state == State.EXECUTE) & self._kinds[Opcode.SET]
        m.d.comb += [
            self._pointer_write.en.eq(valids[5] | is_set),
            self._pointer_write.addr.eq(Mux(valids[5], pointers[-1], setting.pointer)),
            self._pointer_write.data.eq(Mux(valids[5], wrapped, setting.value)),
        ]
        with m.If(active):
            m.d.sync += operand.eq(operand + 1)
        with m.Else():
            m.d.sync += operand.eq(0)
