"""Where storages lie: two of them may share memory as long as the rows that are alive at the same time do not meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.rows import Storage
from emberline.compiler.schedule.rings import Extent

NEVER = 1 << 60
"""The clearance of two extents that never meet."""

PROMOTIONS = 16
"""How often what ends up on top of the pile is placed first instead."""


@dataclass(frozen=True)
class Packing:
    """Offsets in words from the bottom, and the height of the pile."""

    offsets: dict[Storage, int]
    words: int


def pack(extents: Sequence[Extent]) -> Packing:
    """The lowest pile of several orders of placing, each storage as low as it can be.

    A map that is read from the top while another one is written may lie just above it: the rows that are written take
    the place of rows that have been read.
    """
    orders: list[Callable[[Extent], tuple[int, ...]]] = [
        lambda each: (-each.words, each.first),
        lambda each: (each.first, -each.words),
        lambda each: (-each.end, -each.words),
        lambda each: (each.first - each.end, -each.words),
        lambda each: (-each.words * (each.end - each.first), each.first),
        lambda each: (each.is_constant, -each.end, -each.words),  # maps before rings, what grows lowest
    ]
    clearances = np.array([[_clearance(below, above) for above in extents] for below in extents], np.int64)
    least = least_words(extents)
    best: Packing | None = None
    for key in orders:
        order = sorted(range(len(extents)), key=lambda index: key(extents[index]))
        for _ in range(PROMOTIONS):
            packing = _place(extents, order, clearances)
            if best is None or packing.words < best.words:
                best = packing
            if best.words == least:
                return best
            top = next(i for i in order if packing.offsets[extents[i].storage] + extents[i].words == packing.words)
            if top == order[0]:
                break
            order = [top, *(index for index in order if index != top)]
    return best or Packing({}, 0)


def least_words(extents: Sequence[Extent]) -> int:
    """What no packing can do without: the most that is alive at once."""
    end = max((each.end for each in extents), default=0)
    total = np.zeros(end, np.int64)
    for each in extents:
        total[each.first : each.end] += np.maximum(each.high - each.low, 0)
    return int(total.max(initial=0))


def _clearance(below: Extent, above: Extent) -> int:
    clearance = below.clearance(above)
    return NEVER if clearance is None else clearance


def _place(extents: Sequence[Extent], order: Sequence[int], clearances: NDArray[np.int64]) -> Packing:
    starts = np.full(len(extents), -1, np.int64)
    for index in order:
        others = np.flatnonzero((starts >= 0) & (clearances[index] != NEVER))
        lowest = starts[others] + clearances[others, index]  # above each of the others, or below
        highest = starts[others] - clearances[index, others]
        candidates = np.unique(np.concatenate(([0], lowest, highest)))
        candidates = candidates[candidates >= 0]
        apart = (candidates[:, None] >= lowest) | (candidates[:, None] <= highest)
        starts[index] = candidates[apart.all(axis=1).argmax()]
    height = max((int(starts[index]) + each.words for index, each in enumerate(extents)), default=0)
    return Packing({each.storage: int(starts[index]) for index, each in enumerate(extents)}, height)
