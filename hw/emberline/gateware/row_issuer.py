"""Walks the taps of a row: the loops of the ROW instruction as addresses, one tap per cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ROW
from emberline.arch.latency import depthwise_tail
from emberline.gateware.lane_control import CONTROL
from emberline.gateware.structures import copies, delayed, structure

LATENCY = 3
"""Cycles from a step of the loops to the address at the activation buffer."""

_FIELDS = (
    "depthwise",
    "hold_weight",
    "row_words",
    "pad_words",
    "pixel_step",
    "tap_step",
    "source_zero",
    "weight_address",
    "weight_step",
    "parameter_address",
)

COUNTS = ("kernel_rows", "kernel_columns", "channel_words", "columns", "groups", "idle", "lead")
"""Fields of a ROW that are counted down: the settings have them as `Countdown` takes them."""


def settings_layout(architecture: Architecture) -> data.StructLayout:
    """A ROW with its source resolved: address of the first row, and how to step from row to row inside the ring."""
    address = ceil_log2(architecture.activation_depth_words)
    row = structure(ROW).members
    parameters = architecture.groups_per_word * architecture.parameter_words
    return data.StructLayout(
        {
            **{name: row[name] for name in _FIELDS},
            **{name: signed(Shape.cast(row[name]).width + 1) for name in COUNTS},
            "parameters": signed(ceil_log2(parameters) + 2),  # parameter words of a group, counted down
            "never_idle": 1,
            "leads": 1,  # ``lead`` is not 0
            "lane_rows": 3,  # `CONTROL`'s ``rows``
            "pair": 1,  # a depthwise ROW that computes two rows
            "source": address,
            "source_wraps": 1,  # the row after ``source`` is the ring's first
            "row_step": address,
            "row_back": address,  # row_step less the ring's size: the step that wraps
            # The row after the next one wraps if this one is not before these
            "step_threshold": signed(address + 2),
            "back_threshold": signed(address + 2),
        }
    )


class Countdown:
    """A loop counter whose sign says that this is the last step."""

    def __init__(self, width: int, name: str) -> None:
        self._left = Signal(signed(width + 1), name=f"{name}_left", reset_less=True)
        self.last = self._left[-1]

    def load(self, count_less_two: Value) -> list:
        """Begin ``count`` steps, at least one."""
        return [self._left.eq(count_less_two)]

    def step(self) -> list:
        return [self._left.eq(self._left - 1)]

    def step_or_load(self, begins: Value, count_less_two: Value) -> list:
        """A step; begin again where ``begins``, and behind the last one."""
        return [self._left.eq(Mux(begins | self.last, count_less_two, self._left - 1))]


_SETTINGS_COPIES = 4
"""Enables of the settings, so that none has too many of them."""


class RowIssuer(wiring.Component):
    """One tap each cycle: an activation address, a weight address and what the lanes shall do with them.

    A ROW occupies the issuer for ``groups * (parameter_words + columns * (idle + taps))`` cycles; the next one is taken
    in the cycle after its last. A depthwise ROW has parameters for each of a word's groups; it begins with those of
    the first word and ``lead`` columns of padding, and loads those of the others during their first taps. The next one
    is taken `emberline.arch.latency.depthwise_tail` cycles later: more behind one that computes two rows.

    The loops only count, in one cycle; the addresses follow a cycle later, steered by registers.

    Members:
        i_settings, i_valid, o_ready: the next ROW; it is taken when both are high. The settings must be there in the
            cycle before ``i_valid`` already.
        i_context: the context of that ROW, handed on with its taps.
        o_end: a cycle after the last one of a ROW: everything it reads has been decided on.
        o_address: activation word, ``LATENCY`` cycles after the loops reached the tap.
        o_inside, o_zero: whether that word exists, and what stands for it if not.
        o_weight_address, o_control: to the lanes, in the same cycle.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "i_settings": In(settings_layout(architecture)),
                "i_valid": In(1),
                "o_ready": Out(1),
                "i_context": In(1),
                "o_end": Out(1),
                "o_address": Out(range(architecture.activation_depth_words)),
                "o_inside": Out(1),
                "o_zero": Out(signed(8)),
                "o_weight_address": Out(range(architecture.weight_depth_words)),
                "o_control": Out(CONTROL),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._row = Signal(settings_layout(self._architecture), reset_less=True)
        self._context = Signal(reset_less=True)
        self._count(m)
        self._step_addresses(m)
        self._ask(m)
        return m

    def _count(self, m: Module) -> None:
        """The loops: what happens in this cycle, and a cycle later as registers."""
        row, settings = self._row, self.i_settings
        # What the issuer does: one of these at most
        loading, idling, tap = Signal(), Signal(), Signal()
        loads_ahead = Signal()  # a depthwise word's parameters come with its first taps
        leading = Signal(reset_less=True)
        parameters = Countdown(len(row.parameters) - 1, "parameters")
        groups, columns, idle = Countdown(12, "groups"), Countdown(12, "columns"), Countdown(16, "idle")
        rows, taps, words = Countdown(8, "rows"), Countdown(8, "taps"), Countdown(12, "words")
        lead = Countdown(4, "lead")
        tap_end, row_end, pixel_end, column_end, group_end, end = (
            Signal(name=name) for name in ("tap_end", "row_end", "pixel_end", "column_end", "group_end", "end")
        )
        m.d.comb += [
            tap_end.eq(tap & words.last),
            row_end.eq(tap_end & taps.last),
            pixel_end.eq(tap & words.last & taps.last & rows.last),
            column_end.eq(pixel_end & ~leading),
            group_end.eq(column_end & columns.last),
            end.eq(pixel_end & (~leading & columns.last & groups.last)),
        ]
        accept = Signal()
        open_next = self._open(m, accept, end)
        begin_pixel = Signal()
        goes_on = leading | ~columns.last | (row.depthwise & ~groups.last)
        m.d.comb += begin_pixel.eq((loading & parameters.last) | (pixel_end & goes_on))
        load = loading | (tap & loads_ahead)
        m.d.sync += [
            loading.eq(accept | (loading & ~parameters.last) | (group_end & ~groups.last & ~row.depthwise)),
            loads_ahead.eq((group_end & ~groups.last & row.depthwise) | (loads_ahead & ~(tap & parameters.last))),
            idling.eq((begin_pixel & ~row.never_idle) | (idling & ~idle.last)),
            tap.eq((begin_pixel & row.never_idle) | (idling & idle.last) | (tap & ~pixel_end)),
        ]
        for condition, counter, count in (
            (tap, words, row.channel_words),
            (tap_end, taps, row.kernel_columns),
            (row_end, rows, row.kernel_rows),
            (column_end, columns, row.columns),
            (idling, idle, row.idle),
            (pixel_end, lead, row.lead),
        ):
            with m.If(condition | loading):
                m.d.sync += counter.step_or_load(loading, count)
        with m.If(loading):
            m.d.sync += leading.eq(row.leads)
        with m.Elif(pixel_end & lead.last):
            m.d.sync += leading.eq(0)
        with m.If(self.o_ready):
            m.d.sync += parameters.load(settings.parameters)
        with m.Elif(load):
            m.d.sync += parameters.step()
            with m.If(parameters.last):
                m.d.sync += parameters.load(row.parameters)
        # While no ROW is walked, the next one's settings are copied all the time.
        family = self._architecture.family
        row_bits, settings_bits = self._row.as_value(), settings.as_value()
        share = -(-len(row_bits) // _SETTINGS_COPIES)
        for index, is_open in enumerate(copies(m, open_next, _SETTINGS_COPIES, family=family, name="open")):
            part = slice(index * share, min(len(row_bits), (index + 1) * share))
            with m.If(is_open):
                m.d.sync += row_bits[part].eq(settings_bits[part])
        first = Signal(reset_less=True)
        with m.If(tap):
            m.d.sync += first.eq(0)
        with m.If(loading | pixel_end):
            m.d.sync += first.eq(1)
        # A cycle later
        events = {
            "taken": accept,
            "load": load,
            "last_load": parameters.last,
            "parameter_word": loading | loads_ahead,
            "tap": tap,
            "first": first,
            "last": column_end,
            "moves": tap_end | loading,
            "begins": pixel_end | loading,
            "group_end": group_end,
            "next_tap": tap_end & ~taps.last,
            "next_row": row_end & ~rows.last,
            "next_pixel": column_end & ~columns.last,
            "first_pixel": (loading & ~row.leads) | (pixel_end & leading & lead.last),
            "lead_pixel": (loading & row.leads) | (pixel_end & leading & ~lead.last),
        }
        self._events = {name: delayed(m, value, 1, name=name, reset=True) for name, value in events.items()}
        # Groups are counted a cycle later: none is as short as that.
        with m.If(self.o_ready):
            m.d.sync += [self._context.eq(self.i_context), *groups.load(settings.groups)]
        with m.Elif(self._events["group_end"]):
            m.d.sync += groups.step()
        m.d.sync += self.o_end.eq(end)

    def _open(self, m: Module, accept: Signal, end: Signal) -> Value:
        """Whether a ROW can be taken: behind the one before, and the tail of a depthwise one. The next cycle's."""
        architecture, row = self._architecture, self._row
        tail = depthwise_tail(architecture)
        waited = end & row.depthwise
        if architecture.pairs_rows:
            more = depthwise_tail(architecture, pair=True) - tail
            waited = (waited & ~row.pair) | delayed(m, end & row.pair, more, name="pair_tail", reset=True)
        finished = (end & ~row.depthwise) | delayed(m, waited, tail, name="tail", reset=True)
        is_open = Signal(init=1)
        open_next = Signal()
        m.d.comb += [
            self.o_ready.eq(is_open),
            accept.eq(self.i_valid & is_open),
            open_next.eq(~accept & (is_open | finished)),
        ]
        m.d.sync += is_open.eq(open_next)
        return open_next

    def _step_addresses(self, m: Module) -> None:
        """Offsets count words from the start of a source row, padding before it."""
        row = self._row
        address_width = ceil_log2(self._architecture.activation_depth_words)
        weight_shape = range(self._architecture.weight_depth_words)
        offset_shape = signed(address_width + 2)
        first_offset, next_offset, pixel, next_pixel, next_tap, self._offset = (
            Signal(offset_shape, name=name, reset_less=True)
            for name in ("first_offset", "next_offset", "pixel", "next_pixel", "next_tap", "offset")
        )
        self._parameter_address, group_weight, next_weight, self._weight = (
            Signal(weight_shape, name=name, reset_less=True)
            for name in ("parameter_address", "group_weight", "next_weight", "weight")
        )
        self._row_base = row_base = Signal(address_width, reset_less=True)
        wraps = Signal(reset_less=True)
        self._bank = bank = Signal()
        events = self._events
        # The starts of the group after this one: they are needed a group later.
        m.d.sync += [next_weight.eq(group_weight + row.weight_step), next_offset.eq(first_offset + row.depthwise)]
        with m.If(events["group_end"]):
            m.d.sync += [group_weight.eq(next_weight), first_offset.eq(next_offset), bank.eq(~bank)]
        with m.If(events["taken"]):
            m.d.sync += [
                first_offset.eq(-row.pad_words),
                self._parameter_address.eq(row.parameter_address),
                group_weight.eq(row.weight_address),
            ]
        with m.If(events["load"]):
            m.d.sync += self._parameter_address.eq(self._parameter_address + 1)
        # The pixel, the tap that follows, and where the one after it would be: at most one of each
        base = (
            Mux(events["next_pixel"], next_pixel, 0)
            | Mux(events["first_pixel"], first_offset, 0)
            | Mux(events["lead_pixel"], -1, 0)
            | Mux(events["group_end"], next_offset, 0)
        )
        following = Signal(offset_shape)
        m.d.comb += following.eq(base | Mux(events["next_tap"], next_tap, 0) | Mux(events["next_row"], pixel, 0))
        with m.If(events["tap"] | events["moves"]):
            m.d.sync += self._offset.eq(Mux(events["moves"], following, self._offset + 1))
        with m.If(events["moves"]):
            m.d.sync += next_tap.eq(following + row.tap_step)
        with m.If(events["begins"]):
            m.d.sync += [
                pixel.eq(base),
                next_pixel.eq(base + row.pixel_step),
                row_base.eq(row.source),
                wraps.eq(row.source_wraps),
                self._weight.eq(Mux(events["group_end"], next_weight, group_weight)),
            ]
        with m.Elif(events["tap"]):
            m.d.sync += self._weight.eq(self._weight + ~row.hold_weight)
        with m.If(events["next_row"]):
            m.d.sync += [
                row_base.eq(row_base + Mux(wraps, row.row_back, row.row_step)),
                wraps.eq(row_base >= Mux(wraps, row.back_threshold, row.step_threshold)),
            ]

    def _ask(self, m: Module) -> None:
        """Two more cycles: the sum of base and offset, and what goes with it."""
        row = self._row
        parameter = Signal(CONTROL["parameter_index"].shape, reset_less=True)
        events = self._events
        with m.If(events["load"]):
            m.d.sync += parameter.eq(Mux(events["last_load"], 0, parameter + 1))
        with m.If(events["taken"]):
            m.d.sync += parameter.eq(0)
        control = Signal(CONTROL)
        row_words = Signal(16, reset_less=True)
        base = Signal.like(self._row_base, reset_less=True)
        offset = Signal.like(self._offset, reset_less=True)
        weight = Signal.like(self._weight, reset_less=True)
        m.d.sync += [
            control.tap.eq(events["tap"]),
            control.first.eq(events["first"]),
            control.last.eq(events["last"]),
            control.rows.eq(row.lane_rows),
            control.pair.eq(row.pair),
            control.parameter.eq(events["load"]),
            control.parameter_index.eq(parameter),
            control.bank.eq(self._bank),
            control.context.eq(self._context),
            row_words.eq(row.row_words),
            base.eq(self._row_base),
            offset.eq(self._offset),
            weight.eq(Mux(events["parameter_word"], self._parameter_address, self._weight)),
        ]
        m.d.sync += [
            self.o_address.eq(base + offset),
            self.o_inside.eq((offset >= 0) & (offset < row_words)),
            self.o_weight_address.eq(weight),
            self.o_control.eq(control),
        ]
        m.d.comb += self.o_zero.eq(delayed(m, row.source_zero, LATENCY, name="zero"))
