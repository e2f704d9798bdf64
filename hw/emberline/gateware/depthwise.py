"""Depthwise convolution: the products of neighbouring lanes added channel by channel."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import MAX_DEPTHWISE_ROWS, MAX_PAIR_ROWS
from emberline.gateware.lane_control import CONTROL, PRODUCT_LATENCY, WEIGHT_LATENCY
from emberline.gateware.structures import copies, delayed

PRODUCT_WIDTH = 16


def sum_width(architecture: Architecture) -> int:
    """Bits of a complete sum."""
    rows = MAX_PAIR_ROWS if architecture.pairs_rows else MAX_DEPTHWISE_ROWS
    return PRODUCT_WIDTH + ceil_log2(max(1, architecture.depthwise_columns) * rows)


def first_row_waits(architecture: Architecture) -> int:
    """Cycles for which the sums of the first row wait, so that those of the second, whose lanes come later, follow."""
    share = architecture.lanes_in // architecture.requantisers
    return max(0, architecture.depthwise_columns - share) if architecture.pairs_rows else 0


def sum_latency(architecture: Architecture, ordinary: int) -> int:
    """Cycles from a tap at a lane to the accumulator of that lane that holds its channel of the word's first group.

    Multiply, fabric register, one adder for each lane, accumulate, wait for the second row, hand over; at least
    ``ordinary``, the latency of other sums, so that none of those is overtaken.
    """
    return max(PRODUCT_LATENCY + architecture.depthwise_columns + first_row_waits(architecture) + 2, ordinary)


class DepthwiseSums(wiring.Component):
    """Adds the products of ``depthwise_columns`` lanes, channel by channel, and accumulates over the taps.

    Lane ``j``'s products come ``j`` cycles after lane 0's. The complete sums of a word are handed out one after the
    other, to each requantiser's lanes at the time at which ordinary sums would come: channel ``i`` of lane ``k``, the
    ``i // lanes_out``-th group, ``sum_latency + (i // lanes_out) * lanes_out / requantisers + k - 1`` cycles after the
    last tap at lane 0. Where a ROW can compute two rows, the sums of the second one, of as many lanes behind the first
    ones, follow ``lanes_in / requantisers`` cycles later.

    Parameters: ``architecture``; ``ordinary``, the latency of ordinary sums.

    Members:
        i_control: what arrives at lane 0, ``WEIGHT_LATENCY`` cycles before its activation word. Taps with ``rows`` are
            added, all others ignored; those with ``pair`` for two rows.
        i_products: of the lanes, ``lanes_in`` each, ``PRODUCT_LATENCY`` cycles after the lane's word.
        o_sums: for each requantiser the sum for one of its lanes.

    Words must not be completed faster than one in ``lanes_in / requantisers`` cycles, or in twice as many with
    ``pair``; no back-pressure.
    """

    def __init__(self, architecture: Architecture, ordinary: int) -> None:
        self._architecture = architecture
        self._ordinary = ordinary
        self._lanes = architecture.depthwise_columns * (1 + architecture.pairs_rows)
        products = data.ArrayLayout(signed(PRODUCT_WIDTH), architecture.lanes_in)
        super().__init__(
            {
                "i_control": In(CONTROL),
                "i_products": In(data.ArrayLayout(products, self._lanes)),
                "o_sums": Out(data.ArrayLayout(signed(sum_width(architecture)), architecture.requantisers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        share = architecture.lanes_out // architecture.requantisers
        rows = self._rows(m)
        extra = self._latency - (PRODUCT_LATENCY + architecture.depthwise_columns + first_row_waits(architecture) + 2)
        for unit in range(architecture.requantisers):
            channels = [
                group * architecture.lanes_out + unit * share + position
                for group in range(architecture.groups_per_word)
                for position in range(share)
            ]
            # All of a word's sums at once, then one each cycle
            queue = [
                Signal(signed(sum_width(architecture)), name=f"queue_{channel}", reset_less=True)
                for channel in channels
            ]
            m.d.sync += [place.eq(following) for place, following in pairwise(queue)]
            for place, channel in zip(queue, channels, strict=True):
                for row in rows:
                    complete, total = row[channel]
                    with m.If(complete):
                        m.d.sync += place.eq(total)
            m.d.comb += self.o_sums[unit].eq(delayed(m, queue[0], unit * share + extra, name=f"skew_{unit}"))
        return m

    @property
    def _latency(self) -> int:
        return sum_latency(self._architecture, self._ordinary)

    def _rows(self, m: Module) -> list[list[tuple[Value, Value]]]:
        """Of the first row, and perhaps the second: whether each channel's sum is complete, and the sum."""
        architecture, control = self._architecture, self.i_control
        columns = architecture.depthwise_columns
        tap = control.tap & control.rows.any()
        steps = Cat(tap, control.first, tap & control.last, tap & control.last & control.pair)
        steps = delayed(m, steps, WEIGHT_LATENCY + PRODUCT_LATENCY + columns - 1, name="step", reset=True)
        rows = [self._row(m, "first", 0, steps[:3], first_row_waits(architecture))]
        if architecture.pairs_rows:
            steps = delayed(m, Cat(steps[:2], steps[3]), columns, name="second_step", reset=True)
            late = max(0, architecture.lanes_in // architecture.requantisers - columns)
            rows.append(self._row(m, "second", columns, steps, late))
        return rows

    def _row(self, m: Module, name: str, lane: int, steps: Value, waits: int) -> list[tuple[Value, Value]]:
        """The sums of ``depthwise_columns`` lanes from ``lane`` on, ``waits`` cycles after they are complete."""
        architecture = self._architecture
        each = copies(m, steps, architecture.lanes_in, family=architecture.family, name=f"{name}_step")
        row = []
        for channel, step in enumerate(each):
            label = f"{name}_{channel}"
            total, accumulator = self._total(m, label, lane, channel, step[0], step[1])
            if waits:  # the accumulator holds it in the next cycle
                total = delayed(m, accumulator, waits - 1, name=f"{label}_waits")
            row.append((delayed(m, step[2], waits, name=f"{label}_complete"), total))
        return row

    def _total(self, m: Module, label: str, lane: int, channel: int, tap: Value, first: Value) -> tuple[Value, Signal]:
        """A channel's sum up to and including this tap, one adder behind the registers, and the accumulator."""
        total = delayed(m, self.i_products[lane][channel], 1, name=f"{label}_column_0")
        for column in range(1, self._architecture.depthwise_columns):
            wider = total + self.i_products[lane + column][channel]
            total = Signal(wider.shape(), name=f"{label}_column_{column}", reset_less=True)
            m.d.sync += total.eq(wider)
        accumulator = Signal(signed(sum_width(self._architecture)), name=f"{label}_accumulator", reset_less=True)
        result = Signal.like(accumulator, name=f"{label}_total")
        m.d.comb += result.eq(Mux(first, 0, accumulator) + total)
        with m.If(tap):
            m.d.sync += accumulator.eq(result)
        return result, accumulator
