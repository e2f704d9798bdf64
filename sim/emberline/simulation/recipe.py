"""Recipes: short texts that determine a component, so that a cached build is found without elaborating it again."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
from pathlib import Path


def recipe(*values: object, packages: tuple[str, ...] = ("emberline.arch", "emberline.gateware")) -> str:
    """The recipe of a component that depends on nothing but ``values`` and the source code of ``packages``.

    The values' ``repr`` must tell them apart, as a dataclass's does.
    """
    lines = [repr(value) for value in values]
    lines += [f"{package} {_sources_digest(package)}" for package in packages]
    return "\n".join([*lines, f"amaranth {importlib.metadata.version('amaranth')}"])


@functools.cache
def _sources_digest(package: str) -> str:
    digest = hashlib.sha256()
    for folder in importlib.import_module(package).__path__:
        for path in sorted(Path(folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
