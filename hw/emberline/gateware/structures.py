"""Hardware structures derived from the layouts of ``emberline.arch``, and the pipeline helpers that all units share."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed, unsigned
from amaranth.lib import data

from emberline.arch.layout import Layout
from emberline.gateware.ecp5 import flip_flop


def structure(*layouts: Layout, skip: tuple[str, ...] = ()) -> data.StructLayout:
    """The fields of one or more layouts, in order, as an Amaranth structure without the fields in ``skip``."""
    return data.StructLayout(
        {
            field.name: signed(field.width) if field.signed else unsigned(field.width)
            for layout in layouts
            for field in layout.fields
            if field.name not in skip
        }
    )


def delayed(m: Module, value: Value, cycles: int, *, name: str, reset: bool = False) -> Value:
    """``value`` after ``cycles`` registers; signedness is kept. ``reset`` for control, none for data."""
    for index in range(cycles):
        stage = Signal(value.shape(), name=f"{name}_{index + 1}", reset_less=not reset)
        m.d.sync += stage.eq(value)
        value = stage
    return value


def copies(m: Module, value: Value, count: int, *, family: str, name: str) -> list[Value]:
    """``count`` registers of ``value``, one cycle later, for loads that lie far apart or are many; none is reset.

    On ECP5 these are primitives: yosys would make one register of them again. Other tools duplicate by themselves.
    """
    if family != "ecp5":
        return [delayed(m, value, 1, name=name)] * count
    value = Value.cast(value)
    registers: list[Value] = []
    for index in range(count):
        register = Signal(value.shape(), name=f"{name}_copy_{index}")
        for bit in range(len(value)):
            m.submodules += flip_flop.instance(value[bit], register[bit])
        registers.append(register)
    return registers


def memory_output(m: Module, word: Value, *, family: str, name: str) -> Value:
    """A block memory's word after its output register, one cycle after the read port.

    On ECP5 the register is the one inside the memory: the build sets ``REGMODE`` to ``OUTREG`` in every ``DP16KD``
    (Lattice TN1264, *ECP5 Memory Usage Guide*), because the tools do not move a register from the fabric into it. So
    every block memory in this design must be read through this function.
    """
    if family == "ecp5":
        return word
    return delayed(m, word, 1, name=name)


def tree_sum(m: Module, terms: list[Value], *, name: str) -> Value:
    """The sum of ``terms`` through a balanced tree with a register after each level: ``ceil_log2(len)`` cycles."""
    level = 0
    while len(terms) > 1:
        level += 1
        sums = []
        for index in range(0, len(terms) - 1, 2):
            total = terms[index] + terms[index + 1]
            register = Signal(total.shape(), name=f"{name}_{level}_{index // 2}", reset_less=True)
            m.d.sync += register.eq(total)
            sums.append(register)
        if len(terms) % 2:
            sums.append(delayed(m, terms[-1], 1, name=f"{name}_{level}_odd"))
        terms = sums
    return terms[0]
