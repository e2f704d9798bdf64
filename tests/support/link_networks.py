"""Random networks whose weights come over the link, and weights that are not theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from random_graphs import Limits, random_frames, random_graph

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import decode, encode
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.compiler.network_plan import WeightPlace
from emberline.model import network
from emberline.model.graph import Graph

LINKED = Architecture("linked", 4, 4, 2048, 256, 2048, 1, weight_word_cycles=16, weight_source="link")
LIMITS = Limits(max_size=10, max_blocks=3, max_channels=40)
SEEDS = (2, 3, 4, 5, 9)
"""Of networks with more weights in a frame than a board keeps."""
BUSY_SEED = 7
"""Of one whose rows, weights and result take the simulated link longer than the machine takes to compute them."""
FRAMES = 4

Codes = NDArray[np.int8]


@dataclass(frozen=True)
class Case:
    """A network, its program, frames, and the outputs that numpy gives for them."""

    graph: Graph
    program: Program
    frames: Codes
    expected: list[dict[str, Codes]]


def network_of(seed: int, architecture: Architecture = LINKED) -> Case:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, LIMITS)
    frames = random_frames(rng, graph, FRAMES)
    outputs = network.run(graph, frames)
    expected = [{name: outputs[name][index] for name in graph.outputs} for index in range(FRAMES)]
    return Case(graph, compile_graph(graph, architecture, weights=WeightPlace.LINK), frames, expected)


def same(outputs: Mapping[str, Codes], expected: Mapping[str, Codes]) -> bool:
    return outputs.keys() == expected.keys() and all(np.array_equal(outputs[name], expected[name]) for name in expected)


def foreign(case: Case) -> Program:
    """The program with the check of its second LOAD changed: whole blocks, but not those that it means."""
    words = list(case.program.instructions)
    load = [each for each in decode(words) if each.opcode is Opcode.LOAD][1]
    changed = {**load.fields, "check": load.fields["check"] ^ 1}
    words[load.address : load.address + load.word_count] = encode(Opcode.LOAD, changed)
    return replace(case.program, instructions=tuple(words))


def other_weights(case: Case) -> Program:
    """The program with the stream of the same network whose output channels are in another order."""
    layers = [
        replace(layer, weights=layer.weights[::-1].copy()) if hasattr(layer, "weights") else layer
        for layer in case.graph.layers
    ]
    architecture = case.program.architecture
    other = compile_graph(replace(case.graph, layers=tuple(layers)), architecture, weights=WeightPlace.LINK)
    size = len(case.program.stream)
    stream = other.stream[:size].ljust(size, b"\0")
    assert stream != case.program.stream
    return replace(case.program, stream=stream)
