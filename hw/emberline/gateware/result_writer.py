"""Where results go: target addresses for the groups that come out of the requantisers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH
from emberline.gateware.structures import delayed

LATENCY = 2
"""Cycles from a group to its write command; a copy's follows in the next cycle."""

SETTINGS = data.StructLayout(
    {
        "target": ADDRESS_WIDTH,
        "target_pixel_step": ADDRESS_WIDTH,  # from a column's last group to the next one's first, modulo as below
        "depthwise": 1,
        "column_groups": 4,  # groups that come for each column, less one
        "pair": 1,  # a column's groups are those of two rows
        "second_step": ADDRESS_WIDTH,  # from the first one's last group to the second one's first, modulo as below
        "columns": signed(13),  # less two
        "groups": signed(13),  # less two
        "copy": 1,
        "copy_distance": ADDRESS_WIDTH,  # from a group's address to its copy's, modulo 2 ** ADDRESS_WIDTH
    }
)
"""Address of the first group and the shape of a ROW's target, in stored columns."""


class ResultWriter(wiring.Component):
    """Gives each group of a ROW its address: ``target + group + column * target_pixel_step``, columns innermost.

    In depthwise ROWs the ``groups_per_word`` groups of a word are innermost, then columns, then words: ``groups`` is
    the number of words. With ``pair`` as many groups of a second row, ``copy_distance`` further, follow those of a
    column.

    Members:
        i_valid, i_group: a group. Always accepted; with ``copy`` not in two cycles in succession, and from a ROW to
            the next one not in three.
        i_copy: what is stored as the copy, if the instruction has one.
        settings: of the two instructions in flight. ROWs take them in turns.
        o_valid, o_address, o_group: the write, ``LATENCY`` cycles later.
        o_done: with the last write of an instruction.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._groups_per_word = architecture.groups_per_word
        self._column_groups = architecture.groups_per_word * (1 + architecture.pairs_rows)
        group = 8 * architecture.lanes_out
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(group),
                "i_copy": In(group),
                "settings": In(data.ArrayLayout(SETTINGS, 2)),
                "o_valid": Out(1),
                "o_address": Out(range(architecture.activation_depth_groups)),
                "o_group": Out(group),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waiting = Signal(init=1)  # for the first group of a ROW
        context = Signal()
        settings = Signal(SETTINGS, reset_less=True)
        columns, groups = (Signal(signed(13), name=name, reset_less=True) for name in ("columns", "groups"))
        address, next_base = (Signal.like(self.o_address, name=n, reset_less=True) for n in ("address", "next_base"))
        loaded = self.settings[context]
        word = Mux(loaded.depthwise, self._groups_per_word, 1)
        pixel_ends, column_ends = Const(1), columns[-1]
        step: Value = settings.target_pixel_step
        if self._column_groups > 1:
            # Which group of its column comes next, and what follows from that, in time.
            group, next_group = (Signal(range(self._column_groups), name=n) for n in ("group_index", "next_group"))
            pixel_ends, step = Signal(name="pixel_ends"), Signal(ADDRESS_WIDTH, name="step", reset_less=True)
            column_ends = pixel_ends & columns[-1]
            m.d.comb += next_group.eq(Mux(pixel_ends, 0, group + 1))
            with m.If(self.i_valid):
                m.d.sync += [group.eq(next_group), *self._look_ahead(pixel_ends, step, next_group, settings)]
            with m.Elif(waiting):
                m.d.sync += self._look_ahead(pixel_ends, step, Const(0, len(group)), loaded)
        last = Signal()
        m.d.comb += last.eq(column_ends & groups[-1])
        with m.If(self.i_valid):
            m.d.sync += [
                waiting.eq(last),
                context.eq(context ^ last),
                address.eq(address + step[: len(address)]),
                columns.eq(columns - pixel_ends),
            ]
            with m.If(column_ends):
                m.d.sync += [
                    address.eq(next_base),
                    next_base.eq(next_base + Mux(settings.depthwise, self._groups_per_word, 1)),
                    columns.eq(settings.columns),
                    groups.eq(groups - 1),
                ]
        with m.Elif(waiting):
            m.d.sync += [
                settings.eq(loaded),
                address.eq(loaded.target),
                next_base.eq(loaded.target + word),
                columns.eq(loaded.columns),
                groups.eq(loaded.groups),
            ]
        # Cycle 1
        valid = delayed(m, self.i_valid, 1, name="valid", reset=True)
        ends = delayed(m, last, 1, name="ends")
        copies_it = delayed(m, settings.copy, 1, name="copies")
        distance = delayed(m, settings.copy_distance, 1, name="distance")
        group, copy = delayed(m, self.i_group, 1, name="group"), delayed(m, self.i_copy, 1, name="copy")
        at = delayed(m, address, 1, name="at")
        # Cycle 2, and 3 for a copy
        copying = delayed(m, valid & copies_it, 1, name="copying", reset=True)
        copy_ends = delayed(m, ends, 1, name="copy_ends")
        copy_address = delayed(m, (at + distance)[: len(at)], 1, name="copy_address")
        copy_group = delayed(m, copy, 1, name="copy_group")
        valid_out, done_out = Signal(), Signal()
        group_out, address_out = Signal.like(self.o_group, reset_less=True), Signal.like(at, reset_less=True)
        m.d.sync += [
            valid_out.eq(valid | copying),
            done_out.eq(Mux(copying, copy_ends, valid & ends & ~copies_it)),
            group_out.eq(Mux(copying, copy_group, group)),
            address_out.eq(Mux(copying, copy_address, at)),
        ]
        m.d.comb += [
            self.o_valid.eq(valid_out),
            self.o_done.eq(done_out),
            self.o_group.eq(group_out),
            self.o_address.eq(address_out),
        ]
        return m

    def _look_ahead(self, pixel_ends: Signal, step: Signal, group: Value, settings: data.View) -> list[Any]:
        """Whether a column ends with this group of it, and the step to the address of the one behind it."""
        ends = group == settings.column_groups[: len(group)]
        within: Value = Const(1, ADDRESS_WIDTH)
        if self._column_groups > self._groups_per_word:
            within = Mux(settings.pair & (group == self._groups_per_word - 1), settings.second_step, 1)
        return [pixel_ends.eq(ends), step.eq(Mux(ends, settings.target_pixel_step, within))]
