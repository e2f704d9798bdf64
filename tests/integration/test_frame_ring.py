"""Maps that lie where the frame was, in the RTL: the next frame's last rows wait until they have been read.

A prediction has no wait for the frame. Such a wait may hide another one, for a row to be written, and hides none
otherwise: a frame that never waits takes the predicted cycles; one that does takes no more beside its stalls, and no
fewer with them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from graph_cases import Network, same
from simulated_core import Job, run_core

from emberline.arch.presets import preset
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.errors import CompileError
from emberline.model.graph import Graph
from emberline.model.network import run

MACHINE = replace(preset("tiny-4x4"), activation_depth_words=4096, weight_depth_words=4096)
FRAMES = 3
SEEDS = 6


def growing(seed: int) -> Graph:
    """A first layer that takes longer than its rows take to come, and behind it maps larger than the frame."""
    rng = np.random.default_rng(seed)
    net = Network(int(rng.integers(10, 17)), int(rng.integers(10, 17)), 3, seed=seed)
    x = net.convolution("input", int(rng.integers(40, 49)), (3, 3), stride=(2, 2), padding=same(3))
    x = net.convolution(x, int(rng.integers(16, 33)), (1, 1))
    for _ in range(rng.integers(1, 4)):
        kernel = int(rng.choice([1, 3]))
        x = net.convolution(x, int(rng.integers(24, 49)), (kernel, kernel), padding=same(kernel))
    return net.graph(net.convolution(x, int(rng.integers(1, 9)), (1, 1)))


def compile_in_the_ring(graph: Graph) -> Program:
    """The program for the most memory in which some map must lie where the frame was."""
    used = max(region.end for region in compile_graph(graph, MACHINE).memory) // MACHINE.groups_per_word
    for percent in range(90, 20, -10):
        try:
            program = compile_graph(graph, replace(MACHINE, activation_depth_words=used * percent // 100))
        except CompileError:
            break
        frame, *others = program.memory
        if any(each.start < frame.end and frame.start < each.end for each in others):
            return replace(program, architecture=MACHINE)
    raise AssertionError("no map lies in the frame's ring")


def test_outputs_and_cycles_are_exact_beside_what_the_frame_is_waited_for(tmp_path) -> None:
    graphs, jobs = [], []
    for seed in range(SEEDS):
        graph = growing(seed)
        shape = graph.feature_maps["input"].shape
        frames = np.random.default_rng(seed).integers(-128, 128, (FRAMES, *shape), np.int8)
        program = compile_in_the_ring(graph)
        for pauses in (0, 0.9):
            graphs.append(graph)
            jobs.append(Job(program, frames, {"i_frame": pauses}, seed))
    ahead = late = 0
    for graph, job, results in zip(graphs, jobs, run_core(MACHINE, jobs, tmp_path), strict=True):
        expected = run(graph, job.frames, keep=True)
        predicted = job.program.predicted_cycles
        for number, result in enumerate(results):
            where = f"seed {job.seed}, {job.stalls}, frame {number}"
            for name, values in result.outputs.items():
                assert np.array_equal(values, expected[name][number]), f"{where}, map '{name}'"
            if result.stall_cycles:
                assert result.cycles - result.stall_cycles <= predicted <= result.cycles, where
            else:
                assert result.cycles == predicted, where
            ahead += not result.stall_cycles
            late += result.stall_cycles > 0
    assert ahead >= SEEDS and late >= SEEDS
