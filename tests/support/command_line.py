"""Run the command line inside the test process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from emberline.cli.main import main


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, all of it, as one document."""
        return json.loads(self.out)


def invoke(capfd: pytest.CaptureFixture[str], *arguments: object) -> Finished:
    """Run ``emberline ARGUMENTS``; ``capfd`` also catches what libraries print by themselves."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    code = exit_info.value.code
    return Finished(code if isinstance(code, int) else 0 if code is None else 1, out, err)
