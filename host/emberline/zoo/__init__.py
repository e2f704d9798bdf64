"""The networks known by name: where their files come from, what their outputs and inputs mean."""

from __future__ import annotations

import hashlib

from emberline.zoo.entries import PACKAGE_FOLDER, Reader, ZooEntry, ZooFile, data_root, download_root
from emberline.zoo.table import CIFAR10_LABELS, ENTRIES

__all__ = [
    "CIFAR10_LABELS",
    "PACKAGE_FOLDER",
    "ZOO",
    "Reader",
    "ZooEntry",
    "ZooFile",
    "data_root",
    "download_root",
    "find_by_contents",
    "find_by_name",
]

ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in ENTRIES}
ALIASES = {"squeezenet1.1": "squeezenet_v1.1", "squeezenet1.0-dc": "squeezenet_v1.0"}
"""Other names that people know networks by."""


def find_by_name(name: str) -> ZooEntry | None:
    """The entry of a name, or of one of ``ALIASES``."""
    return ZOO.get(ALIASES.get(name, name))


def find_by_contents(data: bytes) -> ZooEntry | None:
    """The entry whose file has these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    for entry in ZOO.values():
        if entry.sha256 == digest:
            return entry
        if entry.in_package and entry.path().is_file() and entry.path().read_bytes() == data:
            return entry
    return None
