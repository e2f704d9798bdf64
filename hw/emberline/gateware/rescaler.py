"""LiteRT's fixed-point scaling: multiply by a 31-bit fraction, then shift right, each with its own rounding."""

from __future__ import annotations

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.gateware import multiplier
from emberline.gateware.structures import delayed

LATENCY = multiplier.LATENCY + 8
"""Cycles from value to result."""

_VALUE_LOW = 14
"""Bits of the value that are multiplied in the fabric; the 18 above fit a factor."""

_MULTIPLIER_LOW = 17
"""Bits of the multiplier's low half: unsigned, so that they fit a signed 18-bit factor."""


def rounding_half(shift: Value) -> Value:
    """Half a unit of the last place behind a right shift of 0 to 31; none if nothing is shifted out."""
    return Cat(*(shift == bit + 1 for bit in range(31)))


def rounding_half_negative(shift: Value) -> Value:
    """One less, without a subtraction; none if nothing is shifted out."""
    table = [C(sum(1 << each for each in range(bit + 2, 32)), 32) for bit in range(31)]
    return Cat(*(column.bit_select(shift, 1) for column in table))


class Rescaler(wiring.Component):
    """``RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(value, multiplier), shift)``.

    The first rounds ``value * multiplier / 2**31`` half up, the second divides by ``2**shift`` rounding half away
    from zero (gemmlowp ``fixedpoint.h``; LiteRT ``MultiplyByQuantizedMultiplier``). The multiplier is not negative, so
    nothing saturates. Two 18x18 multipliers; the value's low bits are multiplied in the fabric.

    Members: ``value`` int32; ``multiplier`` 0 to 2**31 - 1; ``shift`` 0 to 31; ``result`` int32.
    Latency ``LATENCY`` cycles, one value per cycle, no back-pressure.
    """

    def __init__(self, *, family: str = "generic") -> None:
        self._family = family
        super().__init__({"value": In(signed(32)), "multiplier": In(31), "shift": In(5), "result": Out(signed(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = delayed(m, self.shift, multiplier.LATENCY + 4, name="shift")
        high = self._high_multiply(m)
        # Cycle +6: half a unit of the last place, less one for negative numbers: rounds half away from zero
        half, half_negative = Signal(31, reset_less=True), Signal(signed(32), reset_less=True)
        shift_half = delayed(m, shift, 1, name="shift_half")
        m.d.sync += [half.eq(rounding_half(shift)), half_negative.eq(rounding_half_negative(shift))]
        nudged = Signal(signed(33), reset_less=True)
        m.d.sync += nudged.eq(high + Mux(high[-1], half_negative, half))
        # Cycles +7, +8: shift right, eights first
        shift_coarse = delayed(m, shift_half, 1, name="shift_coarse")
        coarse = Signal(signed(33), reset_less=True)
        m.d.sync += coarse.eq(nudged >> Cat(C(0, 3), shift_coarse[3:]))
        shift_fine = delayed(m, shift_coarse, 1, name="shift_fine")
        m.d.sync += self.result.eq(coarse >> shift_fine[:3])
        return m

    def _high_multiply(self, m: Module) -> Signal:
        """``(value * multiplier + 2**30) >> 31``, five cycles more than the multipliers need.

        One register lies on the way to them and one on the way back: they may be far from all that is around them.
        """
        value_high = delayed(m, self.value[_VALUE_LOW:].as_signed(), 1, name="near_value")
        products = {}
        for name, half in (("low", self.multiplier[:_MULTIPLIER_LOW]), ("high", self.multiplier[_MULTIPLIER_LOW:])):
            m.submodules[name] = unit = multiplier.Multiplier(len(value_high), len(half) + 1, family=self._family)
            m.d.comb += [unit.a.eq(value_high), unit.b.eq(delayed(m, half, 1, name=f"near_{name}"))]
            products[name] = delayed(m, unit.product, 1, name=f"product_{name}")
        # Cycle +3: what lies below the value's high half changes no bit; 2**30 = 2**16 << 14
        low = multiplier.fabric_product(m, self.value[:_VALUE_LOW], self.multiplier, name="fabric")[_VALUE_LOW:]
        low = delayed(m, low, 1, name="low")
        upper = Signal(signed(32), reset_less=True)
        rest = Signal(_MULTIPLIER_LOW + 1, reset_less=True)
        m.d.sync += [
            upper.eq((products["low"] >> _MULTIPLIER_LOW) + products["high"]),
            rest.eq(products["low"][:_MULTIPLIER_LOW] + (1 << (_MULTIPLIER_LOW - 1))),
        ]
        # Cycle +4
        below = Signal((low + rest).shape(), reset_less=True)
        m.d.sync += below.eq(low + rest)
        upper_later = delayed(m, upper, 1, name="upper_later")
        # Cycle +5
        high = Signal(signed(32), reset_less=True)
        m.d.sync += high.eq(upper_later + below[_MULTIPLIER_LOW:])
        return high


CLAMP_LATENCY = 5
"""Cycles of `saturate_and_clamp`."""


def saturate_and_clamp(m: Module, value: Value, zero: Value, low: Value, high: Value, *, name: str) -> Signal:
    """``clamp(value + zero, low, high)`` as int8, ``CLAMP_LATENCY`` cycles later.

    ``zero`` is read two cycles after ``value``, ``low`` and ``high`` three.
    """
    fits = delayed(m, value[9:] == value[9].replicate(len(value) - 9), 1, name=f"{name}_fits")
    part = delayed(m, Cat(value[:10], value[-1]), 1, name=f"{name}_part")
    limit = Mux(part[-1], C(-512, signed(10)), C(511, signed(10)))
    narrow = Signal(signed(10), name=f"{name}_narrow", reset_less=True)
    shifted = Signal(signed(11), name=f"{name}_shifted", reset_less=True)
    clamped = Signal(signed(8), name=f"{name}_clamped", reset_less=True)
    m.d.sync += [
        narrow.eq(Mux(fits, part[:10].as_signed(), limit)),
        shifted.eq(narrow + zero),
    ]
    below = delayed(m, shifted < low, 1, name=f"{name}_below")
    above = delayed(m, shifted > high, 1, name=f"{name}_above")
    kept, low, high = (
        delayed(m, each, 1, name=f"{name}_{which}")
        for each, which in ((shifted[:8], "kept"), (low, "low"), (high, "high"))
    )
    m.d.sync += clamped.eq(Mux(below, low, Mux(above, high, kept)))
    return clamped
