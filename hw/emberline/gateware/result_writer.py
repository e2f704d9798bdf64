"""Where results go: target addresses for the groups that come out of the requantisers."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH

LATENCY = 1
"""Cycles from a group to its write command; a copy's follows in the next cycle."""

SETTINGS = data.StructLayout(
    {
        "target": ADDRESS_WIDTH,
        "target_pixel_step": 12,  # less ``groups_per_word - 1`` if depthwise
        "depthwise": 1,
        "columns": 12,
        "groups": 12,
        "copy": 1,
        "copy_distance": ADDRESS_WIDTH,  # from a group's address to its copy's, modulo 2 ** ADDRESS_WIDTH
    }
)
"""Address of the first group and the shape of a ROW's target, in stored columns."""


class ResultWriter(wiring.Component):
    """Gives each group of a ROW its address: ``target + group + column * target_pixel_step``, columns innermost.

    In depthwise ROWs the ``groups_per_word`` groups of a word are innermost, then columns, then words: ``groups`` is
    the number of words.

    Members:
        i_valid, i_group, i_context: a group and its instruction. Always accepted; with ``copy`` not in two cycles in
            succession.
        i_copy: what is stored as the copy, if the instruction has one.
        settings: of the two instructions in flight.
        o_valid, o_address, o_group: the write, one cycle later.
        o_done: with the last write of an instruction.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._groups_per_word = architecture.groups_per_word
        group = 8 * architecture.lanes_out
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(group),
                "i_copy": In(group),
                "i_context": In(1),
                "settings": In(data.ArrayLayout(SETTINGS, 2)),
                "o_valid": Out(1),
                "o_address": Out(range(architecture.activation_depth_groups)),
                "o_group": Out(group),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings = Signal(SETTINGS)
        m.d.comb += settings.eq(self.settings[self.i_context])
        first = Signal(init=1)
        column, group = Signal(12), Signal(12)
        base, address, now, base_now = (
            Signal.like(self.o_address, name=name) for name in ("base", "address", "now", "base_now")
        )
        columns_left, groups_left = Signal(12), Signal(12)
        with m.If(first):
            m.d.comb += [
                now.eq(settings.target),
                base_now.eq(settings.target),
                columns_left.eq(settings.columns - 1),
                groups_left.eq(settings.groups - 1),
            ]
        with m.Else():
            m.d.comb += [now.eq(address), base_now.eq(base), columns_left.eq(column), groups_left.eq(group)]

        copying, copy_ends = Signal(), Signal()
        copy_address = Signal.like(self.o_address, reset_less=True)
        copy_group = Signal.like(self.i_copy, reset_less=True)
        group_in_word = Signal(range(max(2, self._groups_per_word)))
        pixel_ends = Signal()
        m.d.comb += pixel_ends.eq(~settings.depthwise | (group_in_word == self._groups_per_word - 1))
        last = Signal()
        m.d.comb += last.eq(self.i_valid & (columns_left == 0) & (groups_left == 0) & pixel_ends)
        m.d.sync += [
            self.o_valid.eq(self.i_valid | copying),
            self.o_done.eq(Mux(copying, copy_ends, last & ~settings.copy)),
            self.o_group.eq(Mux(copying, copy_group, self.i_group)),
            self.o_address.eq(Mux(copying, copy_address, now)),
            copying.eq(self.i_valid & settings.copy),
            copy_ends.eq(last),
            copy_group.eq(self.i_copy),
            copy_address.eq(now + settings.copy_distance),
        ]
        with m.If(self.i_valid):
            m.d.sync += [
                address.eq(now + Mux(pixel_ends, settings.target_pixel_step, 1)),
                base.eq(base_now),
                column.eq(columns_left - pixel_ends),
                group.eq(groups_left),
                group_in_word.eq(Mux(pixel_ends, 0, group_in_word + 1)),
                first.eq(last),
            ]
            with m.If((columns_left == 0) & pixel_ends):
                step = Mux(settings.depthwise, self._groups_per_word, 1)
                m.d.sync += [
                    address.eq(base_now + step),
                    base.eq(base_now + step),
                    column.eq(settings.columns - 1),
                    group.eq(groups_left - 1),
                ]
        return m
