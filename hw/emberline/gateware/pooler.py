"""Maximum along a row while it is written: pooling costs no cycle of the lanes."""

from __future__ import annotations

from amaranth.hdl import C, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.isa import MAX_POOL_WINDOW

LATENCY = 1
"""Cycles from the last column of a window to its maximum."""

SETTINGS = data.StructLayout(
    {
        "columns": 12,  # groups that come for each output group of the row
        "depthwise": 1,  # the groups of a word come one after the other for each column
        "pool_window": 4,
        "pool_stride": 4,
        "pool_first": 4,
        "pool_columns": 12,  # groups that are given for them
    }
)


def maximum(a: data.View, b: data.View, lanes_out: int) -> list[Value]:
    """The larger of two groups, channel by channel."""
    return [Mux(a[lane] > b[lane], a[lane], b[lane]) for lane in range(lanes_out)]


class Pooler(wiring.Component):
    """Gives the channel-wise maximum of the last ``pool_window`` columns, every ``pool_stride`` columns.

    The first maximum is given after ``pool_first + 1`` columns; what lies left of the row counts as -128, which
    changes no maximum. The last column gives one if ``pool_columns`` have not been given yet: a window that reaches
    beyond the row. With window and stride 1 every group passes unchanged.

    In depthwise ROWs ``groups_per_word`` groups come for each column. They are given or not together; the window is 1.

    Members:
        i_valid, i_group, i_context: results of a row, columns innermost. Always accepted.
        settings: of the two instructions in flight; ``pool_window`` at most ``MAX_POOL_WINDOW``.
        o_valid, o_group, o_context: maxima, ``LATENCY`` cycles later.
    """

    def __init__(self, lanes_out: int, groups_per_word: int = 1) -> None:
        self._lanes_out = lanes_out
        self._groups_per_word = groups_per_word
        group = data.ArrayLayout(signed(8), lanes_out)
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(group),
                "i_context": In(1),
                "settings": In(data.ArrayLayout(SETTINGS, 2)),
                "o_valid": Out(1),
                "o_group": Out(group),
                "o_context": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes_out = self._lanes_out
        settings = Signal(SETTINGS)
        m.d.comb += settings.eq(self.settings[self.i_context])
        start = Signal(init=1)  # no column of the row has come yet
        columns_left = Signal(12)
        given = Signal(12)
        skip = Signal(4)
        skip_now, left_now, given_now = Signal(4), Signal(12), Signal(12)
        m.d.comb += [
            skip_now.eq(Mux(start, settings.pool_first, skip)),
            left_now.eq(Mux(start, settings.columns - 1, columns_left)),
            given_now.eq(Mux(start, 0, given)),
        ]
        # Columns of the window that are there: fewer where the row ends before the window does.
        reach = Signal(signed(5))
        m.d.comb += reach.eq(settings.pool_window - skip_now)
        # The maximum of this column and those before it, kept for the next one
        group = self.i_group
        lowest = C(-128, signed(8))
        before = group
        result = [group[lane] for lane in range(lanes_out)]
        for age in range(1, MAX_POOL_WINDOW):
            past = Signal.like(group, name=f"maximum_of_{age}", reset_less=True)
            with m.If(self.i_valid):
                m.d.sync += [past[lane].eq(before[lane]) for lane in range(lanes_out)]
            known = Signal.like(group, name=f"known_{age}")
            m.d.comb += [known[lane].eq(Mux(start, lowest, past[lane])) for lane in range(lanes_out)]
            wider = Signal.like(group, name=f"wider_{age}")
            m.d.comb += [wider[lane].eq(value) for lane, value in enumerate(maximum(group, known, lanes_out))]
            result = [Mux(reach > age, wider[lane], result[lane]) for lane in range(lanes_out)]
            before = wider

        last = left_now == 0
        give = ((skip_now == 0) | last) & (given_now != settings.pool_columns)
        group_in_word = Signal(range(max(2, self._groups_per_word)))
        column_ends = ~settings.depthwise | (group_in_word == self._groups_per_word - 1)
        m.d.sync += self.o_valid.eq(self.i_valid & give)
        with m.If(self.i_valid):
            m.d.sync += [
                *[self.o_group[lane].eq(value) for lane, value in enumerate(result)],
                self.o_context.eq(self.i_context),
                group_in_word.eq(Mux(column_ends, 0, group_in_word + 1)),
            ]
        with m.If(self.i_valid & column_ends):
            m.d.sync += [
                start.eq(last),
                columns_left.eq(left_now - 1),
                given.eq(given_now + give),
                skip.eq(Mux(skip_now == 0, settings.pool_stride - 1, skip_now - 1)),
            ]
        return m
