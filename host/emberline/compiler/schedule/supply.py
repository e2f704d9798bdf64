"""Weights that do not stay in the memory: what must be there when, and who waits for it.

The weights of a frame are a stream in the order in which they are needed. The weight memory is its buffer: bytes arrive
at the rate of the link as long as there is room, a stage begins when all of its weights are there, and its end makes
room. A stage in bands, which fetches its weights more than once, goes step by step in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.compiler.rows import Parameters, Stage, StepRows, Weights
from emberline.compiler.weights import pack_parameters


@dataclass(frozen=True)
class Supply:
    """The weight memory's size, and the bytes a cycle that it is filled with."""

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


def stalled_cycles(stages: Sequence[Stage], supply: Supply) -> int:
    """Cycles a frame in which stages wait for weights, frames following each other without a pause."""
    pieces = [piece for stage in stages for piece in _pieces(stage)]
    end = arriving = 0.0
    total = 0
    freed: list[tuple[int, float]] = []  # how much of the stream is no longer needed, and since when
    frames = []
    for _ in range(3):
        for weights, cycles in pieces:
            total += weights
            room = next((since for count, since in freed if count >= total - supply.bytes_available), 0.0)
            arriving = max(arriving, room) + weights / supply.bytes_per_cycle
            end = max(end, arriving) + cycles
            freed.append((total, end))
        frames.append(end)
    return max(0, round(frames[2] - frames[1] - sum(stage.cycles for stage in stages)))


def _pieces(stage: Stage) -> list[tuple[int, float]]:
    """Weight bytes and cycles, one after the other: of a stage in bands, of single steps."""
    count = 1 if stage.fetched_bytes <= stage.weight_bytes else -(-2 * stage.fetched_bytes // stage.weight_bytes)
    return [(stage.fetched_bytes // count, stage.cycles / count)] * count
