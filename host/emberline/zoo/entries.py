"""What the zoo knows of a network, and where its files are looked for.

Files of others are not part of the package. They are looked for in the data folder, which ``EMBERLINE_DATA`` names
(default: ``../shared/data`` beside the checkout, when it exists), then where ``emberline zoo fetch`` puts them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from emberline.errors import ModelError

_SYNSET = re.compile(r"^n\d{8} ")
PACKAGE_FOLDER = Path(__file__).resolve().parent


class Reader(StrEnum):
    """What an entry's file is."""

    TFLITE = "tflite"
    ONNX_FLOAT = "onnx-float"
    DEEP_COMPRESSION = "deep-compression"
    ZYNQNET = "zynqnet"

    @property
    def is_float(self) -> bool:
        """Whether the network must be quantised before it can be compiled."""
        return self in (Reader.ONNX_FLOAT, Reader.DEEP_COMPRESSION)


@dataclass(frozen=True)
class ZooFile:
    """One file that others published.

    Parameters:
        name: inside the data folder.
        sha256: of its contents.
        url: where it can be downloaded; ``None`` where it was made from what is published at the entry's origin.
    """

    name: str
    sha256: str
    url: str | None = None

    def find(self, entry: str, origin: str) -> Path:
        """The file; raises ``ModelError``, naming where it was looked for and its origin, when it is not there."""
        roots = [root for root in (data_root(), download_root()) if root is not None]
        for root in roots:
            if (root / self.name).is_file():
                return root / self.name
        hint = f"emberline zoo fetch {entry}" if self.url else "set EMBERLINE_DATA to a folder that has it"
        searched = " or ".join(str(root / self.name) for root in roots)
        raise ModelError(f"network '{entry}': there is no {searched}; it is published at {origin}: {hint}")


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
        url: where that file can be downloaded.
        reader: what the file is.
        companions: further files that are needed with it.
        label_file: where the labels are, one a line, if not in ``labels``.
        outputs: of a float network, the tensors at which it ends when it is quantised, if not at its own outputs.
        label_offset: the output value of the data set's class 0; 1 where a background class comes first.
        images: in the data folder: what the network is verified with, and calibrated if it is float.
        image_count: how many of them the numpy model is verified with, and the emulator.
        slope: of a float network, the one of ``emberline quantize`` with which its accuracy hardly suffers.
    """

    name: str
    file: str
    title: str
    origin: str
    licence: str
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    sha256: str | None = None
    url: str | None = None
    reader: Reader = Reader.TFLITE
    companions: tuple[ZooFile, ...] = ()
    label_file: ZooFile | None = None
    outputs: tuple[str, ...] = ()
    label_offset: int = 0
    images: str | None = None
    image_count: tuple[int, int] = (500, 2)
    slope: float | None = None

    @property
    def in_package(self) -> bool:
        return self.sha256 is None

    @property
    def files(self) -> tuple[ZooFile, ...]:
        """Everything that others published and the network needs, its labels last."""
        if self.sha256 is None:
            return ()
        labels = () if self.label_file is None else (self.label_file,)
        return (ZooFile(self.file, self.sha256, self.url), *self.companions, *labels)

    def path(self) -> Path:
        """The file; raises ``ModelError``, naming where it was looked for and its origin, when it is not there."""
        if self.in_package:
            return PACKAGE_FOLDER / self.file
        for companion in self.companions:
            companion.find(self.name, self.origin)
        return self.files[0].find(self.name, self.origin)

    def class_names(self) -> tuple[str, ...]:
        """The labels, from their file where they have one; none where that is missing."""
        if self.label_file is None:
            return self.labels
        try:
            text = self.label_file.find(self.name, self.origin).read_text()
        except ModelError:
            return ()
        return tuple(_SYNSET.sub("", line) for line in text.splitlines())


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


def download_root() -> Path:
    """The folder that downloads go to: ``EMBERLINE_DATA``, or the user's cache."""
    named = os.environ.get("EMBERLINE_DATA")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "emberline" / "zoo"
