"""Frames back to back on the simulated board: what the host's rows and the machine's results say about their pace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from graph_cases import Network, same

from emberline.arch.architecture import Architecture
from emberline.cli.pace import run_back_to_back
from emberline.compiler.compile import compile_graph
from emberline.model import network
from emberline.model.trace import cycles_after_input

MACHINE = Architecture("pace-test", 4, 4, 1024, 512, 512, 1)
FRAMES = 4


def test_results_come_at_the_pace_of_the_slower_of_lanes_and_frame_writer() -> None:
    for channels in (4, 96):  # the frame writer is slower than the first layer, and faster
        net = Network(12, 12, 3)
        x = net.convolution("input", channels, (3, 3), stride=(2, 2), padding=same(3))
        graph = net.graph(net.convolution(x, 8, (1, 1)))
        program = compile_graph(graph, MACHINE)
        frames = np.random.default_rng(1).integers(-128, 128, (FRAMES, 12, 12, 3), np.int8)
        results, pace = run_back_to_back(program, frames)
        expected = network.run(graph, frames)
        for number, result in enumerate(results):
            for name, values in zip(program.results, result.outputs, strict=True):
                np.testing.assert_array_equal(values, expected[name][number])
            assert result.cycles == program.predicted_cycles
        assert len(pace.entered) == len(pace.finished) == FRAMES
        after = cycles_after_input(program.instructions, MACHINE, 12)
        assert min(pace.latencies) >= after
        for result, (before, now) in zip(results[1:], pairwise(pace.finished), strict=True):
            assert now - before >= result.cycles
        waiting = pace.cycles - program.predicted_cycles
        assert waiting > program.predicted_cycles if channels == 4 else waiting < program.predicted_cycles / 20
