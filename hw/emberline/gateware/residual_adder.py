"""Residual addition of quantised groups, LiteRT's ADD."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.isa import ADD
from emberline.gateware import rescaler
from emberline.gateware.multiplier import fabric_product
from emberline.gateware.structures import delayed, structure

_POINTER_FIELDS = tuple(f"residual_{name}" for name in ("pointer", "step", "start", "end", "pixel_step"))
SETTINGS = data.StructLayout({**structure(ADD, skip=_POINTER_FIELDS).members, "result_zero": signed(8)})
"""What a ROW instruction sets for the addition; ``result_zero`` is its ``target_zero``."""

_PRODUCT_LATENCY = 5
_SCALE_LATENCY = 1 + _PRODUCT_LATENCY + 1 + 3
VALUE_LATENCY = _SCALE_LATENCY + 1 + rescaler.LATENCY + rescaler.CLAMP_LATENCY
"""Cycles from a channel's two operands to its sum."""


def latency(lanes_out: int, rate: int = 1) -> int:
    """Cycles from a group of operands to the group of sums: loading, ``rate`` channels after ``rate``, collecting."""
    return 1 + VALUE_LATENCY + lanes_out // rate


def _input_scale(m: Module, value: Value, setting: Callable[[str, int], Value], *, operand: str, name: str) -> Value:
    """``RDBPOT(SRDHM((value - zero) << 20, multiplier), shift)``, ``_SCALE_LATENCY`` cycles later.

    The shift by 20 and the doubling high multiplication make ``((value - zero) * multiplier + 2**10) >> 11``.
    ``setting(field, n)`` is a field of the instruction that the channel ``n`` cycles into the pipeline belongs to.
    """
    # Cycle 1
    difference = Signal(signed(9), name=f"{name}_difference", reset_less=True)
    m.d.sync += difference.eq(value - setting(f"{operand}_zero", 0))
    # Cycles 2 to 6: nine bits are a small tree, and the multipliers are worth more in the lanes
    product = fabric_product(m, difference, setting(f"{operand}_multiplier", 1), name=f"{name}_product")
    # Cycle 7
    scaled = Signal(signed(32), name=f"{name}_scaled", reset_less=True)
    half = Signal(31, name=f"{name}_half", reset_less=True)
    half_negative = Signal(signed(32), name=f"{name}_half_negative", reset_less=True)
    shift = setting(f"{operand}_shift", 1 + _PRODUCT_LATENCY)
    m.d.sync += [
        scaled.eq((product + (1 << 10)) >> 11),
        half.eq(rescaler.rounding_half(shift)),
        half_negative.eq(rescaler.rounding_half_negative(shift)),
    ]
    # Cycles 8 to 10: rounding shift right
    nudged = Signal(signed(33), name=f"{name}_nudged", reset_less=True)
    coarse = Signal(signed(33), name=f"{name}_coarse", reset_less=True)
    fine = Signal(signed(32), name=f"{name}_fine", reset_less=True)
    m.d.sync += [
        nudged.eq(scaled + Mux(scaled[-1], half_negative, half)),
        coarse.eq(nudged >> Cat(C(0, 3), setting(f"{operand}_shift", 3 + _PRODUCT_LATENCY)[3:])),
        fine.eq(coarse >> setting(f"{operand}_shift", 4 + _PRODUCT_LATENCY)[:3]),
    ]
    return fine


class ResidualAdder(wiring.Component):
    """Adds a group from the activation buffer to a group of results, channel by channel.

    ``clamp(RDBPOT(SRDHM(a + b, sum_multiplier), sum_shift) + sum_zero, sum_min, sum_max)`` with
    ``a = RDBPOT(SRDHM((result - result_zero) << 20, result_multiplier), result_shift)`` and ``b`` the same of the
    residual: LiteRT's int8 ADD (``AddElementwise`` with ``left_shift`` 20).

    Parameters: ``lanes_out``; ``rate``, channels added each cycle, a power of two up to ``lanes_out``; ``family`` as
    for `Multiplier` (two 18x18 multipliers for each of the ``rate`` channels).
    Members:
        i_valid, i_result, i_residual, i_context: two groups of int8 channels and their instruction.
        settings: of the two instructions in flight; constant while one of their groups is inside.
        o_valid, o_sum, o_context: the group of sums, ``latency(lanes_out, rate)`` cycles later.
    One group in ``lanes_out / rate`` cycles: groups must not come faster. No back-pressure.
    """

    def __init__(self, lanes_out: int, *, rate: int = 1, family: str = "generic") -> None:
        if rate < 1 or lanes_out % rate:
            raise ValueError(f"rate must divide lanes_out {lanes_out}, not {rate}")
        self._lanes_out = lanes_out
        self._rate = rate
        self._family = family
        group = data.ArrayLayout(signed(8), lanes_out)
        super().__init__(
            {
                "i_valid": In(1),
                "i_result": In(group),
                "i_residual": In(group),
                "i_context": In(1),
                "settings": In(data.ArrayLayout(SETTINGS, 2)),
                "o_valid": Out(1),
                "o_sum": Out(group),
                "o_context": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes_out = self._lanes_out
        # Load, then shift out some channels each cycle.
        steps, step_width = lanes_out // self._rate, 8 * self._rate
        result = Signal(8 * lanes_out, reset_less=True)
        residual = Signal(8 * lanes_out, reset_less=True)
        context = Signal(reset_less=True)
        left = Signal(range(steps + 1))
        with m.If(self.i_valid):
            m.d.sync += [
                result.eq(self.i_result.as_value()),
                residual.eq(self.i_residual.as_value()),
                context.eq(self.i_context),
                left.eq(steps),
            ]
        with m.Else():
            m.d.sync += [result.eq(result >> step_width), residual.eq(residual >> step_width)]
            with m.If(left != 0):
                m.d.sync += left.eq(left - 1)
        # The context travels with its channels. Each stage reads a register that holds its instruction's field: it was
        # chosen a cycle earlier, by the context of the stage before.
        contexts = [context]
        for stage in range(1, VALUE_LATENCY):
            contexts.append(delayed(m, contexts[-1], 1, name=f"context_{stage}"))
        chosen: dict[tuple[str, int], Signal] = {}

        def setting(field: str, stage: int) -> Value:
            if (field, stage) not in chosen:
                earlier = contexts[stage - 1] if stage else Mux(self.i_valid, self.i_context, context)
                value = self.settings[earlier][field]
                register = Signal(value.shape(), name=f"{field}_{stage}", reset_less=True)
                m.d.sync += register.eq(value)
                chosen[field, stage] = register
            return chosen[field, stage]

        sums = [
            self._add(m, result.word_select(each, 8), residual.word_select(each, 8), setting, name=f"channel_{each}")
            for each in range(self._rate)
        ]
        self._collect(m, Cat(*sums), left == 1, context)
        return m

    def _add(
        self, m: Module, result: Value, residual: Value, setting: Callable[[str, int], Value], *, name: str
    ) -> Value:
        """The sum of one channel, ``VALUE_LATENCY`` cycles later."""
        scaled = [
            _input_scale(m, value.as_signed(), setting, operand=operand, name=f"{name}_{operand}")
            for value, operand in ((result, "result"), (residual, "residual"))
        ]
        total = Signal(signed(32), name=f"{name}_total", reset_less=True)
        m.d.sync += total.eq(scaled[0] + scaled[1])
        stage = _SCALE_LATENCY + 1
        scale = rescaler.Rescaler(family=self._family)
        m.submodules[f"{name}_rescaler"] = scale
        m.d.comb += [
            scale.value.eq(total),
            scale.multiplier.eq(setting("sum_multiplier", stage)),
            scale.shift.eq(setting("sum_shift", stage)),
        ]
        stage += rescaler.LATENCY
        return rescaler.saturate_and_clamp(
            m,
            scale.result,
            setting("sum_zero", stage + 2),
            setting("sum_min", stage + 3),
            setting("sum_max", stage + 3),
            name=name,
        )

    def _collect(self, m: Module, values: Value, last: Value, context: Value) -> None:
        """Shift the sums into a group; it is complete with its last channels."""
        group = Signal(8 * self._lanes_out, reset_less=True)
        m.d.sync += group.eq(Cat(group, values)[len(values) :])
        m.d.sync += [
            self.o_valid.eq(delayed(m, last, VALUE_LATENCY, name="last", reset=True)),
            self.o_context.eq(delayed(m, context, VALUE_LATENCY, name="context")),
        ]
        m.d.comb += self.o_sum.eq(group)
