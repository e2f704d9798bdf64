"""``emberline zoo``: the networks known by name, their files, and whether they compute what they should."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console
from emberline.errors import EmberlineError

if TYPE_CHECKING:
    from emberline.cli.zoo_verify import Row
    from emberline.zoo import ZooEntry, ZooFile

LARGEST_DOWNLOAD_BYTES = 64 << 20
_TIMEOUT_SECONDS = 60

zoo = typer.Typer(help="The networks known by name: list them, fetch their files, verify them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(zoo, name="zoo")


@zoo.command(name="list", help="List the networks, where their files come from and whether they are here.")
def list_networks(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    from emberline.zoo import ZOO

    report = [_describe(entry) for entry in ZOO.values()]
    if as_json:
        console.print_json(report)
        return
    console.print_table(
        ("network", "what", "licence", "origin", "here"),
        [(e["name"], e["title"], e["licence"], e["origin"], "yes" if e["here"] else "no") for e in report],
    )


@zoo.command(help="Download the files of networks, checking their hashes.")
def fetch(names: Annotated[list[str], typer.Argument(metavar="NETWORK...", help="Names from the list.")]) -> None:
    from emberline.zoo import download_root

    for entry in _entries(names):
        for file in entry.files:
            if _find(entry, file) is not None:
                console.print_line(f"{entry.name}: {file.name} is here")
            elif file.url is None:
                raise EmberlineError(f"{file.name} cannot be downloaded: it was made from {entry.origin}")
            else:
                path = download(file.url, file.sha256, download_root() / file.name)
                console.print_line(f"{entry.name}: {path}")


@zoo.command(help="Check hashes, and compare networks with their references; status 1 if any differs.")
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NETWORK...]", help="Names from the list.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every network whose files are here.")] = False,
    on: Annotated[
        str, typer.Option(help="What is verified, with commas between: model, emulator, rtl.")
    ] = "model,emulator",
    frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames.")] = None,
    arch: Annotated[str, typer.Option(help="The machine of emulator and RTL; the large one where it is too small.")] = (
        "ulx3s-85f"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.networks import find_architecture
    from emberline.cli.zoo_verify import Row, check_files, verify_entry
    from emberline.zoo import ZOO

    if bool(names) == everything:
        raise EmberlineError("name networks, or give --all")
    places = on.split(",")
    if not set(places) <= {"model", "emulator", "rtl"}:
        raise EmberlineError(f"--on takes model, emulator and rtl with commas between, not '{on}'")
    architecture = find_architecture(arch)
    rows: list[Row] = []
    for entry in _entries(names or list(ZOO)):
        missing = check_files(entry)
        if missing and not everything:
            entry.path()
        found = (
            [Row(entry.name, "model", None, note=f"not here: {', '.join(missing)}")]
            if missing
            else verify_entry(entry, places, architecture, frames)
        )
        for row in found:
            rows.append(row)
            (console.note if as_json else console.print_line)(_sentence(row))
    if as_json:
        console.print_json([row.to_json() for row in rows])
    if any(row.failed for row in rows):
        raise typer.Exit(1)


def _sentence(row: Row) -> str:
    parts = [f"{row.name} on {row.on}" + (f" ({row.arch})" if row.arch else "")]
    if row.differing_outputs is not None:
        parts.append(f"{row.images} frames against {row.against}: {row.result}")
    for what, share in (("top-1", row.top1), ("top-5", row.top5), ("float", row.float_top1), ("/", row.float_top5)):
        if share is not None:
            parts.append(f"{what} {console.percent(share)}")
    if row.faces:
        parts.append(f"faces {' and '.join(map(str, row.faces))}")
    if row.note:
        parts.append(row.note)
    return ", ".join(parts)


def download(url: str, sha256: str, target: Path) -> Path:
    """A file from the network, written only if it has this hash. Raises ``EmberlineError``, naming the address."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            data: bytes = response.read(LARGEST_DOWNLOAD_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise EmberlineError(f"{url} cannot be downloaded: {error}") from error
    if len(data) > LARGEST_DOWNLOAD_BYTES:
        raise EmberlineError(f"{url} is larger than {LARGEST_DOWNLOAD_BYTES >> 20} MiB")
    check_hash(data, sha256, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    partial.write_bytes(data)
    os.replace(partial, target)
    return target


def check_hash(data: bytes, sha256: str, name: str) -> None:
    """Raise ``EmberlineError`` for contents with another hash."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise EmberlineError(f"{name} has sha256 {found}, not {sha256}: it is another or a damaged file")


def _entries(names: list[str]) -> list[ZooEntry]:
    from emberline.zoo import ZOO, find_by_name

    found = []
    for name in names:
        entry = find_by_name(name)
        if entry is None:
            raise EmberlineError(f"no network of the zoo is called '{name}'; there are {', '.join(ZOO)}")
        found.append(entry)
    return found


def _find(entry: ZooEntry, file: ZooFile) -> Path | None:
    from emberline.errors import ModelError

    try:
        return file.find(entry.name, entry.origin)
    except ModelError:
        return None


def _describe(entry: ZooEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "origin": entry.origin,
        "licence": entry.licence,
        "kind": entry.reader.value,
        "preprocessing": dict(entry.preprocessing),
        "files": [{"name": file.name, "sha256": file.sha256, "url": file.url} for file in entry.files],
        "here": all(_find(entry, file) is not None for file in entry.files),
    }
