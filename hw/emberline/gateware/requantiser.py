"""From int32 sums to int8 activations: bias, LiteRT's per-channel scaling, output zero point, clamp."""

from __future__ import annotations

from amaranth.hdl import C, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.isa import PARAMETERS
from emberline.gateware import rescaler
from emberline.gateware.lane import SUM_WIDTH
from emberline.gateware.structures import delayed, structure

LATENCY = 4 + rescaler.LATENCY + rescaler.CLAMP_LATENCY
"""Cycles from a valid sum to its int8 result."""

SETTINGS = data.StructLayout({"target_zero": signed(8), "clamp_min": signed(8), "clamp_max": signed(8)})
"""What a ROW instruction sets for all its channels."""


class Requantiser(wiring.Component):
    """Requantises the sums of ``lane_count`` neighbouring lanes, which come one cycle after the other.

    ``clamp(RDBPOT(SRDHM((sum + bias) << left_shift, multiplier), right_shift) + target_zero, clamp_min, clamp_max)``,
    LiteRT's per-channel rule. ``sum + bias`` and the left shift are int32; the compiler proves that they fit.

    Parameters: ``lane_count``; ``family`` as for `Multiplier`.
    Members:
        i_valid: one bit for each lane; at most one is set in any cycle.
        i_sums, i_parameters, i_contexts: each lane's sum, parameters and instruction.
        settings: of the two instructions in flight, constant while one of their sums is inside.
        o_value: int8, ``LATENCY`` cycles after its sum; there is no valid: what comes out when is known.
    One sum per cycle, no back-pressure.
    """

    def __init__(self, lane_count: int, *, family: str = "generic") -> None:
        self._lane_count = lane_count
        self._family = family
        super().__init__(
            {
                "i_valid": In(lane_count),
                "i_sums": In(data.ArrayLayout(signed(SUM_WIDTH), lane_count)),
                "i_parameters": In(data.ArrayLayout(structure(PARAMETERS), lane_count)),
                "i_contexts": In(lane_count),
                "settings": In(data.ArrayLayout(SETTINGS, 2)),
                "o_value": Out(signed(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Cycle 1: choose the lane
        parameters = Signal(structure(PARAMETERS), reset_less=True)
        total = Signal(signed(SUM_WIDTH), reset_less=True)
        context = Signal(reset_less=True)
        for lane in range(self._lane_count):
            with m.If(self.i_valid[lane]):
                m.d.sync += [
                    total.eq(self.i_sums[lane]),
                    Cat(parameters).eq(self.i_parameters[lane].as_value()),
                    context.eq(self.i_contexts[lane]),
                ]
        # Cycle 2: bias
        biased = Signal(signed(SUM_WIDTH), reset_less=True)
        m.d.sync += biased.eq(total + parameters.bias)
        # Cycles 3, 4: left shift, eights first
        left = delayed(m, parameters.left_shift[:5], 1, name="left")
        left_fine = delayed(m, left[:3], 1, name="left_fine")
        coarse = Signal(signed(SUM_WIDTH), reset_less=True)
        shifted = Signal(signed(SUM_WIDTH), reset_less=True)
        m.d.sync += [
            coarse.eq((biased << Cat(C(0, 3), left[3:]))[:SUM_WIDTH].as_signed()),
            shifted.eq((coarse << left_fine)[:SUM_WIDTH].as_signed()),
        ]
        # Cycles 5 to 15: multiply and shift right
        m.submodules.rescaler = scale = rescaler.Rescaler(family=self._family)
        m.d.comb += [
            scale.value.eq(shifted),
            scale.multiplier.eq(delayed(m, parameters.multiplier, 3, name="multiplier")),
            scale.shift.eq(delayed(m, parameters.right_shift[:5], 3, name="right")),
        ]
        # Cycles 16 to 20: saturate, zero point, clamp
        # The fields are chosen a cycle before they are used
        earlier = delayed(m, context, 4 + rescaler.LATENCY, name="zero_context")
        zero = delayed(m, self.settings[earlier].target_zero, 1, name="zero")
        earlier = delayed(m, earlier, 1, name="clamp_context")
        clamps = Cat(self.settings[earlier].clamp_min, self.settings[earlier].clamp_max)
        clamps = delayed(m, clamps, 1, name="clamps")
        low, high = clamps[:8].as_signed(), clamps[8:].as_signed()
        m.d.comb += self.o_value.eq(rescaler.saturate_and_clamp(m, scale.result, zero, low, high, name="result"))
        return m
