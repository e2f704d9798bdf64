"""Frames for a network from everything that a command was given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emberline.cli.networks import Network
from emberline.driver.images import FrameSet, load_frames
from emberline.driver.preprocessing import Preprocessing


def load_all(
    sources: Sequence[str], network: Network, limit: int | None = None, preprocess: str | None = None
) -> FrameSet:
    """The frames of all sources in order, the first ``limit`` of them; labels only where every source has some.

    Parameters: ``preprocess`` says what pixels mean, as ``key=value,...``; by default the network's own record does, or
    else the quantisation of its input.

    Raises ``ImageError``, naming the file, for what is missing, damaged or of the wrong shape.
    """
    preprocessing = None
    if preprocess is not None:
        preprocessing = Preprocessing.from_text(preprocess)
    elif network.preprocessing:
        preprocessing = Preprocessing.from_json(network.preprocessing)
    sets: list[FrameSet] = []
    left = limit
    for source in sources:
        sets.append(load_frames(source, network.input, left, preprocessing))
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
