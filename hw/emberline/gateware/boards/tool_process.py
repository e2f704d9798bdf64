"""Running the tools that make bitstreams: where they may look, for how long, and what is said when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from emberline.errors import BuildError

LIMIT_S = 3600
"""Seconds after which a tool is stopped, about twice what the longest has taken. A placer or a router that finds no way
does not say so."""


class ToolStoppedError(BuildError):
    """A tool has not come to an end in time."""


def run_tool(
    command: Sequence[str | Path],
    folder: Path,
    log: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    limit_s: float = LIMIT_S,
) -> None:
    """Run a tool in a folder, which holds all that it needs; what it says goes to the file ``log`` there.

    Parameters: ``environment``: variables beside those that there are.

    Raises ``ToolStoppedError`` after ``limit_s`` seconds, ``BuildError`` with the end of the log for a tool that fails.
    Whatever happens, none of its processes is left.
    """
    path = folder / log
    with path.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(limit_s)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ToolStoppedError(f"{command[0]} was stopped after {limit_s:g} seconds; see {path}") from None
            raise
    if process.returncode:
        raise BuildError(f"{command[0]} failed with exit status {process.returncode}; {end_of(path)}")


def end_of(path: Path) -> str:
    """The last lines of a log, for an error's message."""
    return f"the end of {path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:])
