"""Every operator through the compiler and the emulator, on several shapes of the machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from operator_cases import CASES
from random_graphs import random_frames

from emberline.arch.presets import preset
from emberline.compiler.compile import compile_graph
from emberline.model import network
from emberline.model.emulator import Emulator

SHAPES = {
    "4x4": replace(preset("tiny-4x4"), program_depth_words=4096),
    "8x8": preset("small-8x8"),
    "16x8": preset("ulx3s-85f"),
    "16x4": replace(preset("ecp5-45f"), depthwise_columns=0),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_is_the_models_on_every_shape(name: str) -> None:
    graph = CASES[name]()
    frames = random_frames(np.random.default_rng(1), graph, 2)
    expected = network.run(graph, frames)
    assert all(len(np.unique(expected[output])) > 3 for output in graph.outputs)
    for shape, architecture in SHAPES.items():
        emulator = Emulator(architecture)
        emulator.load(compile_graph(graph, architecture))
        for number, frame in enumerate(frames):
            results = emulator.run(frame).results
            for output in graph.outputs:
                np.testing.assert_array_equal(results[output], expected[output][number], err_msg=f"{shape}, {output}")
