"""The dependency rules of the house: who may import whom, read from the source with ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROOTS = tuple(CHECKOUT / root / "emberline" for root in ("hw", "host", "sim"))

# package: prefixes that none of its modules may import
FORBIDDEN = {
    "emberline.arch": ("amaranth", "numpy", "emberline.gateware", "emberline.model", "emberline.compiler",
                       "emberline.driver", "emberline.simulation", "emberline.cli"),
    "emberline.gateware": ("numpy", "cocotb", "emberline.compiler", "emberline.driver", "emberline.model",
                           "emberline.simulation", "emberline.cli"),
    "emberline.model": ("amaranth", "emberline.gateware", "emberline.driver", "emberline.simulation",
                        "emberline.cli"),
    "emberline.compiler": ("amaranth", "cocotb", "emberline.gateware", "emberline.driver", "emberline.simulation",
                           "emberline.cli"),
    "emberline.driver": ("amaranth", "emberline.gateware", "emberline.cli"),
    "emberline.simulation": ("emberline.cli",),
}  # fmt: skip


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package as (dotted name, file)."""
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(module: str, source: str, *, is_package: bool = False) -> set[str]:
    """The dotted names a module imports, wherever in it; `from a import b` counts as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")
                anchor = anchor[: len(anchor) - node.level + is_package]
                base = ".".join([*anchor, base] if base else anchor)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def violations(module: str, names: set[str]) -> list[str]:
    return [
        f"{module} imports {name}"
        for package, prefixes in FORBIDDEN.items()
        if within(module, package)
        for name in sorted(names)
        if any(within(name, prefix) for prefix in prefixes)
    ]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_keeps_to_its_dependencies(package: str) -> None:
    found = [
        line
        for module, path in sources()
        if within(module, package)
        for line in violations(module, imported(module, path.read_text(), is_package=path.name == "__init__.py"))
    ]
    assert not found


def test_no_init_directly_under_a_namespace_root() -> None:
    assert [root for root in ROOTS if (root / "__init__.py").exists()] == []


def test_no_other_package_is_installed_at_the_top_level() -> None:
    for root in ("hw", "host", "sim"):
        folder = CHECKOUT / root
        strangers = [path.name for path in folder.glob("*") if path.name not in ("emberline", "__pycache__")]
        assert not strangers, f"{root}/ holds {strangers} beside emberline/"


def test_subpackage_lives_under_one_root() -> None:
    owners: dict[str, Path] = {}
    for root in ROOTS:
        for path in root.glob("*"):
            if path.is_dir() and path.name != "__pycache__":
                assert owners.setdefault(path.name, root) == root, f"emberline.{path.name} is in two roots"


@pytest.mark.parametrize(
    ("module", "source", "is_package", "expected"),
    [
        ("emberline.arch.isa", "import numpy as np", False, "emberline.arch.isa imports numpy"),
        ("emberline.model.emulator", "def f():\n    from amaranth.hdl import Signal", False, "imports amaranth.hdl"),
        ("emberline.gateware.top", "from emberline import driver", False, "imports emberline.driver"),
        ("emberline.gateware.top", "from ..compiler.steps import Step", False, "imports emberline.compiler.steps"),
        ("emberline.gateware", "from ..driver import Device", True, "imports emberline.driver"),
    ],
)
def test_violation_is_found(module: str, source: str, is_package: bool, expected: str) -> None:
    assert any(expected in line for line in violations(module, imported(module, source, is_package=is_package)))


def test_similar_name_is_no_violation() -> None:
    assert violations("emberline.arch.isa", imported("emberline.arch.isa", "import numpylike, emberline.arch.x")) == []
