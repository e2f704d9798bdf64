"""``emberline build``: a bitstream for a board, with the open tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberline.cli import console
from emberline.errors import BuildError


def register(app: typer.Typer) -> None:
    app.command(name="build", help="Build the bitstream of a board: synthesis, place and route, reports.")(build)


def build(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A board with a preset, such as ulx3s-85f.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Copy the bitstream to this file.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the placer, default that of the board's committed report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """The work is done in `emberline.gateware.boards.build`."""
    try:
        from emberline.gateware.boards import build as builder
    except ModuleNotFoundError as error:
        raise BuildError(f"building needs the package {error.name}: pip install 'emberline[build]'") from None
    console.note(f"building {target}: synthesis, place and route take some minutes, unless it was built before")
    report = builder.build(target, seed=seed, output=output)
    document = report.to_json() | {"bitstream": str(output or report.bitstream)}
    if as_json:
        console.print_json(document)
        return
    rows = [("bitstream", document["bitstream"]), ("clock", f"{report.achieved_mhz} MHz of {report.clock_mhz:g} MHz")]
    rows += [(name, f"{count} of {report.available[name]}") for name, count in report.used.items()]
    console.print_table(("", ""), rows, title=target)
