"""Walks a ROW on the compact machine: a group's weights into the cache, then its pixels, tap by tap."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.gateware.compact.sequencer import ROW
from emberline.gateware.row_issuer import Countdown


class State(enum.Enum):
    """What the walker does."""

    IDLE = 0
    START = 1
    LOAD = 2
    WINDOW = 3
    TAP = 4
    DRAIN = 5


class CompactWalker(wiring.Component):
    """Addresses of the memory, cycle by cycle.

    For each group: a cycle to start; ``lanes_out + 1`` cycles for each of its weight and parameter words, the last of
    them without an access; for each pixel ``idle`` cycles without an access, at least two, and its taps; then until
    the last pixel has been written.

    Members:
        i_row, i_source: the ROW and the address of its first source row, constant until ``o_done``.
        i_start: begin. o_done: the last cycle. o_next_group: the last cycle of a group that another one follows.
        o_tap, o_address, o_inside: a tap reads this word; ``o_inside`` is low if padding stands for it.
        o_load, o_load_address, o_load_lane, o_load_parameter: a lane's part of a weight or parameter word is read.
        o_word: the place in the cache that is multiplied with or loaded, or which parameter word is loaded.
        o_last: the last tap of a pixel. i_written: a pixel has been written. o_begin: before a group's first pixel.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "i_row": In(ROW),
                "i_source": In(range(architecture.activation_depth_words)),
                "i_start": In(1),
                "o_done": Out(1),
                "o_next_group": Out(1),
                "o_begin": Out(1),
                "o_tap": Out(1),
                "o_address": Out(range(architecture.activation_depth_words)),
                "o_inside": Out(1),
                "o_load": Out(1),
                "o_load_address": Out(range(architecture.weight_depth_words * architecture.lanes_out)),
                "o_load_lane": Out(range(architecture.lanes_out)),
                "o_load_parameter": Out(1),
                "o_word": Out(range(architecture.weight_cache_words)),
                "o_last": Out(1),
                "i_written": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture, row = self._architecture, self.i_row
        width = ceil_log2(architecture.activation_depth_words)
        weight_shape = range(architecture.weight_depth_words)
        state = Signal(State)
        # Group loop
        groups = Countdown(12, "groups")
        group_weight, parameter, load_word = (
            Signal(weight_shape, name=name, reset_less=True) for name in ("group_weight", "parameter", "load_word")
        )
        loads_parameters = Signal(reset_less=True)
        lane = Signal(range(architecture.lanes_out + 1), reset_less=True)
        word = Signal(range(architecture.weight_cache_words), reset_less=True)
        outstanding = Signal(range(4))
        # Pixel loop; offsets count words from the start of a source row, padding before it
        columns, idle = Countdown(12, "columns"), Countdown(16, "idle")
        offset_shape = signed(width + 2)
        pixel_base, tap_base, offset = (
            Signal(offset_shape, name=name, reset_less=True) for name in ("pixel_base", "tap_base", "offset")
        )
        # Tap loops
        words, taps, rows = Countdown(12, "words"), Countdown(8, "taps"), Countdown(8, "rows")
        row_base = Signal(width, reset_less=True)

        word_loaded, kernel_end, group_done = Signal(), Signal(), Signal()
        m.d.comb += [
            word_loaded.eq((state == State.LOAD) & (lane == architecture.lanes_out)),
            kernel_end.eq(words.last & taps.last & rows.last),
            group_done.eq((state == State.DRAIN) & (outstanding == 1) & self.i_written),
            self.o_tap.eq(state == State.TAP),
            self.o_last.eq(self.o_tap & kernel_end),
            self.o_address.eq(row_base + offset),
            self.o_inside.eq((offset >= 0) & (offset < row.row_words[: width + 1])),
            self.o_load.eq((state == State.LOAD) & ~word_loaded),
            self.o_load_address.eq(Cat(lane[: len(self.o_load_lane)], load_word)),
            self.o_load_lane.eq(lane),
            self.o_load_parameter.eq(loads_parameters),
            self.o_word.eq(word),
            self.o_begin.eq(state == State.START),
            self.o_next_group.eq(group_done),
            self.o_done.eq(group_done & groups.last),
        ]
        m.d.sync += outstanding.eq(outstanding + self.o_last - self.i_written)

        with m.If(self.o_tap | (word_loaded & ~loads_parameters)):
            m.d.sync += [word.eq(word + ~(self.o_tap & row.hold_weight)), *words.step()]
            with m.If(words.last):
                m.d.sync += [*words.load(row.channel_words - 2), *taps.step()]
                with m.If(taps.last):
                    m.d.sync += [*taps.load(row.kernel_columns - 2), *rows.step()]

        with m.Switch(state):
            with m.Case(State.IDLE):
                m.d.sync += [
                    group_weight.eq(row.weight_address),
                    parameter.eq(row.parameter_address),
                    *groups.load(row.groups - 2),
                ]
                with m.If(self.i_start):
                    m.d.sync += state.eq(State.START)
            with m.Case(State.START):
                m.d.sync += [
                    load_word.eq(group_weight),
                    loads_parameters.eq(0),
                    lane.eq(0),
                    word.eq(0),
                    *self._start_kernel(words, taps, rows),
                    state.eq(State.LOAD),
                ]
            with m.Case(State.LOAD):
                m.d.sync += lane.eq(lane + 1)
                with m.If(word_loaded):
                    m.d.sync += [lane.eq(0), load_word.eq(load_word + 1)]
                    with m.If(loads_parameters):
                        m.d.sync += word.eq(word + 1)
                        with m.If(word == architecture.parameter_words - 1):
                            m.d.sync += state.eq(State.WINDOW)
                    with m.Elif(kernel_end | row.hold_weight):
                        m.d.sync += [loads_parameters.eq(1), word.eq(0), load_word.eq(parameter)]
                m.d.sync += [pixel_base.eq(-row.pad_words), *columns.load(row.columns - 2), *idle.load(row.idle - 2)]
            with m.Case(State.WINDOW):
                m.d.sync += [
                    offset.eq(pixel_base),
                    tap_base.eq(pixel_base),
                    row_base.eq(self.i_source),
                    word.eq(0),
                    *self._start_kernel(words, taps, rows),
                    *idle.step(),
                ]
                with m.If(idle.last):
                    m.d.sync += state.eq(State.TAP)
            with m.Case(State.TAP):
                self._next_tap(m, words, taps, offset, tap_base, pixel_base, row_base)
                with m.If(kernel_end):
                    m.d.sync += [
                        pixel_base.eq(pixel_base + row.pixel_step),
                        *columns.step(),
                        *idle.load(row.idle - 2),
                        state.eq(Mux(columns.last, State.DRAIN, State.WINDOW)),
                    ]
            with m.Case(State.DRAIN):
                with m.If(group_done):
                    m.d.sync += [
                        group_weight.eq(group_weight + row.weight_step),
                        parameter.eq(load_word),
                        *groups.step(),
                        state.eq(Mux(groups.last, State.IDLE, State.START)),
                    ]
        return m

    def _start_kernel(self, words: Countdown, taps: Countdown, rows: Countdown) -> list:
        row = self.i_row
        return [*words.load(row.channel_words - 2), *taps.load(row.kernel_columns - 2), *rows.load(row.kernel_rows - 2)]

    def _next_tap(
        self,
        m: Module,
        words: Countdown,
        taps: Countdown,
        offset: Signal,
        tap_base: Signal,
        pixel_base: Signal,
        row_base: Signal,
    ) -> None:
        row, width = self.i_row, len(row_base)
        following = Mux(words.last, tap_base, offset) + Mux(words.last, row.tap_step, 1)
        m.d.sync += offset.eq(following)
        with m.If(words.last):
            m.d.sync += tap_base.eq(following)
            with m.If(taps.last):
                m.d.sync += [offset.eq(pixel_base), tap_base.eq(pixel_base)]
                moved = row_base + row.row_step[: width + 1]
                beyond = Signal(signed(width + 3))
                m.d.comb += beyond.eq(moved - row.source_end[: width + 1])
                m.d.sync += row_base.eq(Mux(beyond < 0, moved, beyond + row.source_start))
