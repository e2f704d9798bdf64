"""LiteRT's fixed-point scaling: multiply by a 31-bit fraction, then shift right, each with its own rounding."""

from __future__ import annotations

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.gateware import multiplier
from emberline.gateware.structures import delayed

LATENCY = multiplier.LATENCY + 5
"""Cycles from value to result."""

_LOW_WIDTH = 17
"""Bits of the low halves: unsigned, so that they fit a signed 18-bit factor."""


class Rescaler(wiring.Component):
    """``RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(value, multiplier), shift)``.

    The first rounds ``value * multiplier / 2**31`` half up, the second divides by ``2**shift`` rounding half away
    from zero (gemmlowp ``fixedpoint.h``; LiteRT ``MultiplyByQuantizedMultiplier``). The multiplier is not negative, so
    nothing saturates. Four 18x18 multipliers.

    Members: ``value`` int32; ``multiplier`` 0 to 2**31 - 1; ``shift`` 0 to 31; ``result`` int32.
    Latency ``LATENCY`` cycles, one value per cycle, no back-pressure.
    """

    def __init__(self, *, family: str = "generic") -> None:
        self._family = family
        super().__init__({"value": In(signed(32)), "multiplier": In(31), "shift": In(5), "result": Out(signed(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = delayed(m, self.shift, multiplier.LATENCY + 1, name="shift")
        high = self._high_multiply(m)
        # Cycle +3: half a unit of the last place, less one for negative numbers: rounds half away from zero
        half, half_negative = Signal(31, reset_less=True), Signal(signed(32), reset_less=True)
        shift_half = delayed(m, shift, 1, name="shift_half")
        unit = (C(1, 32) << shift) >> 1
        m.d.sync += [half.eq(unit), half_negative.eq(unit - shift.any())]
        nudged = Signal(signed(33), reset_less=True)
        m.d.sync += nudged.eq(high + Mux(high[-1], half_negative, half))
        # Cycles +4, +5: shift right, eights first
        shift_coarse = delayed(m, shift_half, 1, name="shift_coarse")
        coarse = Signal(signed(33), reset_less=True)
        m.d.sync += coarse.eq(nudged >> Cat(C(0, 3), shift_coarse[3:]))
        shift_fine = delayed(m, shift_coarse, 1, name="shift_fine")
        m.d.sync += self.result.eq(coarse >> shift_fine[:3])
        return m

    def _high_multiply(self, m: Module) -> Signal:
        """``(value * multiplier + 2**30) >> 31``, two cycles after the products."""
        value_low = Cat(self.value[:_LOW_WIDTH], C(0, 1)).as_signed()
        value_high = self.value[_LOW_WIDTH:].as_signed()
        multiplier_low = Cat(self.multiplier[:_LOW_WIDTH], C(0, 1)).as_signed()
        multiplier_high = Cat(self.multiplier[_LOW_WIDTH:], C(0, 1)).as_signed()
        products = {}
        for name, a, b in (
            ("low", value_low, multiplier_low),
            ("low_high", value_low, multiplier_high),
            ("high_low", value_high, multiplier_low),
            ("high", value_high, multiplier_high),
        ):
            m.submodules[name] = unit = multiplier.Multiplier(len(a), len(b), family=self._family)
            m.d.comb += [unit.a.eq(a), unit.b.eq(b)]
            products[name] = unit.product
        # Cycle +1: the middle products and the rounding constant 2**30 = 2**13 << 17
        middle_shape = (products["low_high"] + products["high_low"] + C(1 << 13)).shape()
        middle = Signal(middle_shape, reset_less=True)
        outer = Cat(products["low"][: 2 * _LOW_WIDTH], products["high"]).as_signed()
        outer = delayed(m, outer[_LOW_WIDTH:].as_signed(), 1, name="outer")
        m.d.sync += middle.eq(products["low_high"] + products["high_low"] + (1 << 13))
        # Cycle +2
        high = Signal(signed(32), reset_less=True)
        m.d.sync += high.eq((outer + middle) >> (31 - _LOW_WIDTH))
        return high


CLAMP_LATENCY = 3
"""Cycles of `saturate_and_clamp`."""


def saturate_and_clamp(m: Module, value: Value, zero: Value, low: Value, high: Value, *, name: str) -> Signal:
    """``clamp(value + zero, low, high)`` as int8, ``CLAMP_LATENCY`` cycles later.

    ``zero`` is read one cycle after ``value``, ``low`` and ``high`` two.
    """
    fits = value[9:] == value[9].replicate(len(value) - 9)
    limit = Mux(value[-1], C(-512, signed(10)), C(511, signed(10)))
    narrow = Signal(signed(10), name=f"{name}_narrow", reset_less=True)
    shifted = Signal(signed(11), name=f"{name}_shifted", reset_less=True)
    clamped = Signal(signed(8), name=f"{name}_clamped", reset_less=True)
    m.d.sync += [
        narrow.eq(Mux(fits, value[:10].as_signed(), limit)),
        shifted.eq(narrow + zero),
        clamped.eq(Mux(shifted < low, low, Mux(shifted > high, high, shifted))),
    ]
    return clamped
