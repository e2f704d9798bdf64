"""ZynqNet's published activations for one photograph: every convolution and concatenation, as int8 codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "golden_activations_int8.npz"
RECOMPUTED = ("data", "conv1")
"""Of the maps: the frame, and what was not published but computed from it."""
CLASS = 468
"""What the photograph shows: a taxi."""


def golden_maps(folder: Path) -> dict[str, NDArray[np.int8]]:
    """By feature map name, flat in the order of channels, rows, columns."""
    found = {}
    with np.load(folder / FILE) as archive:
        for key in archive.files:
            if archive[key].dtype == np.int8 and key != "conv10_int":
                name = "conv1" if key == "conv1_recomputed" else key
                for part in ("squeeze", "expand", "concat", "split"):
                    name = name.replace(f"_{part}", f"/{part}")
                found[name] = archive[key]
    return found


def golden_frame(golden: dict[str, NDArray[np.int8]]) -> NDArray[np.int8]:
    """The photograph's frame, ``[1, 256, 256, 3]``."""
    return golden["data"].reshape(1, 3, 256, 256).transpose(0, 2, 3, 1).copy()


def in_published_order(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """A map ``[1, H, W, C]`` as the published ones are."""
    return values[0].transpose(2, 0, 1).reshape(-1)
