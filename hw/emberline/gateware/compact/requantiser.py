"""Requantisation and residual addition, one channel after the other, two bits of the multiplier in a cycle."""

from __future__ import annotations

from amaranth.hdl import C, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch import compact_timing
from emberline.arch.architecture import Architecture
from emberline.arch.isa import PARAMETERS
from emberline.gateware.compact.sequencer import ADD, ROW
from emberline.gateware.lane import SUM_WIDTH
from emberline.gateware.structures import structure

PASS_CYCLES = compact_timing.PASS_CYCLES
_BIAS, _SHIFTS, _UNIT, _HALF, _SHIFT, _END = 1, 2, 3, 4, PASS_CYCLES - 2, PASS_CYCLES - 1

# An addition takes four passes through the multiplier for each channel, everything else the first of them.
_REQUANTISE, _RESULT, _RESIDUAL, _SUM = range(4)

PRODUCT_WIDTH = 34
VALUE_WIDTH = 33
"""An int32 and its zero point do not wrap."""


class SerialRequantiser(wiring.Component):
    """`emberline.gateware.requantiser` and `emberline.gateware.residual_adder` on one multiplier of two bits.

    For the shifts that `emberline.arch.compact_timing.can_scale`.

    Members:
        i_row, i_add: the ROW, constant while a pixel is inside. o_rotate: the scales of ADD move on.
        i_parameter, i_parameter_index, i_parameter_data: a word of a lane's parameters, at word * lanes + lane.
        i_sums, i_start: a pixel's sums; not before the group before was accepted.
        i_residual, i_residual_valid: the group that is added; before the first pass with it.
        o_valid, o_group, i_accept: the results, `emberline.arch.compact_timing.group_cycles` cycles after ``i_start``.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._lanes = lanes = architecture.lanes_out
        self._parameter_count = architecture.parameter_words * lanes
        super().__init__(
            {
                "i_row": In(ROW),
                "i_add": In(ADD),
                "o_rotate": Out(1),
                "i_parameter": In(1),
                "i_parameter_index": In(range(self._parameter_count)),
                "i_parameter_data": In(32),
                "i_sums": In(data.ArrayLayout(signed(SUM_WIDTH), lanes)),
                "i_start": In(1),
                "i_residual": In(8 * lanes),
                "i_residual_valid": In(1),
                "o_valid": Out(1),
                "o_group": Out(8 * lanes),
                "i_accept": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, row, add = self._lanes, self.i_row, self.i_add
        active, time, which, channel = Signal(), Signal(range(PASS_CYCLES)), Signal(2), Signal(range(lanes))
        ends = time == _END
        channel_ends = ends & ((which == _SUM) | ~row.add)
        sums = Signal(SUM_WIDTH * lanes, reset_less=True)
        residual = Signal(8 * lanes, reset_less=True)
        parameter = self._parameters(m, time, channel)

        with m.If(active):
            m.d.sync += time.eq(Mux(ends, 0, time + 1))
            with m.If(ends & row.add):
                m.d.sync += which.eq(which + 1)
            with m.If(channel_ends):
                m.d.sync += [channel.eq(channel + 1), sums.eq(sums >> SUM_WIDTH)]
                with m.If(channel == lanes - 1):
                    m.d.sync += active.eq(0)
        with m.If(self.i_start):
            m.d.sync += [active.eq(1), time.eq(0), which.eq(_REQUANTISE), channel.eq(0)]
            m.d.sync += sums.eq(self.i_sums.as_value())
        with m.If(self.i_residual_valid):
            m.d.sync += residual.eq(self.i_residual)
        with m.Elif(channel_ends):
            m.d.sync += residual.eq(residual >> 8)
        m.d.comb += self.o_rotate.eq(active & ends & (which != _REQUANTISE))

        # What is multiplied, and the 8-bit value that the last pass gave.
        value = Signal(signed(VALUE_WIDTH), reset_less=True)
        narrow = Signal(signed(8), reset_less=True)
        is_sum = row.add & (which == _REQUANTISE)  # the pass before was the sum's
        clamped = self._clamp(
            m, value, Mux(is_sum, add.sum_min, row.clamp_min), Mux(is_sum, add.sum_max, row.clamp_max)
        )
        shifted, guard = self._multiply(m, time, which, value, parameter)

        # One adder for all that is added: bias, the two scaled operands, zero points.
        difference = Signal(signed(9))
        operand = Mux(which == _RESULT, narrow, residual[:8].as_signed())
        m.d.comb += difference.eq(operand - Mux(which == _RESULT, row.target_zero, add.residual_zero))
        scaled_result = Signal(signed(32), reset_less=True)
        a, b = Signal(signed(VALUE_WIDTH)), Signal(signed(VALUE_WIDTH))
        total = Signal(signed(VALUE_WIDTH))
        with m.If(ends):
            m.d.comb += a.eq(shifted)
            with m.Switch(which):
                with m.Case(_REQUANTISE):
                    m.d.comb += b.eq(row.target_zero)
                with m.Case(_RESIDUAL):
                    m.d.comb += b.eq(scaled_result)
                with m.Case(_SUM):
                    m.d.comb += b.eq(add.sum_zero)
        with m.Elif(which == _REQUANTISE):
            m.d.comb += [a.eq(sums[:SUM_WIDTH].as_signed()), b.eq(parameter.as_signed())]
        with m.Else():
            m.d.comb += b.eq(Cat(Const(0, 20), difference).as_signed())
        m.d.comb += total.eq(Cat(guard & ends, a).as_signed() + Cat(guard & ends, b).as_signed() >> 1)
        with m.If(ends | ((time == _BIAS) & (which != _SUM))):
            m.d.sync += value.eq(total)
        with m.If(ends & (which == _RESULT)):
            m.d.sync += scaled_result.eq(total)

        # In the first cycle of what follows: the result, and the group that is complete with its last channel.
        push, complete = Signal(), Signal()
        m.d.sync += [push.eq(channel_ends), complete.eq(channel_ends & (channel == lanes - 1))]
        with m.If(time == 0):
            m.d.sync += narrow.eq(clamped)
        with m.If(push):
            m.d.sync += self.o_group.eq(Cat(self.o_group, clamped)[8:])
        with m.If(complete):
            m.d.sync += self.o_valid.eq(1)
        with m.Elif(self.i_accept):
            m.d.sync += self.o_valid.eq(0)
        return m

    def _parameters(self, m: Module, time: Signal, channel: Signal) -> Value:
        """The channel's bias in cycle 1, its shifts in cycle 2, its multiplier from cycle 3 on."""
        m.submodules.parameters = memory = Memory(shape=unsigned(32), depth=self._parameter_count, init=[])
        write, read = memory.write_port(), memory.read_port()
        word = Mux(time == 0, 0, Mux(time == 1, 2, 1))
        m.d.comb += [
            write.en.eq(self.i_parameter),
            write.addr.eq(self.i_parameter_index),
            write.data.eq(self.i_parameter_data),
            read.addr.eq(Cat(channel, word)),
        ]
        return read.data

    def _multiply(self, m: Module, time: Signal, which: Signal, value: Signal, parameter: Value) -> tuple[Value, Value]:
        """``value`` scaled, before the last rounding: a number, and what must be added to it.

        With ``l`` the left shift and ``r`` the right one the first rounding is that of ``value * multiplier`` at
        ``2**(31 - l)``: half of that is added before the product. Where a second rounding follows, half away from zero,
        a unit is taken from negative numbers, and the bit behind the last is what must be added. The product is cut at
        ``2**30``; what remains is to shift it by ``r - l + 1``.
        """
        shifts = data.View(structure(PARAMETERS), Cat(Const(0, 64), parameter[: PARAMETERS.width - 64]))
        scale = Cat(self.i_add.result_multiplier, self.i_add.result_shift)
        own = which == _REQUANTISE
        left, right = Signal(5), Signal(5)
        m.d.comb += [left.eq(Mux(own, shifts.left_shift, 0)), right.eq(Mux(own, shifts.right_shift, scale[31:]))]
        # Cycle 2
        shift, later, rounds = (Signal(width, reset_less=True) for width in (5, 5, 1))
        with m.If(time == _SHIFTS):
            m.d.sync += [shift.eq(left), later.eq(right - left + 1), rounds.eq(right != 0)]
        # The bit behind the last one comes out below the others.
        product = Signal(signed(PRODUCT_WIDTH), reset_less=True)
        moved = Cat(Const(0, 1), product).as_signed() >> shift
        # Cycle 3: four times the half for a left shift of 0; cycle 4: for this one
        digits = Signal(31, reset_less=True)
        carry = Signal(reset_less=True)
        m.d.sync += [digits.eq(digits >> 2), carry.eq(digits[1] & (digits[0] | carry))]
        with m.If(time == _HALF):
            m.d.sync += [digits.eq(Mux(own, parameter, scale)), carry.eq(0)]
        # From cycle 5 on, a digit of -1, 0, 1 or 2 in each cycle, lowest first
        m.d.sync += product.eq(self._digit(m, product, value[:32].as_signed(), digits, carry))
        with m.If(time == _UNIT):
            m.d.sync += product.eq(Cat(Const(0, 32), C(1), value[31] & rounds))
        guard = Signal(reset_less=True)
        with m.If((time == _HALF) | (time == _SHIFT)):
            m.d.sync += [product.eq(moved[1:]), shift.eq(later), guard.eq(moved[0] & rounds)]
        return product, guard

    @staticmethod
    def _digit(m: Module, product: Signal, factor: Value, digits: Signal, carry: Signal) -> Value:
        """A quarter of ``product`` and the lowest digit times ``factor``."""
        zero, one, two, minus_one = range(4)
        digit, term = Signal(2), Signal.like(product)
        with m.Switch(Cat(digits[:2], carry)):
            for code, chosen in enumerate((zero, one, two, minus_one, one, two, minus_one, zero)):
                with m.Case(code):
                    m.d.comb += digit.eq(chosen)
        with m.Switch(digit):
            for code, chosen in ((one, factor), (two, factor << 1), (minus_one, ~factor)):
                with m.Case(code):
                    m.d.comb += term.eq(chosen)
        total = Cat(C(1), product >> 2).as_signed() + Cat(digit == minus_one, term).as_signed()
        return total[1 : 1 + PRODUCT_WIDTH]

    @staticmethod
    def _clamp(m: Module, value: Signal, low: Value, high: Value) -> Value:
        """``clamp(value, low, high)`` as int8."""
        fits = Signal()
        narrow = Signal(signed(9))
        m.d.comb += [
            fits.eq(value[8:] == value[8].replicate(len(value) - 8)),
            narrow.eq(Mux(fits, value[:9].as_signed(), Mux(value[-1], C(-256, signed(9)), C(255, signed(9))))),
        ]
        return Mux(narrow < low, low, Mux(narrow > high, high, narrow))[:8].as_signed()
