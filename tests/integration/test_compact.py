"""The compact machine in RTL against the numpy model and against the compiler's cycle count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from amaranth.sim import Simulator
from graph_cases import Network, same
from random_graphs import Limits, random_frames, random_graph
from simulated_core import Job, run_core

from emberline.arch.architecture import Architecture
from emberline.arch.presets import preset
from emberline.compiler.compile import compile_graph
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.errors import CompileError
from emberline.gateware.compact.byte_bus import STROBES, ByteBus, Kind
from emberline.model.network import run
from emberline.model.outputs import decode_outputs, pack_frame

MACHINE = preset("up5k-4x4")
LIMITS = Limits(blocks=("convolution", "residual", "parallel", "average_pool"))


def test_networks_are_exact_in_every_output_and_every_cycle(tmp_path, data_folder):
    """Random ones, and MLPerf Tiny's ResNet-8."""
    graphs, jobs = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, LIMITS)
        try:
            program = compile_graph(graph, MACHINE)
        except CompileError:
            continue
        stalls = {"i_frame": 0.3, "o_result": 0.3} if seed % 2 else {}
        jobs.append(Job(program, random_frames(rng, graph, 2), stalls, seed))
        graphs.append(graph)
    assert len(graphs) >= 45
    assert any(each.fields.get("add") for job in jobs for each in job.program.listing())
    graphs.append(read_tflite(data_folder / "mlperf_tiny" / "ic_resnet8_int8.tflite"))
    images = np.load(data_folder / "cifar10" / "cifar10_lossless_500.npz")["x"][:3]
    jobs.append(Job(compile_graph(graphs[-1], MACHINE), (images.astype(np.int16) - 128).astype(np.int8)))

    for graph, job, frames in zip(graphs, jobs, run_core(MACHINE, jobs, tmp_path), strict=True):
        expected = run(graph, job.frames, keep=True)
        for number, result in enumerate(frames):
            for name, values in result.outputs.items():
                assert np.array_equal(values, expected[name][number]), f"seed {job.seed}, frame {number}, map '{name}'"
            assert result.cycles - result.stall_cycles == job.program.predicted_cycles, f"seed {job.seed}"


def test_byte_bus_runs_a_network():
    """Program, weights, two frames and their results as bytes with their kinds."""
    architecture = replace(MACHINE, activation_depth_words=512, weight_depth_words=128, family="generic")
    net = Network(3, 4, 3)
    graph = net.graph(net.convolution("input", 5, padding=same(3)))
    program = compile_graph(graph, architecture)
    frames = np.random.default_rng(5).integers(-128, 128, (2, 3, 4, 3), dtype=np.int8)
    expected = run(graph, frames, keep=True)
    bus = ByteBus(architecture)
    found = []

    async def bench(ctx):
        async def send(kind, values):
            for value in values:
                ctx.set(bus.i.payload, {"byte": value, "kind": kind})
                ctx.set(bus.i.valid, 1)
                await ctx.tick().until(bus.i.ready)
                ctx.set(bus.i.valid, 0)

        async def command(name):
            await send(Kind.COMMAND, [1 << STROBES.index(name)])

        await command("clear")
        await send(Kind.PROGRAM, b"".join(word.to_bytes(4, "little") for word in program.instructions))
        await send(Kind.COMMAND, [0])
        await send(Kind.WEIGHT, program.weights)
        await command("start")
        for frame in frames:
            data = pack_frame(program, frame)
            for at in range(0, len(data), program.input.row_bytes):
                await send(Kind.FRAME, data[at : at + program.input.row_bytes])
                await command("frame_commit")
            await ctx.tick().until(bus.result_valid)
            await command("result_start")
            ctx.set(bus.o.ready, 1)
            result = bytearray()
            while len(result) < expected_bytes:
                (byte,) = await ctx.tick().sample(bus.o.payload).until(bus.o.valid)
                result.append(byte)
            ctx.set(bus.o.ready, 0)
            await command("result_release")
            found.append(decode_outputs(program, bytes(result)))
            assert not ctx.get(bus.faulted)

    expected_bytes = next(each.fields["words"] for each in program.listing() if "words" in each.fields) * 4
    simulator = Simulator(bus)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for number, outputs in enumerate(found):
        for name, values in outputs.items():
            assert np.array_equal(values, expected[name][number])
    assert len(found) == 2


def test_a_cache_of_one_kernel_is_enough(tmp_path):
    """The smallest cache, filled to its last word, and rows of padding that execute parts of it."""
    architecture = Architecture(
        "small", 4, 4, 1024 - 256, 64, requantisers=1, adders=1, depthwise_columns=0, weight_cache_words=16
    )
    net = Network(5, 6, 3)
    graph = net.graph(net.convolution("input", 6, (4, 4), padding=same(4)))
    program = compile_graph(graph, architecture)
    frames = random_frames(np.random.default_rng(3), graph, 2)
    results = run_core(architecture, [Job(program, frames)], tmp_path)[0]
    expected = run(graph, frames, keep=True)
    for number, result in enumerate(results):
        assert result.cycles - result.stall_cycles == program.predicted_cycles
        for name, values in result.outputs.items():
            assert np.array_equal(values, expected[name][number])
