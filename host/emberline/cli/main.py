"""The entry point: every command, and one way to report errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from emberline.cli import bench, build, compile, demo, detect, info, inspect, quantize, run, verify, weights, zoo
from emberline.errors import EmberlineError

USER_ERROR = 1
INTERNAL_ERROR = 70

app = typer.Typer(
    name="emberline",
    help="Small int8 networks on small FPGAs: compile, run, verify, measure, build.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (compile, run, verify, bench, build, demo, detect, info, quantize, inspect, weights, zoo):
    command.register(app)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")] = False,
) -> None:
    if debug:
        os.environ["EMBERLINE_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: what a user caused is one message and status 1, never a traceback."""
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="emberline")
    except EmberlineError as error:
        _report(str(error), USER_ERROR, error)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        _report(f"{name}{error.strerror or error}", USER_ERROR, error)
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error} (emberline --debug shows where)"
        _report(text, INTERNAL_ERROR, error)


def _report(text: str, status: int, error: Exception) -> None:
    if os.environ.get("EMBERLINE_DEBUG"):
        raise error
    print(f"emberline: {text}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
