"""Frames for a network from everything that a command was given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emberline.driver.images import FrameSet, load_frames
from emberline.model.graph import FeatureMap


def load_all(sources: Sequence[str], target: FeatureMap, limit: int | None = None) -> FrameSet:
    """The frames of all sources in order, the first ``limit`` of them; labels only where every source has some.

    Raises ``ImageError``, naming the file, for what is missing, damaged or of the wrong shape.
    """
    sets: list[FrameSet] = []
    left = limit
    for source in sources:
        sets.append(load_frames(source, target, left))
        if left is not None:
            left -= len(sets[-1].frames)
            if left == 0:
                break
    labels = [each.labels for each in sets if each.labels is not None]
    return FrameSet(
        np.concatenate([each.frames for each in sets]),
        np.concatenate(labels) if len(labels) == len(sets) else None,
        tuple(name for each in sets for name in each.names),
    )
