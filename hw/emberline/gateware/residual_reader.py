"""Fetches the groups that a residual addition needs, ahead of the results they are added to."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH
from emberline.arch.pooled_row import READ_AHEAD
from emberline.gateware.structures import delayed

DEPTH = READ_AHEAD
"""Groups that are read ahead."""

SETTINGS = data.StructLayout(
    {"residual": ADDRESS_WIDTH, "residual_pixel_step": 12, "columns": signed(13), "groups": signed(13)}
)
"""Address of the first group, and the shape of a ROW's target; ``columns`` and ``groups`` less two."""


class ResidualReader(wiring.Component):
    """Reads ``residual + group + column * residual_pixel_step``, columns innermost, into a FIFO of ``DEPTH`` groups.

    Members:
        i_start: a ROW with a residual addition begins; ``i_settings`` is its geometry. Two may be pending.
        o_valid, o_address: request to the activation buffer, in words; ``i_ready`` accepts it.
        i_done, i_word: the words, in the order of their requests.
        o_group: the oldest group; ``i_take`` removes it. It is there before the result that it is added to, because
            results come no faster than one group in ``lanes_out`` cycles and reads start with the instruction.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "i_start": In(1),
                "i_settings": In(SETTINGS),
                "o_valid": Out(1),
                "o_address": Out(range(architecture.activation_depth_words)),
                "i_ready": In(1),
                "i_done": In(1),
                "i_word": In(8 * architecture.lanes_in),
                "o_group": Out(8 * architecture.lanes_out),
                "i_take": In(1),
                "o_empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        group_bits = architecture.groups_per_word.bit_length() - 1
        pending = Signal(SETTINGS, reset_less=True)
        pending_valid = Signal()
        shape = Signal(SETTINGS, reset_less=True)
        busy = Signal()
        next_base, address = (
            Signal(range(architecture.activation_depth_groups), name=name, reset_less=True)
            for name in ("next_base", "address")
        )
        column, group = (Signal(signed(13), name=name, reset_less=True) for name in ("column", "group"))
        room = Signal(signed(ceil_log2(DEPTH) + 2), init=DEPTH - 1)  # less one

        with m.If(self.i_start):
            m.d.sync += [pending.eq(self.i_settings), pending_valid.eq(1)]
        with m.If(~busy & pending_valid):
            m.d.sync += [
                shape.eq(pending),
                next_base.eq(pending.residual + 1),
                address.eq(pending.residual),
                column.eq(pending.columns),
                group.eq(pending.groups),
                busy.eq(1),
                pending_valid.eq(self.i_start),
            ]
        accepted = Signal()
        m.d.comb += [
            self.o_valid.eq(busy & ~room[-1]),
            self.o_address.eq(address >> group_bits),
            accepted.eq(self.o_valid & self.i_ready),
        ]
        with m.If(accepted):
            m.d.sync += [address.eq(address + shape.residual_pixel_step), column.eq(column - 1)]
            with m.If(column[-1]):
                m.d.sync += [
                    next_base.eq(next_base + 1),
                    address.eq(next_base),
                    column.eq(shape.columns),
                    group.eq(group - 1),
                    busy.eq(~group[-1]),
                ]
        m.d.sync += room.eq(room - accepted + self.i_take)

        # Which group of the word, in the order of the requests
        m.submodules.which = order = SyncFIFO(width=max(1, group_bits), depth=DEPTH)
        which = order.r_data[:group_bits]
        m.d.comb += [
            order.w_data.eq(delayed(m, address[:group_bits], 1, name="which")),
            order.w_en.eq(delayed(m, accepted, 1, name="accepted", reset=True)),
            order.r_en.eq(self.i_done),
        ]
        m.submodules.fifo = fifo = SyncFIFO(width=8 * architecture.lanes_out, depth=DEPTH)
        m.d.comb += [
            fifo.w_data.eq(self.i_word.word_select(which, 8 * architecture.lanes_out)),
            fifo.w_en.eq(self.i_done),
            self.o_group.eq(fifo.r_data),
            fifo.r_en.eq(self.i_take),
            self.o_empty.eq(~fifo.r_rdy),
        ]
        return m
