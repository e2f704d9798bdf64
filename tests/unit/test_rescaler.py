"""The fixed-point units against the numpy rules, every cycle busy."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Signal
from amaranth.sim import Simulator

from emberline.gateware import multiplier, requantiser, rescaler, residual_adder
from emberline.gateware.multiplier import Multiplier
from emberline.gateware.requantiser import Requantiser
from emberline.gateware.rescaler import Rescaler
from emberline.gateware.residual_adder import ResidualAdder
from emberline.model import numerics


def edge_and_random(rng: np.random.Generator, low: int, high: int, count: int) -> np.ndarray:
    """``count`` numbers in ``low..high``: the ends and the middle first, then random ones of all magnitudes."""
    ends = [low, low + 1, -1, 0, 1, high - 1, high]
    exponents = rng.uniform(0, np.log2(max(high, 2)), count)
    values = (2.0**exponents * np.where(rng.random(count) < 0.5, -1, 1)).astype(np.int64)
    values[: len(ends)] = ends
    return np.clip(values, low, high)


def run_pipeline(component, inputs: list[tuple[Signal, np.ndarray]], output: Signal, latency: int) -> list[int]:
    """One value of every input each cycle; the outputs ``latency`` cycles later."""
    count = len(inputs[0][1])
    results = []

    async def bench(ctx):
        for cycle in range(count + latency):
            for signal, values in inputs:
                ctx.set(signal, int(values[min(cycle, count - 1)]))
            await ctx.tick()
            if cycle + 1 >= latency and len(results) < count:
                results.append(ctx.get(output))

    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


@pytest.mark.parametrize(("a_width", "b_width"), [(8, 8), (18, 18), (9, 15), (18, 2)])
def test_multiplier_multiplies(a_width, b_width):
    rng = np.random.default_rng(1)
    a = edge_and_random(rng, -(1 << (a_width - 1)), (1 << (a_width - 1)) - 1, 200)
    b = rng.permutation(edge_and_random(rng, -(1 << (b_width - 1)), (1 << (b_width - 1)) - 1, 200))
    unit = Multiplier(a_width, b_width)
    assert run_pipeline(unit, [(unit.a, a), (unit.b, b)], unit.product, multiplier.LATENCY) == list(a * b)


@pytest.mark.parametrize(("a_width", "b_width", "family"), [(1, 8, "generic"), (8, 19, "generic"), (8, 8, "xc7")])
def test_multiplier_names_what_is_wrong(a_width, b_width, family):
    with pytest.raises(ValueError, match="_width must be in 2..18|family must be"):
        Multiplier(a_width, b_width, family=family)


@pytest.mark.parametrize("seed", [1, 2])
def test_rescaler_rounds_like_litert(seed):
    rng = np.random.default_rng(seed)
    count = 2000
    value = edge_and_random(rng, -(1 << 31), (1 << 31) - 1, count)
    factor = np.abs(rng.permutation(edge_and_random(rng, 0, (1 << 31) - 1, count)))
    shift = rng.integers(0, 32, count)
    unit = Rescaler()
    found = run_pipeline(
        unit, [(unit.value, value), (unit.multiplier, factor), (unit.shift, shift)], unit.result, rescaler.LATENCY
    )
    expected = numerics.rounding_divide_by_pot(numerics.saturating_rounding_doubling_high_mul(value, factor), shift)
    assert found == list(expected)


def test_requantiser_takes_each_lane_with_its_own_parameters():
    rng = np.random.default_rng(3)
    count, lanes = 1500, 2
    total = edge_and_random(rng, -(1 << 24), 1 << 24, count)
    bias = rng.integers(-(1 << 20), 1 << 20, (count, lanes))
    factor = rng.integers(1 << 30, 1 << 31, (count, lanes))
    right = rng.integers(0, 20, (count, lanes))
    left = rng.integers(0, 5, (count, lanes))
    lane, context = rng.integers(0, lanes, count), rng.integers(0, 2, count)
    zero, low, high = [3, -128], [-128, -128], [127, 5]
    unit = Requantiser(lanes)
    inputs = [(unit.i_valid, 1 << lane), (unit.i_contexts, context * 3)]
    for index in range(lanes):
        fields = unit.i_parameters[index]
        inputs += [
            (unit.i_sums[index], np.where(lane == index, total, 12345)),
            (fields.bias, bias[:, index]),
            (fields.multiplier, factor[:, index]),
            (fields.right_shift, right[:, index]),
            (fields.left_shift, left[:, index]),
        ]
        inputs += [
            (unit.settings[index].target_zero, np.full(count, zero[index])),
            (unit.settings[index].clamp_min, np.full(count, low[index])),
            (unit.settings[index].clamp_max, np.full(count, high[index])),
        ]
    found = run_pipeline(unit, inputs, unit.o_value, requantiser.LATENCY)
    pick = np.arange(count), lane
    shifted = numerics.wrap_int32((total + bias[pick]) << left[pick])
    scaled = numerics.rounding_divide_by_pot(
        numerics.saturating_rounding_doubling_high_mul(shifted, factor[pick]), right[pick]
    )
    expected = np.clip(scaled + np.take(zero, context), np.take(low, context), np.take(high, context))
    assert found == list(expected)


@pytest.mark.parametrize(("lanes_out", "rate"), [(4, 1), (8, 1), (8, 2), (8, 4)])
def test_residual_adder_adds_like_litert(lanes_out, rate):
    rng = np.random.default_rng(4)
    count = 60
    parameters = [numerics.add_parameters(*rng.uniform(0.01, 0.1, 3)) for _ in range(2)]
    zeros = rng.integers(-128, 128, (2, 3))  # result, residual, sum
    results, residuals = rng.integers(-128, 128, (2, count, lanes_out))
    contexts = np.sort(rng.integers(0, 2, count))
    unit = ResidualAdder(lanes_out, rate=rate)
    found = []

    async def drive(ctx):
        for index, each in enumerate(parameters):
            for name, value in {
                "result_zero": zeros[index][0],
                "residual_zero": zeros[index][1],
                "sum_zero": zeros[index][2],
                "sum_min": -100,
                "sum_max": 120,
                "result_multiplier": each.input_multipliers[0],
                "result_shift": -each.input_shifts[0],
                "residual_multiplier": each.input_multipliers[1],
                "residual_shift": -each.input_shifts[1],
                "sum_multiplier": each.output_multiplier,
                "sum_shift": -each.output_shift,
            }.items():
                ctx.set(getattr(unit.settings[index], name), int(value))
        for group in range(count):
            ctx.set(unit.i_valid, 1)
            ctx.set(unit.i_context, int(contexts[group]))
            for lane in range(lanes_out):
                ctx.set(unit.i_result[lane], int(results[group][lane]))
                ctx.set(unit.i_residual[lane], int(residuals[group][lane]))
            await ctx.tick()
            ctx.set(unit.i_valid, 0)
            await ctx.tick().repeat(lanes_out // rate - 1 + group % 3)
        await ctx.tick().repeat(residual_adder.latency(lanes_out, rate))

    async def watch(ctx):
        cycle, started = 0, []
        async for _, _, begin, valid, *group in ctx.tick().sample(
            unit.i_valid, unit.o_valid, *[unit.o_sum[lane] for lane in range(lanes_out)]
        ):
            if begin:
                started.append(cycle)
            if valid:
                assert cycle - started[len(found)] == residual_adder.latency(lanes_out, rate)
                found.append(group)
            cycle += 1

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    for group in range(count):
        p, (za, zb, zo) = parameters[contexts[group]], zeros[contexts[group]]
        a, b = (
            numerics.multiply_by_quantised_multiplier((x - z) << 20, p.input_multipliers[i], p.input_shifts[i])
            for i, (x, z) in enumerate(((results[group], za), (residuals[group], zb)))
        )
        total = numerics.multiply_by_quantised_multiplier(a + b, p.output_multiplier, p.output_shift) + zo
        assert found[group] == list(np.clip(total, -100, 120)), group
