"""``emberline info``: the presets, the zoo, and whether the RTL can be simulated here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from emberline.cli import console


def register(app: typer.Typer) -> None:
    app.command(name="info", help="List architectures, networks and what is missing on this machine.")(info)


def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    report = build_report()
    if as_json:
        console.print_json(report)
        return
    console.print_table(
        ("architecture", ">lanes", ">multipliers", ">activations", ">weights", ">MHz", "board"),
        [
            (each["name"], f"{each['lanes_in']}x{each['lanes_out']}", each["multipliers"], each["activation_bytes"],
             each["weight_bytes"], f"{each['clock_hz'] / 1e6:g}", each["board"])
            for each in report["architectures"]
        ],
        title="architectures",
    )  # fmt: skip
    console.print_table(
        ("network", "what", "file"),
        [(each["name"], each["title"], each["file"] or "not here: " + each["origin"]) for each in report["networks"]],
        title="networks",
    )
    console.print_line(report["simulation_is_missing"] or "RTL simulation: everything is there")


def build_report() -> dict[str, Any]:
    """The JSON document of ``emberline info``."""
    from emberline.arch.presets import PRESETS
    from emberline.cli.toolchain import missing_for_simulation
    from emberline.zoo import ZOO

    return {
        "architectures": [
            {
                **asdict(each),
                "multipliers": each.multipliers,
                "activation_bytes": each.activation_bytes,
                "weight_bytes": each.weight_bytes,
            }
            for each in PRESETS.values()
        ],
        "networks": [
            {
                "name": entry.name,
                "title": entry.title,
                "file": _file(entry.name),
                "origin": entry.origin,
                "licence": entry.licence,
            }
            for entry in ZOO.values()
        ],
        "simulation_is_missing": missing_for_simulation(),
    }


def _file(name: str) -> str | None:
    from emberline.errors import ModelError
    from emberline.zoo import ZOO

    try:
        return str(ZOO[name].path())
    except ModelError:
        return None
