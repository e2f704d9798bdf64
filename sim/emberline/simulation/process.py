"""The simulator as a child process: cocotb's environment, its log, and its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from emberline.simulation.build import Build
from emberline.simulation.harness import PLAN_VARIABLE
from emberline.simulation.toolchain import find_toolchain

LOG_TAIL_LINES = 15


def start_simulator(
    build: Build,
    test_module: str,
    folder: Path,
    *,
    test_filter: str = "",
    variables: Mapping[str, str] | None = None,
    python_path: Sequence[Path] = (),
    pass_fds: Sequence[int] = (),
    waves: Path | None = None,
    seed: int = 0,
) -> subprocess.Popen[bytes]:
    """Start a built bench with a cocotb test module; its log is ``simulator.log`` and its results ``results.xml``.

    Parameters:
        folder: where the process runs and writes; it must exist.
        test_filter: regular expression over ``module.test`` names; empty for all tests.
        python_path: folders searched for modules before those of this process.
        waves: write a VCD file there; the build must have waves.
        seed: of Python's ``random`` in the tests.

    The child has a session of its own, so that an interrupt from the keyboard reaches this process only.
    """
    import cocotb_tools.config

    if waves is not None and not build.waves:
        raise ValueError("this build cannot write waves: build it with waves=True")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COCOTB_")}
    # Not the folder that the build was linked in: the cache outlives environments.
    libraries = [cocotb_tools.config.libs_dir, *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    environment |= {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "COCOTB_TOPLEVEL": "bench",
        "COCOTB_TEST_MODULES": test_module,
        "COCOTB_RESULTS_FILE": str(folder / "results.xml"),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_ANSI_OUTPUT": "0",
        "TOPLEVEL_LANG": "verilog",
        "GPI_USERS": f"{find_toolchain().libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join([*map(str, python_path), *(entry or os.getcwd() for entry in sys.path)]),
        PLAN_VARIABLE: str(build.folder / "plan.json"),
        **(variables or {}),
    }
    if test_filter:
        environment["COCOTB_TEST_FILTER"] = test_filter
    arguments = [str(build.executable), *(["--trace-file", str(waves.absolute())] if waves is not None else [])]
    log: IO[bytes]
    with (folder / "simulator.log").open("wb") as log:
        return subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )


def stop_simulator(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Wait for a simulator that was told to end, and end it when it does not."""
    try:
        process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def log_tail(folder: Path) -> str:
    """The last lines of the simulator's log, for an error message."""
    try:
        lines = (folder / "simulator.log").read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-LOG_TAIL_LINES:])
