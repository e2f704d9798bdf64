"""CIFAR-10 as 32x32 images: where it lies and how it becomes one ``uint8`` array.

The folder holds ``train_jpeg.zip`` and ``test_jpeg.zip`` (50,000 and 10,000 images, ``class/NNNN.jpg``) and
``cifar10_lossless_500.npz`` (500 of the test images without JPEG loss, ``x`` and ``y``). It is never part of the
repository: ``EMBERLINE_DATA`` names its parent, or ``../shared/data`` beside the checkout when that exists.

Source of the data: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The ten classes in CIFAR-10's own order, which is alphabetical: output ``k`` of a network is ``LABELS[k]``."""

SIDE_PIXELS = 32


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Members
    -------
    pixels: ``uint8[N, 32, 32, 3]``, RGB, 0 to 255.
    labels: ``int64[N]``, 0 to 9, an index into ``LABELS``.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.shape[1:] != (SIDE_PIXELS, SIDE_PIXELS, 3):
            raise ValueError(f"pixels must be uint8[N, 32, 32, 3], not {self.pixels.dtype}{list(self.pixels.shape)}")
        if self.labels.shape != self.pixels.shape[:1]:
            raise ValueError(f"{self.pixels.shape[0]} images have labels {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.labels)


def find_data_root() -> Path:
    """The folder of public data. Raises ``FileNotFoundError``, naming where it looked, when there is none."""
    named = os.environ.get("EMBERLINE_DATA")
    if named:
        root = Path(named)
        if not root.is_dir():
            raise FileNotFoundError(f"EMBERLINE_DATA names {root}, which is no folder")
        return root
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    if not beside.is_dir():
        raise FileNotFoundError(f"set EMBERLINE_DATA to the folder of public data: {beside} does not exist")
    return beside


def load_jpegs(archive: Path) -> ImageSet:
    """Decode every ``class/NNNN.jpg`` of a zip file, in order of name. About 10 s for 50,000 images.

    Raises ``ValueError`` for a class that is not one of ``LABELS``.
    """
    from PIL import Image

    with zipfile.ZipFile(archive) as container:
        names = sorted(name for name in container.namelist() if name.endswith(".jpg"))
        pixels = np.empty((len(names), SIDE_PIXELS, SIDE_PIXELS, 3), np.uint8)
        labels = np.empty(len(names), np.int64)
        for index, name in enumerate(names):
            label = name.split("/")[-2]
            if label not in LABELS:
                raise ValueError(f"{name} of {archive} is of the unknown class {label!r}")
            labels[index] = LABELS.index(label)
            pixels[index] = np.asarray(Image.open(io.BytesIO(container.read(name))).convert("RGB"))
    return ImageSet(pixels, labels)


def load_train(root: Path | None = None) -> ImageSet:
    """The 50,000 training images, as JPEG left them."""
    return load_jpegs((root or find_data_root()) / "cifar10" / "train_jpeg.zip")


def load_test(root: Path | None = None) -> ImageSet:
    """The 10,000 test images, as JPEG left them."""
    return load_jpegs((root or find_data_root()) / "cifar10" / "test_jpeg.zip")


def load_lossless(root: Path | None = None) -> ImageSet:
    """500 of the test images, exactly as published."""
    with np.load((root or find_data_root()) / "cifar10" / "cifar10_lossless_500.npz") as file:
        return ImageSet(file["x"].astype(np.uint8), file["y"].astype(np.int64))
