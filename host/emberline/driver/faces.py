"""Boxes from the heads of the ultra-light face detector: priors, decoding, non-maximum suppression, a picture.

The network gives two maps a scale: scores (background and face for each prior) and box offsets (four for each prior),
first the scores of all scales, then the offsets. This is what the float network leaves to its user as well.

Source: Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, ``vision/ssd/config/fd_config.py`` and ``box_utils.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from emberline.model.graph import FeatureMap

SIZES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
STRIDES = (8, 16, 32, 64)
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Face:
    """A box in shares of the image's width and height, and how sure the network is."""

    left: float
    top: float
    right: float
    bottom: float
    score: float


def priors(width: int, height: int) -> Reals:
    """Centre x and y, width and height of every prior, ``[N, 4]``, in the order of the maps."""
    found = []
    for sizes, stride in zip(SIZES, STRIDES, strict=True):
        for row in range(-(-height // stride)):
            for column in range(-(-width // stride)):
                centre = ((column + 0.5) * stride / width, (row + 0.5) * stride / height)
                found += [(*centre, size / width, size / height) for size in sizes]
    return np.clip(np.array(found), 0, 1)


def head_shapes(width: int, height: int) -> list[tuple[int, int, int]]:
    """What the network's outputs are for an input of this size: scores of every scale, then offsets."""
    grids = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return [(*grid, values * len(sizes)) for values in (2, 4) for grid, sizes in zip(grids, SIZES, strict=True)]


def find_faces(
    heads: Sequence[tuple[NDArray[np.int8], FeatureMap]],
    width: int,
    height: int,
    threshold: float = 0.7,
    overlap: float = 0.3,
) -> list[Face]:
    """The faces in one frame's outputs, the surest first.

    Parameters:
        heads: codes ``[H, W, C]`` and map of each output: four of scores, four of offsets.
        width, height: of the network's input.
        threshold, overlap: the least score; the intersection over union above which of two boxes the surer stays.
    """
    reals = [
        (codes.astype(np.float64) - target.quantisation.zero_point) * target.quantisation.scale
        for codes, target in heads
    ]
    scales = len(STRIDES)
    scores = np.concatenate([each.reshape(-1, 2) for each in reals[:scales]])
    offsets = np.concatenate([each.reshape(-1, 4) for each in reals[scales:]])
    sure = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))
    prior = priors(width, height)
    centre = offsets[:, :2] * CENTRE_VARIANCE * prior[:, 2:] + prior[:, :2]
    half = np.exp(offsets[:, 2:] * SIZE_VARIANCE) * prior[:, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    candidates = np.flatnonzero(sure > threshold)
    order = candidates[np.argsort(-sure[candidates], kind="stable")]
    kept: list[int] = []
    for index in order:
        if all(_overlap(boxes[index], boxes[other]) <= overlap for other in kept):
            kept.append(int(index))
    return [Face(*map(float, (*boxes[index], sure[index]))) for index in kept]


def draw(image: Image.Image, faces: Sequence[Face]) -> Image.Image:
    """A copy of the image with a frame around every face."""
    picture = image.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for face in faces:
        corners = (face.left, face.top, face.right, face.bottom)
        pen.rectangle([c * size for c, size in zip(corners, picture.size * 2, strict=True)], outline="red", width=2)
    return picture


def _overlap(a: Reals, b: Reals) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = float(sides.prod())
    total = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / total if total > 0 else 0.0
