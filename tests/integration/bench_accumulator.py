"""cocotb bench of the accumulator in ``test_simulation_bench.py``."""

import os

import cocotb

from emberline.simulation.harness import Bench, BenchTimeoutError


async def _prepared(dut) -> Bench:
    bench = Bench(dut)
    await bench.reset()
    bench.send("table", list(enumerate(bench.parameters["table"])))
    await bench.run_until(sent=["table"])
    return bench


@cocotb.test()
async def sums_selected_entries(dut):
    bench = await _prepared(dut)
    for name, density in bench.parameters["stalls"].items():
        bench.stall(name, density, seed=bench.parameters["seed"], burst_log2=1)
    results, cycles = [], []
    for items in bench.parameters["batches"]:
        bench.set("count", len(items))
        bench.set("start", 1)
        await bench.run(1)
        bench.set("start", 0)
        bench.send("i", items)
        start = bench.cycle
        results += await bench.receive("o", 1, limit_cycles=10_000)
        cycles.append(bench.cycle - start)
        await bench.run(1)
        assert bench.get("busy") == 0
        assert bench.get("total") == results[-1]
    bench.report({"results": results, "cycles": cycles, "waiting": bench.waiting("i")})


@cocotb.test()
async def waits_for_an_output(dut):
    bench = await _prepared(dut)
    bench.set("count", 100)
    bench.set("start", 1)
    await bench.run(1)
    bench.set("start", 0)
    bench.send("i", [0] * 100)
    start = bench.cycle
    await bench.wait(total=bench.parameters["table"][0] * 60)
    bench.report(bench.cycle - start)


@cocotb.test()
async def fails(dut):
    bench = await _prepared(dut)
    assert bench.get("total") == 12345, "the total is not what it should be"


@cocotb.test()
async def times_out(dut):
    bench = await _prepared(dut)
    try:
        await bench.wait(busy=1, limit_cycles=1000)
    except BenchTimeoutError:
        assert bench.cycle > 1000
    await bench.receive("o", 1, limit_cycles=500)


@cocotb.test()
async def dies(dut):
    await _prepared(dut)
    os._exit(7)


@cocotb.test()
async def refuses_wrong_items(dut):
    bench = await _prepared(dut)
    messages = []
    for name, item in (("i", 16), ("table", (1,)), ("table", (16, 0)), ("i", b"\0\0")):
        try:
            bench.send(name, item if isinstance(item, bytes) else [item])
        except ValueError as error:
            messages.append(str(error))
    bench.report(messages)
