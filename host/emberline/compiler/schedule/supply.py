"""Weights that do not stay in the memory: how many a step has, and how fast they come.

A stage begins when all of its weights are there, and its end makes room for others. A stage in turns, which fetches
weights more than once (`turns`), goes step by step in the same way. Where they lie and when they come is found behind
the search (`emberline.compiler.streaming`), which only takes their price into account.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    return sum(len(contents) for contents in _contents(step, architecture))


def stored_bits(step: StepRows, architecture: Architecture) -> float:
    """Bits that they take compressed, about: the entropy of their bytes."""
    counts = np.bincount(np.frombuffer(b"".join(_contents(step, architecture)), np.uint8), minlength=1)
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def _contents(step: StepRows, architecture: Architecture) -> set[bytes]:
    blocks: dict[int, Weights | Parameters] = {}
    for operation in step.operations:
        blocks[id(operation.weights)] = operation.weights
        blocks[id(operation.parameters)] = operation.parameters
    return {
        block.words.tobytes() if isinstance(block, Weights) else pack_parameters(block, architecture)
        for block in blocks.values()
    }
