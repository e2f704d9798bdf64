"""Fetches the groups that a residual addition needs, ahead of the results they are added to."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH
from emberline.arch.timing import READ_AHEAD
from emberline.gateware.activation_buffer import SHARED_READ_LATENCY
from emberline.gateware.structures import delayed

DEPTH = READ_AHEAD
"""Groups that are read ahead."""

SETTINGS = data.StructLayout({"residual": ADDRESS_WIDTH, "residual_pixel_step": 12, "columns": 12, "groups": 12})


class ResidualReader(wiring.Component):
    """Reads ``residual + group + column * residual_pixel_step``, columns innermost, into a FIFO of ``DEPTH`` groups.

    Members:
        i_start: a ROW with a residual addition begins; ``i_settings`` is its geometry. Two may be pending.
        o_valid, o_address: request to the activation buffer, in words; ``i_ready`` accepts it.
        i_done, i_word: the word, ``SHARED_READ_LATENCY`` cycles after its request was accepted.
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
        base = Signal(range(architecture.activation_depth_groups))
        address = Signal(range(architecture.activation_depth_groups))
        column = Signal(12)
        group = Signal(12)
        room = Signal(range(DEPTH + 1), init=DEPTH)

        with m.If(self.i_start):
            m.d.sync += [pending.eq(self.i_settings), pending_valid.eq(1)]
        with m.If(~busy & pending_valid):
            m.d.sync += [
                shape.eq(pending),
                base.eq(pending.residual),
                address.eq(pending.residual),
                column.eq(pending.columns - 1),
                group.eq(pending.groups - 1),
                busy.eq(1),
                pending_valid.eq(self.i_start),
            ]
        accepted = Signal()
        m.d.comb += [
            self.o_valid.eq(busy & (room != 0)),
            self.o_address.eq(address >> group_bits),
            accepted.eq(self.o_valid & self.i_ready),
        ]
        with m.If(accepted):
            m.d.sync += [address.eq(address + shape.residual_pixel_step), column.eq(column - 1)]
            with m.If(column == 0):
                m.d.sync += [
                    base.eq(base + 1),
                    address.eq(base + 1),
                    column.eq(shape.columns - 1),
                    group.eq(group - 1),
                ]
                with m.If(group == 0):
                    m.d.sync += busy.eq(0)
        m.d.sync += room.eq(room - accepted + self.i_take)

        m.submodules.fifo = fifo = SyncFIFO(width=8 * architecture.lanes_out, depth=DEPTH)
        which = delayed(m, address[:group_bits], SHARED_READ_LATENCY, name="which") if group_bits else 0
        m.d.comb += [
            fifo.w_data.eq(self.i_word.word_select(which, 8 * architecture.lanes_out)),
            fifo.w_en.eq(self.i_done),
            self.o_group.eq(fifo.r_data),
            fifo.r_en.eq(self.i_take),
            self.o_empty.eq(~fifo.r_rdy),
        ]
        return m
