"""Stages in turns: bands in which a step has pointers and weights only while it has its turn.

In bands the rows of a stage run step by step; the rows that a step computes in a band are a *turn*. Where a stage has
more weights than there is room for, or more pointers, these come anew for each turn. As many steps as possible keep
their weights for the whole stage instead: two turns of the others that follow each other have room beside them, so that
one's come while the other is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from emberline.compiler.rows import RowOperation, StepRows


@dataclass(frozen=True)
class Turns:
    """Parameters:
    kept: the steps whose weights stay for the whole stage.
    weight_bytes: that must be there at once, beside those kept.
    fetched_bytes: in a frame.
    """

    kept: frozenset[int]
    weight_bytes: int
    fetched_bytes: int


def plan_turns(
    operations: Iterable[RowOperation], weights: Mapping[int, int], stored: Mapping[int, float], available: int
) -> Turns | None:
    """The turns of an order, kept what is compressed least; None if the weights of a turn have no room.

    Parameters:
        weights, stored: of every step, as they are in the memory and as they come.
    """
    order = [step for step, _ in groupby(operation.step for operation in operations)]
    kept: frozenset[int] = frozenset()
    at_once = _at_once(order, weights)
    if max(weights[step] for step in order) > available:
        return None
    for step in sorted(set(order), key=lambda step: (-stored[step] / max(1, weights[step]), -weights[step])):
        more = kept | {step}
        others = _at_once([each for each in order if each not in more], weights)
        if others + sum(weights[each] for each in more) <= available:
            kept, at_once = more, others
    fetched = sum(weights[step] for step in kept) + sum(weights[step] for step in order if step not in kept)
    return Turns(kept, at_once, fetched)


def _at_once(order: Sequence[int], weights: Mapping[int, int]) -> int:
    """The weights of two turns that follow each other, at most."""
    most = max((weights[step] for step in order), default=0)
    return max((weights[a] + weights[b] for a, b in pairwise(order) if a != b), default=most)


def layer_of(step: StepRows) -> str:
    """The name of a step's layer, which pieces have in common."""
    return step.name.split("[")[0]
