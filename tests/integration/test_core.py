"""The accelerator in RTL against the numpy model and against the compiler's cycle count."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fetched import fires, least_memory
from operator_cases import CASES
from random_graphs import ARRANGING, Limits, random_frames, random_graph
from simulated_core import Job, run_core

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import decode, validate
from emberline.arch.presets import preset
from emberline.compiler import fetch
from emberline.compiler.compile import compile_graph
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.compiler.network_plan import WeightPlace
from emberline.errors import CompileError
from emberline.model.graph import Select, Upsample
from emberline.model.network import run
from emberline.model.trace import trace

GRAPHS = 64
FRAMES = 2
SHAPES = {
    "4x4": replace(preset("tiny-4x4"), activation_depth_words=4096, weight_depth_words=4096),
    "8x8": replace(preset("small-8x8"), activation_depth_words=4096, requantisers=8, adders=8),
    "16x8": preset("max10-10m50"),
    "16x16": Architecture(
        name="wide-16x16", lanes_in=16, lanes_out=16, activation_depth_words=4096, weight_depth_words=1024
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_random_networks_are_exact_in_every_output_and_every_cycle(shape, tmp_path):
    graphs, jobs, refused = [], [], []
    for seed in range(GRAPHS):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        try:
            program = compile_graph(graph, SHAPES[shape])
        except CompileError as error:
            refused.append(str(error))
            continue
        stalls = {"i_frame": 0.3, "o_result": 0.3} if seed % 2 else {}
        jobs.append(Job(program, random_frames(rng, graph, FRAMES), stalls, seed))
        graphs.append(graph)
    assert len(graphs) >= 50
    assert all("a maximum over at most" in reason for reason in refused)
    check_jobs(SHAPES[shape], graphs, jobs, tmp_path)


def check_jobs(architecture, graphs, jobs, folder, *, hiding=0.0):
    """Every output and every cycle of the jobs' frames.

    In a share ``hiding`` of the frames waiting for the frame may hide another wait, for a row to be written or for
    weights: then a frame takes no more cycles than are predicted and stalled. The others take exactly these.
    """
    results = run_core(architecture, jobs, folder)
    for graph, job, frames in zip(graphs, jobs, results, strict=True):
        expected = run(graph, job.frames, keep=True)
        for number, result in enumerate(frames):
            for name, values in result.outputs.items():
                assert np.array_equal(values, expected[name][number]), f"seed {job.seed}, frame {number}, map '{name}'"
            if hiding and result.stall_cycles:
                assert result.cycles - result.stall_cycles <= job.program.predicted_cycles <= result.cycles
            else:
                assert result.cycles - result.stall_cycles == job.program.predicted_cycles, f"seed {job.seed}"
    exact = [
        result.cycles - result.stall_cycles == job.program.predicted_cycles
        for job, frames in zip(jobs, results, strict=True)
        for result in frames
    ]
    assert sum(exact) >= (1 - hiding) * len(exact)


def test_maxima_that_combine_without_a_fence_are_exact_in_every_output_and_every_cycle(tmp_path):
    """Rows long enough for that, with maxima of every stride and padding."""
    architecture = replace(preset("small-8x8"), activation_depth_words=8192)
    blocks = ("convolution", "max_pool", "max_pool")
    limits = Limits(max_size=40, max_channels=32, max_blocks=3, max_kernel=3, blocks=blocks)
    graphs, jobs, unfenced = [], [], 0
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        graph = random_graph(rng, limits)
        try:
            program = compile_graph(graph, architecture)
        except CompileError:
            continue
        rows = [each.fields for each in validate(list(program.instructions), architecture) if each.opcode is Opcode.ROW]
        pooled = [row for row in rows if row["pool"] and row["pool_columns"] > 1]
        unfenced += sum(row["combine"] and not row["fence"] for row in pooled)
        jobs.append(Job(program, random_frames(rng, graph, 1), seed=seed))
        graphs.append(graph)
    assert len(graphs) >= 50
    assert unfenced >= 100
    results = run_core(architecture, jobs, tmp_path)
    for graph, job, (result,) in zip(graphs, jobs, results, strict=True):
        expected = run(graph, job.frames, keep=True)
        for name, values in result.outputs.items():
            assert np.array_equal(values, expected[name][0]), f"seed {job.seed}, map '{name}'"
        assert result.cycles - result.stall_cycles == job.program.predicted_cycles, f"seed {job.seed}"


@pytest.mark.parametrize("shape", [*SHAPES, "8x4"])
def test_separable_networks_are_exact_in_every_output_and_every_cycle(shape, tmp_path):
    limits = Limits(
        blocks=("separable", "separable", "separable", "parallel", "residual"),
        max_size=14,
        max_channels=40,
        single_rounding=False,
    )
    architecture = {**SHAPES, "8x4": Architecture("narrow-8x4", 8, 4, 4096, 4096, requantisers=2)}[shape]
    graphs, jobs = [], []
    for seed in range(GRAPHS):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, limits)
        try:
            program = compile_graph(graph, architecture)
        except CompileError:  # too large for the memories
            continue
        stalls = {"i_frame": 0.3, "o_result": 0.3} if seed % 2 else {}
        jobs.append(Job(program, random_frames(rng, graph, FRAMES), stalls, seed))
        graphs.append(graph)
    rows = [each for job in jobs for each in job.program.listing() if each.fields.get("depthwise")]
    assert len(rows) > 50
    check_jobs(architecture, graphs, jobs, tmp_path)


@pytest.mark.parametrize("shape", ["4x4", "16x8"])
def test_every_operator_is_exact_in_every_output_and_every_cycle(shape, tmp_path):
    graphs = [build() for build in CASES.values()]
    frames = [random_frames(np.random.default_rng(1), graph, 1) for graph in graphs]
    programs = [compile_graph(graph, SHAPES[shape]) for graph in graphs]
    check_jobs(SHAPES[shape], graphs, [Job(*each) for each in zip(programs, frames, strict=True)], tmp_path)


@pytest.mark.parametrize("shape", ["4x4", "16x8"])
def test_arranging_networks_are_exact_in_every_output_and_every_cycle(shape, tmp_path):
    """Grouped convolutions, channels in another order or in two branches, larger pixels; every path taken often."""
    blocks = (*ARRANGING, "upsample", "upsample", "residual", "parallel", "max_pool")
    limits = Limits(blocks=blocks, max_size=8, single_rounding=False, heads=2)
    graphs, jobs = [], []
    for seed in range(GRAPHS):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, limits)
        try:
            program = compile_graph(graph, SHAPES[shape])
        except CompileError:  # too large for the memories, or too wide a maximum
            continue
        jobs.append(Job(program, random_frames(rng, graph, 1), seed=seed))
        graphs.append(graph)
    kinds = Counter(type(layer) for graph in graphs for layer in graph.layers)
    assert len(graphs) >= 50
    assert min(kinds[Select], kinds[Upsample]) >= 20
    check_jobs(SHAPES[shape], graphs, jobs, tmp_path)


def compile_fused(graph, architecture):
    """The program for less activation memory than layer by layer, if its layers take turns; else ``None``."""
    used = max(region.end for region in compile_graph(graph, architecture).memory) // architecture.groups_per_word
    for share in (0.5, 0.7):
        smaller = replace(architecture, activation_depth_words=max(16, round(share * used)))
        try:
            program = compile_graph(graph, smaller)
        except CompileError:
            continue
        layers = {address: place for place, layer in enumerate(program.layers) for address in layer.rows}
        order = [layers[row.address] for row in trace(program.instructions, smaller)]
        fused = sum(a != b for a, b in pairwise(order)) >= len(set(order))
        return replace(program, architecture=architecture) if fused else None
    return None


@pytest.mark.parametrize("shape", ["4x4", "16x8"])
def test_fused_networks_are_exact_in_every_output_and_every_cycle(shape, tmp_path):
    """Rows of several layers interleaved over ring buffers, in less memory than layer by layer."""
    limits = Limits(max_size=20, max_channels=24, single_rounding=False, depthwise=True)
    graphs, jobs = [], []
    for seed in range(GRAPHS):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, limits)
        try:
            program = compile_fused(graph, SHAPES[shape])
        except CompileError:
            continue
        if program is not None:
            jobs.append(Job(program, random_frames(rng, graph, FRAMES), seed=seed))
            graphs.append(graph)
    assert len(graphs) >= 16
    check_jobs(SHAPES[shape], graphs, jobs, tmp_path, hiding=0.25)


def fetching_jobs(shape, count, pace=16, **changes):
    """Networks whose weights come from the flash through a small memory; ``changes`` are of the machine."""
    architecture = replace(SHAPES[shape], weight_depth_words=256 if shape == "4x4" else 64, weight_word_cycles=pace)
    architecture = replace(architecture, **changes)
    limits = Limits(single_rounding=False, depthwise=True)
    graphs, jobs, loads = [], [], 0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, limits)
        try:
            program = compile_graph(graph, architecture, weights=WeightPlace.FLASH)
        except CompileError:  # too large a kernel
            continue
        loads += sum(each.opcode is Opcode.LOAD for each in decode(program.instructions))
        jobs.append(Job(program, random_frames(rng, graph, FRAMES), seed=seed))
        graphs.append(graph)
    assert len(graphs) >= 0.6 * count
    assert loads >= 3 * len(graphs)
    return architecture, graphs, jobs


@pytest.mark.parametrize(("shape", "pace"), [("4x4", 16), ("16x8", 16), ("16x8", 8), ("4x4", 4), ("16x8", 4)])
def test_fetched_weights_are_exact_in_every_output_and_every_cycle(shape, pace, tmp_path):
    check_jobs(*fetching_jobs(shape, GRAPHS // 2, pace), tmp_path)


@pytest.mark.parametrize(("shape", "depth", "pace"), [("4x4", 128, 16), ("16x8", 110, 8), ("16x8", 110, 4)])
def test_programs_in_pages_are_exact_in_every_output_and_every_cycle(shape, depth, pace, tmp_path):
    """Through an instruction memory that few of them fit; frame after frame."""
    architecture, graphs, jobs = fetching_jobs(shape, GRAPHS // 2, pace, program_depth_words=depth)
    assert sum(len(job.program.pages) > 2 for job in jobs) >= len(jobs) // 3
    jobs = [replace(job, frames=np.concatenate([job.frames, job.frames[:1]])) for job in jobs]
    check_jobs(architecture, graphs, jobs, tmp_path)


@pytest.mark.parametrize(("shape", "weight_words"), [("4x4", 256), ("16x8", 64)])
def test_stages_in_turns_are_exact_in_every_output_and_every_cycle(shape, weight_words, tmp_path):
    """Weights that come again for every band, in as little activation memory as there is a program for."""
    changes = {"weight_depth_words": weight_words, "weight_word_cycles": 8, "program_depth_words": 256}
    architecture = replace(SHAPES[shape], **changes)
    graphs, jobs = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        graphs.append(fires(rng))
        program = least_memory(graphs[-1], architecture)
        frames = random_frames(rng, graphs[-1], FRAMES)
        jobs.append(Job(replace(program, architecture=architecture), frames, seed=seed))
    assert any(job.program.fetched_bytes > len(job.program.stream) for job in jobs)
    check_jobs(architecture, graphs, jobs, tmp_path, hiding=0.5)


@pytest.mark.parametrize("depth", [1024, 128])
def test_a_flash_slower_than_announced_costs_stalls_and_no_result(depth, tmp_path, monkeypatch):
    enough = fetch.fetch_cycles
    monkeypatch.setattr(fetch, "fetch_cycles", lambda *fetched: max(1, enough(*fetched) - 900))
    architecture, graphs, jobs = fetching_jobs("4x4", GRAPHS // 4, program_depth_words=depth)
    results = run_core(architecture, jobs, tmp_path)
    for graph, job, frames in zip(graphs, jobs, results, strict=True):
        expected = run(graph, job.frames, keep=True)
        for number, result in enumerate(frames):
            assert result.cycles > job.program.predicted_cycles
            assert result.stall_cycles > 0
            for name, values in result.outputs.items():
                assert np.array_equal(values, expected[name][number]), f"seed {job.seed}, frame {number}, map '{name}'"


def test_resnet8_is_exact_in_every_output_and_every_cycle(data_folder, tmp_path):
    graph = read_tflite(data_folder / "mlperf_tiny" / "ic_resnet8_int8.tflite")
    program = compile_graph(graph, SHAPES["16x8"])
    images = np.load(data_folder / "cifar10" / "cifar10_lossless_500.npz")["x"][:10]
    frames = (images.astype(np.int16) - 128).astype(np.int8)
    results = run_core(SHAPES["16x8"], [Job(program, frames)], tmp_path)[0]
    expected = run(graph, frames, keep=True)
    for number, result in enumerate(results):
        assert result.cycles == program.predicted_cycles
        assert result.stall_cycles == 0
        for name, values in result.outputs.items():
            assert np.array_equal(values, expected[name][number])
