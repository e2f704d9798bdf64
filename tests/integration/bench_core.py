"""cocotb bench of the accelerator core: load a program, run frames, report results and cycles."""

from pathlib import Path

import cocotb

from emberline.arch.program import Program
from emberline.simulation.flash import flash_words
from emberline.simulation.harness import Bench


async def pulse(bench: Bench, name: str) -> None:
    bench.set(name, 1)
    await bench.run(1)
    bench.set(name, 0)


async def load(bench: Bench, program: Program) -> None:
    """Stop, write the memories, start, and wait until the frame input is configured."""
    await pulse(bench, "clear")
    bench.send("program", list(enumerate(program.resident_instructions)))
    bench.send("weights", flash_words(program.weights, 0, 1 << 32))
    await bench.run_until(sent=["program", "weights"])
    if program.stream:
        bench.send("flash", flash_words(program.stream, program.stream_offset, bench.parameters["flash_bytes"]))
        await bench.run_until(sent=["flash"])
    await bench.run(32)  # the last write travels to its lane
    await pulse(bench, "start")
    for _ in range(100):
        await bench.run(100)
        if bench.get("frame_free_rows"):
            return
    raise AssertionError(f"no frame was asked for: fault {bench.get('fault')}")


async def send_rows(bench: Bench, rows: bytes) -> None:
    bench.send("i_frame", rows)
    await bench.run_until(sent=["i_frame"])
    await pulse(bench, "frame_commit")
    await bench.run(16)  # until the rows count as taken


async def result(bench: Bench, done: int) -> bytes:
    """Wait for frame number ``done``, read its result and release it."""
    if bench.get("frames_done") != done:
        await bench.wait(frames_done=done)
    await pulse(bench, "result_start")
    data = await bench.receive("o_result", bench.get("result_bytes"))
    await pulse(bench, "result_release")
    return data


@cocotb.test()
async def runs_programs(dut):
    """Every program on its frames; reports the results as hex, the cycles and the stalled cycles."""
    bench = Bench(dut)
    await bench.reset()
    report = []
    for job in bench.parameters["jobs"]:
        program = Program.load(Path(job["program"]))
        data = Path(job["frames"]).read_bytes()
        size = program.input.frame_bytes
        await load(bench, program)
        for name, density in job["stalls"].items():
            bench.stall(name, density, seed=job["seed"])
        results = []
        for number, at in enumerate(range(0, len(data), size), 1):
            row = program.input.row_bytes
            frame = data[at : at + size]
            while frame:
                rows = min(bench.get("frame_free_rows"), len(frame) // row)
                if rows:
                    await send_rows(bench, frame[: rows * row])
                    frame = frame[rows * row :]
                else:
                    await bench.run(50)
                assert bench.get("fault") == 0, f"fault {bench.get('fault')}"
            output = await result(bench, number)
            results.append([output.hex(), bench.get("cycles"), bench.get("stall_cycles")])
        report.append(results)
    bench.report(report)
