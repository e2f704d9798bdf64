"""Two runs of the same frames compared value by value, and what a classifier's outputs say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Sequence[NDArray[np.int8]]
"""The network's outputs for one frame, in its order."""


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs.

    Parameters:
        images: frames compared.
        outputs: values compared, over all frames.
        differing_outputs, differing_images: of these; a frame differs when any of its values does.
        max_abs_difference: the largest difference of two codes.
    """

    images: int
    outputs: int
    differing_outputs: int
    differing_images: int
    max_abs_difference: int

    @property
    def equal(self) -> bool:
        return self.differing_outputs == 0


def flatten(outputs: Outputs) -> NDArray[np.int16]:
    """All values of one frame's outputs in one row, wide enough to subtract."""
    return np.concatenate([np.asarray(each, np.int16).reshape(-1) for each in outputs])


def compare(ours: Iterable[Outputs], reference: Iterable[Outputs]) -> Comparison:
    """Compare frame by frame. Raises ``ValueError`` when the runs differ in frames or in values a frame."""
    images = values = differing_values = differing_images = largest = 0
    for one, other in zip(ours, reference, strict=True):
        left, right = flatten(one), flatten(other)
        if left.shape != right.shape:
            raise ValueError(f"frame {images} has {left.size} values in one run and {right.size} in the other")
        differences = np.abs(left - right)
        count = int(np.count_nonzero(differences))
        images += 1
        values += left.size
        differing_values += count
        differing_images += count > 0
        largest = max(largest, int(differences.max(initial=0)))
    return Comparison(images, values, differing_values, differing_images, largest)


def best_class(scores: NDArray[np.int8]) -> int:
    """The index of the largest score; of equal ones the first."""
    return int(np.asarray(scores).reshape(-1).argmax())


def accuracy(scores: Iterable[NDArray[Any]], labels: Iterable[int], best: int = 1) -> float:
    """The share of frames whose label is among their ``best`` classes; of equal scores the first class is better."""
    hits = [label in best_classes(score, best) for score, label in zip(scores, labels, strict=True)]
    return sum(hits) / len(hits) if hits else 0.0


def best_classes(scores: NDArray[Any], count: int) -> list[int]:
    """The indices of the largest scores, the largest first; of equal ones the first."""
    order = np.argsort(-np.asarray(scores, np.float64).reshape(-1), kind="stable")
    return [int(index) for index in order[:count]]


def confidence(scores: NDArray[np.int8], scale: float, zero_point: int, *, softmax: bool) -> float:
    """The probability the network gives its best class.

    Parameters: the codes of one frame and their quantisation; ``softmax`` when the network itself ends in a softmax,
    otherwise one is taken of the real scores here.
    """
    real = scale * (np.asarray(scores, np.float64).reshape(-1) - zero_point)
    if softmax:
        return float(real.max())
    return float(1 / np.exp(real - real.max()).sum())


def batches(count: int, size: int) -> Iterator[slice]:
    """``count`` things in slices of at most ``size``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
