"""Weights that do not stay in the memory: how many a step has, and how fast they come.

A stage begins when all of its weights are there, and its end makes room for others. A stage in bands, which fetches its
weights more than once, goes step by step in the same way. Where they lie and when they come is found behind the search
(`emberline.compiler.streaming`), which only takes their price into account.
"""

from __future__ import annotations

from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.compiler.rows import Parameters, StepRows, Weights
from emberline.compiler.weights import pack_parameters


@dataclass(frozen=True)
class Supply:
    """The weight memory's size, and the bytes a cycle that it is filled with, on the average."""

    bytes_available: int
    bytes_per_cycle: float


def weight_bytes(step: StepRows, architecture: Architecture) -> int:
    """Bytes of a step's weights and parameters, equal ones once."""
    blocks: dict[int, Weights | Parameters] = {}
    for operation in step.operations:
        blocks[id(operation.weights)] = operation.weights
        blocks[id(operation.parameters)] = operation.parameters
    distinct = {
        block.words.tobytes() if isinstance(block, Weights) else pack_parameters(block, architecture)
        for block in blocks.values()
    }
    return sum(len(contents) for contents in distinct)
