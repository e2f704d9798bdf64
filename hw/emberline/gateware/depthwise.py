"""Depthwise convolution: the products of neighbouring lanes added channel by channel."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import MAX_DEPTHWISE_ROWS
from emberline.gateware.lane_control import CONTROL, PRODUCT_LATENCY, WEIGHT_LATENCY
from emberline.gateware.structures import copies, delayed

PRODUCT_WIDTH = 16


def sum_width(architecture: Architecture) -> int:
    """Bits of a complete sum."""
    return PRODUCT_WIDTH + ceil_log2(max(1, architecture.depthwise_columns) * MAX_DEPTHWISE_ROWS)


def sum_latency(architecture: Architecture, ordinary: int) -> int:
    """Cycles from a tap at a lane to the accumulator of that lane that holds its channel of the word's first group.

    Multiply, fabric register, one adder for each lane, accumulate, hand over; at least ``ordinary``, the latency of
    other sums, so that none of those is overtaken.
    """
    return max(PRODUCT_LATENCY + architecture.depthwise_columns + 2, ordinary)


class DepthwiseSums(wiring.Component):
    """Adds the products of the first ``depthwise_columns`` lanes, channel by channel, and accumulates over the taps.

    Lane ``j``'s products come ``j`` cycles after lane 0's. The complete sums of a word are handed out one after the
    other, to each requantiser's lanes at the time at which ordinary sums would come: channel ``i`` of lane ``k``, the
    ``i // lanes_out``-th group, ``sum_latency + (i // lanes_out) * lanes_out / requantisers + k - 1`` cycles after the
    last tap at lane 0.

    Parameters: ``architecture``; ``ordinary``, the latency of ordinary sums.

    Members:
        i_control: what arrives at lane 0, ``WEIGHT_LATENCY`` cycles before its activation word. Taps with ``rows`` are
            added, all others ignored.
        i_products: of the lanes, ``lanes_in`` each, ``PRODUCT_LATENCY`` cycles after the lane's word.
        o_sums: for each requantiser the sum for one of its lanes.

    Words must not be completed faster than one in ``lanes_in / requantisers`` cycles; no back-pressure.
    """

    def __init__(self, architecture: Architecture, ordinary: int) -> None:
        self._architecture = architecture
        self._ordinary = ordinary
        products = data.ArrayLayout(signed(PRODUCT_WIDTH), architecture.lanes_in)
        super().__init__(
            {
                "i_control": In(CONTROL),
                "i_products": In(data.ArrayLayout(products, architecture.depthwise_columns)),
                "o_sums": Out(data.ArrayLayout(signed(sum_width(architecture)), architecture.requantisers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        columns = architecture.depthwise_columns
        share = architecture.lanes_out // architecture.requantisers
        control = self.i_control
        waited = WEIGHT_LATENCY + PRODUCT_LATENCY + columns
        tap = control.tap & control.rows.any()
        steps = delayed(m, Cat(tap, control.first, tap & control.last), waited - 1, name="step", reset=True)
        each = copies(m, steps, architecture.lanes_in, family=architecture.family, name="step")
        extra = sum_latency(architecture, self._ordinary) - (PRODUCT_LATENCY + columns + 2)
        totals = [self._total(m, channel, step[0], step[1]) for channel, step in enumerate(each)]
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
                with m.If(each[channel][2]):
                    m.d.sync += place.eq(totals[channel])
            m.d.comb += self.o_sums[unit].eq(delayed(m, queue[0], unit * share + extra, name=f"skew_{unit}"))
        return m

    def _total(self, m: Module, channel: int, tap: Value, first: Value) -> Signal:
        """A channel's sum up to and including this tap, one adder behind the registers."""
        columns = self._architecture.depthwise_columns
        total = delayed(m, self.i_products[0][channel], 1, name=f"column_0_{channel}")
        for column in range(1, columns):
            wider = total + self.i_products[column][channel]
            total = Signal(wider.shape(), name=f"column_{column}_{channel}", reset_less=True)
            m.d.sync += total.eq(wider)
        accumulator = Signal(signed(sum_width(self._architecture)), name=f"accumulator_{channel}", reset_less=True)
        result = Signal.like(accumulator, name=f"total_{channel}")
        m.d.comb += result.eq(Mux(first, 0, accumulator) + total)
        with m.If(tap):
            m.d.sync += accumulator.eq(result)
        return result
