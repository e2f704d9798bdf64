"""``emberline build``: a bitstream for a board, with the open tools."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from emberline.cli import console
from emberline.errors import EmberlineError


def register(app: typer.Typer) -> None:
    app.command(name="build", help="Build the bitstream of a board: synthesis, place and route, reports.")(build)


def build(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A board with a preset, such as ulx3s-85f.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Calls ``bitstreams.build.build(target)``, which returns a mapping of what was built and measured."""
    builder = load_builder()
    if target not in builder.TARGETS:
        raise EmberlineError(f"no board is called '{target}'; there are {', '.join(builder.TARGETS)}")
    console.note(f"building {target}: synthesis, place and route take some minutes")
    report = builder.build(target)
    if as_json:
        console.print_json(report)
    else:
        console.print_table(("", ""), list(report.items()), title=target)


def load_builder() -> ModuleType:
    """``bitstreams/build.py``, which lies beside the package in a checkout and is not installed with it."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "bitstreams" / "build.py").is_file():
        raise EmberlineError("bitstreams are built from the project's checkout: there is no bitstreams/build.py here")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return importlib.import_module("bitstreams.build")
