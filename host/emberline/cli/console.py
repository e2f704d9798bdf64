"""What goes where: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

Item = TypeVar("Item")

UNLIMITED = 10_000
"""Characters in a line that is not for a terminal: tables are as wide as their contents."""

messages = Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """A line for people, on standard error."""
    messages.print(text, markup=False, soft_wrap=True)


def progress(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """``items`` with a progress bar on standard error, if that is a terminal."""
    if messages.is_terminal:
        yield from track(items, description, total=total, console=messages, transient=True)
    else:
        yield from items


def print_json(document: Any) -> None:
    """The one JSON document of a command, on standard output."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_line(text: str = "") -> None:
    """A line of the result, on standard output."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table on standard output; columns whose name begins with ``>`` are numbers and stand to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def number(value: float | None, digits: int) -> str | None:
    """A number with so many digits behind the point, if there is one."""
    return None if value is None else f"{value:.{digits}f}"
