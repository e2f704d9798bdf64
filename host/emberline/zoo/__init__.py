"""The networks known by name: where their files come from, what their outputs and inputs mean.

Files of others are not part of the package: they are looked for in the data folder, which ``EMBERLINE_DATA`` names
(default: ``../shared/data`` beside the checkout, when it exists).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emberline.errors import ModelError

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PACKAGE_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ZooEntry:
    """One network.

    Parameters:
        name: what people call it.
        file: inside the package, or inside the data folder.
        title: one line about it.
        origin: where the file was published; for the project's own networks the command that made it.
        licence: of the weights.
        labels: the class of each output value.
        preprocessing: how photographs become frames, as `emberline.driver.preprocessing` reads it.
        sha256: of a file that others published; ``None`` for the project's own, which is versioned with it.
    """

    name: str
    file: str
    title: str
    origin: str
    licence: str
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    sha256: str | None = None

    @property
    def in_package(self) -> bool:
        return self.sha256 is None

    def path(self) -> Path:
        """The file; raises ``ModelError``, naming where it was looked for and its origin, when it is not there."""
        if self.in_package:
            return PACKAGE_FOLDER / self.file
        root = data_root()
        if root is None:
            raise ModelError(
                f"network '{self.name}' is not part of the package: set EMBERLINE_DATA to a folder with {self.file}, "
                f"which is published at {self.origin}"
            )
        path = root / self.file
        if not path.is_file():
            raise ModelError(f"network '{self.name}': there is no {path}; it is published at {self.origin}")
        return path


ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry(
            name="ember_cifar10",
            file="ember_cifar10.tflite",
            title="the project's own CIFAR-10 classifier: fire modules, no fully connected layer",
            origin="python -m emberline.training.train",
            licence="Apache-2.0",
            labels=CIFAR10_LABELS,
            preprocessing={"order": "RGB", "scale": 1 / 255},
        ),
        ZooEntry(
            name="resnet8",
            file="mlperf_tiny/ic_resnet8_int8.tflite",
            title="MLPerf Tiny image classification, ResNet-8 for CIFAR-10",
            origin="https://github.com/mlcommons/tiny, benchmark/training/image_classification, commit 1afd2c9",
            licence="Apache-2.0",
            labels=CIFAR10_LABELS,
            preprocessing={"order": "RGB"},
            sha256="3c002613d1b2475eb51dd78dfb85a546c8ae658dee71cf6ade43b022fe205415",
        ),
    )
}


def data_root() -> Path | None:
    """The folder with models and images that others published, or ``None``.

    Raises ``ModelError`` when ``EMBERLINE_DATA`` names something that is no folder.
    """
    named = os.environ.get("EMBERLINE_DATA")
    if named:
        if not Path(named).is_dir():
            raise ModelError(f"EMBERLINE_DATA names {named}, which is no folder")
        return Path(named)
    beside = PACKAGE_FOLDER.parents[2].parent / "shared" / "data"
    return beside if beside.is_dir() else None


def find_by_contents(data: bytes) -> ZooEntry | None:
    """The entry whose file has these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    for entry in ZOO.values():
        if entry.sha256 == digest:
            return entry
        if entry.in_package and entry.path().is_file() and entry.path().read_bytes() == data:
            return entry
    return None
