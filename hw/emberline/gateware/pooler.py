"""Maximum along a row while it is written: pooling costs no cycle of the lanes."""

from __future__ import annotations

from amaranth.hdl import C, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.gateware.structures import delayed

LATENCY = 7
"""Cycles from the last column of a window to its maximum."""

SETTINGS = data.StructLayout(
    {
        "single": 1,  # there is one column
        "columns": signed(13),  # less three: groups that come for each output group of the row
        "column_groups": 4,  # groups that come one after the other for each column, less one
        "window": 4,  # less one
        "stride": signed(5),  # less two
        "first": signed(5),  # less one
        "pool_columns": signed(13),  # less one: groups that are given for them
    }
)


def larger_channels(a: data.View, b: data.View) -> Value:
    """A bit for each channel in which ``a`` is larger: the sign of a difference, a single carry chain."""
    return Cat(*((b[lane] - a[lane])[-1] for lane in range(a.shape().length)))


def choose(bits: Value, a: data.View, b: data.View) -> Value:
    """``a`` in the channels whose bit is set, ``b`` in the others."""
    return Cat(*(Mux(bit, a[lane], b[lane]) for lane, bit in enumerate(bits)))


class Pooler(wiring.Component):
    """Gives the channel-wise maximum of the last ``pool_window`` columns, every ``pool_stride`` columns.

    The first maximum is given after ``pool_first + 1`` columns; what lies left of the row counts as -128, which
    changes no maximum. The last column gives one if ``pool_columns`` have not been given yet: a window that reaches
    beyond the row. With window and stride 1 every group passes unchanged.

    In depthwise ROWs ``groups_per_word`` groups come for each column, or twice as many of two rows. They are given or
    not together; the window is 1.

    Parameters: ``lanes_out``; ``column_groups``: the most groups of a column.

    Members:
        i_valid, i_group, i_context: results of a row, columns innermost. Always accepted. ``i_context`` comes a cycle
            before its group.
        settings: of the two instructions in flight; ``pool_window`` at most ``MAX_POOL_WINDOW``.
        o_valid, o_group, o_context: maxima, ``LATENCY`` cycles later.
    """

    def __init__(self, lanes_out: int, column_groups: int = 1) -> None:
        self._lanes_out = lanes_out
        self._column_groups = column_groups
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
        settings = Signal(SETTINGS, reset_less=True)
        m.d.sync += settings.eq(self.settings[self.i_context])
        valid, give, start, reach = self._count_columns(m, settings)
        context = delayed(m, self.i_context, 2, name="context")
        self._take_maxima(m, valid, start, reach)
        m.d.comb += [
            self.o_valid.eq(delayed(m, valid & give, LATENCY - 1, name="valid", reset=True)),
            self.o_context.eq(delayed(m, context, LATENCY - 1, name="given_context")),
        ]
        return m

    def _count_columns(self, m: Module, settings: data.View) -> tuple[Value, Value, Value, Value]:
        """Whether a column gives a maximum, whether it is a row's first one, and how many columns the window has.

        All counters are less one: their sign says that they have come to an end.
        """
        start = Signal(init=1)  # no column of the row has come yet
        columns, skip, left = Signal(signed(13)), Signal(signed(5)), Signal(signed(13))
        skip_now, left_now = Signal(signed(5)), Signal(signed(13))
        last, give = Signal(), Signal()
        m.d.comb += [
            skip_now.eq(Mux(start, settings.first, skip)),
            left_now.eq(Mux(start, settings.pool_columns, left)),
            last.eq(Mux(start, settings.single, columns[-1])),
            give.eq((skip_now[-1] | last) & ~left_now[-1]),
        ]
        column_ends = Const(1)
        if self._column_groups > 1:
            group = Signal(range(self._column_groups))
            column_ends = group == settings.column_groups[: len(group)]
            with m.If(self.i_valid):
                m.d.sync += group.eq(Mux(column_ends, 0, group + 1))
        with m.If(self.i_valid & column_ends):
            m.d.sync += [
                start.eq(last),
                columns.eq(Mux(start, settings.columns, columns - 1)),
                left.eq(left_now - give),
                skip.eq(Mux(skip_now[-1], settings.stride, skip_now - 1)),
            ]
        # Columns of the window that are there, less one: fewer where the row ends before the window does.
        reach = Signal(signed(6), reset_less=True)
        m.d.sync += reach.eq(settings.window - skip_now - 1)
        return (
            delayed(m, self.i_valid, 1, name="counted", reset=True),
            delayed(m, give, 1, name="give"),
            delayed(m, start, 1, name="start"),
            reach,
        )

    def _take_maxima(self, m: Module, valid: Value, start: Value, reach: Value) -> None:
        """Of two columns, then of those and the one before: compared in one cycle, chosen in the next."""
        lanes_out = self._lanes_out
        lowest = C(-128, signed(8)).as_unsigned().replicate(lanes_out)

        def register(name: str, value: Value) -> data.View:
            stage = Signal(self.i_group.shape(), name=name, reset_less=True)
            m.d.sync += stage.as_value().eq(value)
            return stage

        group = register("group", self.i_group.as_value())
        # The column before this one
        before = Signal.like(group, reset_less=True)
        with m.If(valid):
            m.d.sync += before.eq(group)
        previous = register("previous", Mux(start, lowest, before.as_value()))
        group = register("group_2", group.as_value())
        larger = delayed(m, larger_channels(group, previous), 1, name="larger")
        previous = register("previous_3", previous.as_value())
        group = register("group_3", group.as_value())
        pair = register("pair", choose(larger, group, previous))
        # The pair before this one
        pair_valid = delayed(m, valid, 3, name="pair_valid")
        pair_start = delayed(m, start, 3, name="pair_start")
        pair_before = Signal.like(group, reset_less=True)
        with m.If(pair_valid):
            m.d.sync += pair_before.eq(pair)
        earlier = register("earlier", Mux(pair_start, lowest, pair_before.as_value()))
        group = register("group_4", group.as_value())
        two = delayed(m, reach >= 1, 3, name="two")
        narrow = register("narrow", Mux(two, pair.as_value(), group.as_value()))
        group = register("group_5", group.as_value())
        # Three columns are the pair before this one and this one: the pair before spans the two columns before.
        three = delayed(m, reach >= 2, 4, name="three")
        larger = larger_channels(earlier, group) & three.replicate(lanes_out)
        larger = delayed(m, larger, 1, name="larger_2")
        narrow = register("narrow_6", Mux(three, group.as_value(), narrow.as_value()))
        earlier = register("earlier_6", earlier.as_value())
        m.d.comb += self.o_group.as_value().eq(register("given", choose(larger, earlier, narrow)).as_value())
