"""Networks whose weights, or programs, are fetched: a machine for them, and what they are held against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_cases import Network, same
from numpy.typing import NDArray
from random_graphs import Limits

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.compiler.network_plan import WeightPlace
from emberline.errors import CompileError, EmulationError
from emberline.model.emulator import Emulator
from emberline.model.graph import Graph
from emberline.model.network import run

MACHINE = Architecture(
    "test", 8, 4, activation_depth_words=8192, weight_depth_words=128, program_depth_words=16384, weight_word_cycles=16
)
LIMITS = Limits(max_channels=24, single_rounding=False)


def equal_to_model(program: Program, graph: Graph, frames: NDArray[np.int8]) -> None:
    emulator = Emulator(program.architecture)
    emulator.load(program)
    expected = run(graph, frames, keep=True)
    for index, frame in enumerate(frames):
        for name, values in emulator.run(frame).maps.items():
            np.testing.assert_array_equal(values, expected[name][index], err_msg=name)


def chain(layers: int = 6, channels: int = 24) -> Graph:
    """Convolutions of 3x3, each with weights of 3 x 9 x 6 words on ``MACHINE``."""
    net = Network(8, 8, 8)
    name = "input"
    for _ in range(layers):
        name = net.convolution(name, channels, (3, 3), padding=same(3))
    return net.graph(name)


def frame(program: Program) -> NDArray[np.int8]:
    return np.zeros(program.input.map.shape, np.int8)


def refused(program: Program, reason: str) -> None:
    emulator = Emulator(program.architecture)
    emulator.load(program)
    with pytest.raises(EmulationError, match=reason):
        emulator.run(frame(program))


def fires(rng: np.random.Generator) -> Graph:
    """Fire modules, pooled or not, whose rows and weights are many beside what lies between them."""
    net = Network(int(rng.integers(9, 16)), int(rng.integers(6, 11)), 8, seed=int(rng.integers(1 << 16)))
    name = "input"
    for _ in range(int(rng.integers(1, 3))):
        channels = int(rng.integers(24, 49))
        parts = [net.convolution(name, channels, (1, 1)), net.convolution(name, channels, padding=same(3))]
        name = net.concatenate(parts)
        if rng.random() < 0.4:
            name = net.max_pool(name, (3, 3), (2, 2), same(3))
        kernel = int(rng.choice([1, 3]))
        stride = 2 if kernel == 3 and rng.random() < 0.5 else 1
        name = net.convolution(name, 8, (kernel, kernel), stride=(stride, stride), padding=same(kernel))
    return net.graph(name)


def least_memory(graph: Graph, machine: Architecture) -> Program | None:
    """The program for as little activation memory as there is one for, in steps of an eighth."""
    found, depth = None, machine.activation_depth_words
    while depth >= 16:
        try:
            found = compile_graph(graph, replace(machine, activation_depth_words=depth), weights=WeightPlace.FLASH)
        except CompileError:
            return found
        used = max(region.end for region in found.memory) // machine.groups_per_word
        depth = min(used, depth) * 7 // 8
    return found
