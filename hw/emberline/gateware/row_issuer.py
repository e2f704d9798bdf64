"""Walks the taps of a row: the loops of the ROW instruction as addresses, one tap per cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ROW
from emberline.arch.timing import depthwise_tail
from emberline.gateware.lane_control import CONTROL
from emberline.gateware.structures import delayed, structure

LATENCY = 2
"""Cycles from a step of the loops to the address at the activation buffer."""

_FIELDS = (
    "depthwise",
    "hold_weight",
    "row_words",
    "pad_words",
    "pixel_step",
    "tap_step",
    "kernel_rows",
    "kernel_columns",
    "channel_words",
    "source_zero",
    "columns",
    "groups",
    "weight_address",
    "weight_step",
    "parameter_address",
    "idle",
    "lead",
)


def settings_layout(architecture: Architecture) -> data.StructLayout:
    """A ROW with its source resolved: address of the first row, and how to step from row to row inside the ring."""
    address = ceil_log2(architecture.activation_depth_words)
    return data.StructLayout(
        {
            **{name: shape for name, shape in structure(ROW).members.items() if name in _FIELDS},
            "source": address,
            "row_step": address,
            "row_back": address,  # row_step less the ring's size: the step that wraps
            "row_threshold": address + 1,  # rows from here on wrap
        }
    )


class Countdown:
    """A loop counter whose test for the last step is a register: ``last`` is ready when the step is."""

    def __init__(self, width: int, name: str) -> None:
        self._left = Signal(width, name=f"{name}_left", reset_less=True)
        self.last = Signal(name=f"{name}_last", reset_less=True)

    def load(self, count: Value) -> list:
        """Begin ``count`` steps, at least one."""
        return [self._left.eq(count), self.last.eq(count == 1)]

    def step(self) -> list:
        return [self._left.eq(self._left - 1), self.last.eq(self._left == 2)]


class RowIssuer(wiring.Component):
    """One tap each cycle: an activation address, a weight address and what the lanes shall do with them.

    A ROW occupies the issuer for ``groups * (parameter_words + columns * (idle + taps))`` cycles; the next one is taken
    in the cycle after its last. A depthwise ROW has parameters for each of a word's groups; it begins with those of
    the first word and ``lead`` columns of padding, and loads those of the others during their first taps. The next one
    is taken `emberline.arch.timing.depthwise_tail` cycles later.

    Members:
        i_settings, i_valid, o_ready: the next ROW; it is taken when both are high.
        i_context: the context of that ROW, handed on with its taps.
        o_busy: a ROW is being walked.
        o_end: the last cycle of a ROW: everything it reads has been asked for.
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
                "o_busy": Out(1),
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
        architecture = self._architecture
        address_width = ceil_log2(architecture.activation_depth_words)
        weight_shape = range(architecture.weight_depth_words)
        row = Signal(settings_layout(architecture), reset_less=True)
        context = Signal(reset_less=True)
        busy = Signal()
        bank = Signal()

        # Group loop: parameters first, then the pixels
        loading = Signal()
        word_parameters = architecture.groups_per_word * architecture.parameter_words
        parameter = Signal(range(word_parameters), reset_less=True)
        parameter_address = Signal(weight_shape, reset_less=True)
        group_weight = Signal(weight_shape, reset_less=True)
        groups = Countdown(12, "groups")
        loads_ahead = Signal()  # a depthwise word's parameters come with its first taps
        next_weight = Signal(weight_shape, reset_less=True)
        # Pixel loop; offsets count words from the start of a source row, padding before it
        offset_shape = signed(address_width + 2)
        first_offset = Signal(offset_shape, reset_less=True)
        next_offset = Signal(offset_shape, reset_less=True)
        leading = Signal()
        lead = Countdown(4, "lead")
        columns = Countdown(12, "columns")
        pixel_base = Signal(offset_shape, reset_less=True)
        idling = Signal(reset_less=True)
        idle = Countdown(16, "idle")
        # Tap loops
        first = Signal(reset_less=True)
        rows = Countdown(8, "rows")
        taps = Countdown(8, "taps")
        words = Countdown(12, "words")
        row_base = Signal(address_width, reset_less=True)
        tap_base = Signal(offset_shape, reset_less=True)
        offset = Signal(offset_shape, reset_less=True)
        weight = Signal(weight_shape, reset_less=True)

        tap, pixel_end = Signal(), Signal()
        m.d.comb += [
            tap.eq(busy & ~loading & ~idling),
            pixel_end.eq(tap & words.last & taps.last & rows.last),
        ]
        group_end, parameter_end = Signal(), Signal()
        last_parameter = Mux(row.depthwise, word_parameters - 1, architecture.parameter_words - 1)
        m.d.comb += [
            group_end.eq(pixel_end & columns.last & ~leading),
            parameter_end.eq(parameter == last_parameter),
        ]
        # The starts of the group after this one: they are needed a group later.
        m.d.sync += [next_weight.eq(group_weight + row.weight_step), next_offset.eq(first_offset + row.depthwise)]
        next_row = Mux(row_base >= row.row_threshold, row_base + row.row_back, row_base + row.row_step)
        start_tap = (offset, tap_base)

        with m.If(loading | (tap & loads_ahead)):
            m.d.sync += [
                parameter.eq(parameter + 1),
                parameter_address.eq(parameter_address + 1),
            ]
            with m.If(parameter_end):
                m.d.sync += [loading.eq(0), loads_ahead.eq(0), parameter.eq(0)]
        with m.If(loading):
            m.d.sync += [
                *[base.eq(Mux(row.lead != 0, -1, first_offset)) for base in (pixel_base, *start_tap)],
                leading.eq(row.lead != 0),
                *lead.load(row.lead),
                *columns.load(row.columns),
            ]
        with m.Elif(tap):
            m.d.sync += [first.eq(0), weight.eq(weight + ~row.hold_weight), *words.step(), offset.eq(offset + 1)]
            with m.If(words.last):
                m.d.sync += [*words.load(row.channel_words), *taps.step()]
                m.d.sync += [base.eq(tap_base + row.tap_step) for base in start_tap]
                with m.If(taps.last):
                    m.d.sync += [*taps.load(row.kernel_columns), *rows.step(), row_base.eq(next_row)]
                    m.d.sync += [base.eq(pixel_base) for base in start_tap]
            with m.If(pixel_end):
                following = pixel_base + row.pixel_step
                with m.If(leading):
                    m.d.sync += [*lead.step(), leading.eq(~lead.last)]
                    m.d.sync += [base.eq(Mux(lead.last, first_offset, -1)) for base in (pixel_base, *start_tap)]
                with m.Elif(columns.last):
                    m.d.sync += [
                        loading.eq(~groups.last & ~row.depthwise),
                        loads_ahead.eq(~groups.last & row.depthwise),
                        busy.eq(~groups.last),
                        group_weight.eq(next_weight),
                        *groups.step(),
                        *columns.load(row.columns),
                        bank.eq(~bank),
                        first_offset.eq(next_offset),
                        *[base.eq(next_offset) for base in (pixel_base, *start_tap)],
                    ]
                with m.Else():
                    m.d.sync += [*columns.step(), *[base.eq(following) for base in (pixel_base, *start_tap)]]
        with m.Else():
            m.d.sync += [*idle.step(), idling.eq(~idle.last)]
        # Before every pixel, the tap loops start over.
        with m.If(loading | pixel_end):
            m.d.sync += [
                first.eq(1),
                idling.eq(row.idle != 0),
                *idle.load(row.idle),
                *words.load(row.channel_words),
                *taps.load(row.kernel_columns),
                *rows.load(row.kernel_rows),
                row_base.eq(row.source),
                weight.eq(Mux(group_end, next_weight, group_weight)),
            ]
        m.d.comb += [
            self.o_ready.eq(self._may_follow(m, busy, row.depthwise)),
            self.o_busy.eq(busy),
            self.o_end.eq(group_end & groups.last),
        ]
        with m.If(self.i_valid & self.o_ready):
            m.d.sync += [
                row.eq(self.i_settings),
                context.eq(self.i_context),
                busy.eq(1),
                loading.eq(1),
                loads_ahead.eq(0),
                leading.eq(0),
                parameter.eq(0),
                parameter_address.eq(self.i_settings.parameter_address),
                group_weight.eq(self.i_settings.weight_address),
                *groups.load(self.i_settings.groups),
                first_offset.eq(-self.i_settings.pad_words),
            ]

        # Cycle 1
        control = Signal(CONTROL)
        row_words = Signal(16, reset_less=True)
        base_1 = Signal.like(row_base, reset_less=True)
        offset_1 = Signal.like(offset, reset_less=True)
        weight_1 = Signal(range(architecture.weight_depth_words), reset_less=True)
        m.d.sync += [
            control.tap.eq(tap),
            control.first.eq(first),
            control.last.eq(pixel_end & ~leading),
            control.rows.eq(Mux(row.depthwise, row.kernel_rows, 0)),
            control.parameter.eq(busy & (loading | (tap & loads_ahead))),
            control.parameter_index.eq(parameter),
            control.bank.eq(bank),
            control.context.eq(context),
            row_words.eq(row.row_words),
            base_1.eq(row_base),
            offset_1.eq(offset),
            weight_1.eq(Mux(loading | loads_ahead, parameter_address, weight)),
        ]
        # Cycle 2
        m.d.sync += [
            self.o_address.eq(base_1 + offset_1),
            self.o_inside.eq((offset_1 >= 0) & (offset_1 < row_words)),
            self.o_weight_address.eq(weight_1),
            self.o_control.eq(control),
        ]
        m.d.comb += self.o_zero.eq(delayed(m, row.source_zero, LATENCY, name="zero"))
        return m

    def _may_follow(self, m: Module, busy: Value, depthwise: Value) -> Value:
        """Whether a ROW can be taken: behind the one before, and the tail of a depthwise one."""
        tail = depthwise_tail(self._architecture)
        if not tail:
            return ~busy
        left = Signal(range(tail + 1))
        with m.If(self.o_end & depthwise):
            m.d.sync += left.eq(tail)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        return ~busy & (left == 0)
