"""``emberline bench``: cycles and memory of networks, measured in the RTL simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.cli.networks import Network

SEED = 1


def register(app: typer.Typer) -> None:
    app.command(name="bench", help="Measure cycles, utilisation and memory in the RTL simulation.")(bench)


def bench(
    networks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK...]", help="Zoo or synthetic names, or model files; default: the zoo."),
    ] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="An architecture preset, default ulx3s-85f; may be repeated.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Draw where the cycles go, layer by layer, into this file (.svg, .png).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.engines import check_simulation
    from emberline.cli.networks import DEFAULT_ARCHITECTURE, find_architecture, load_network

    check_simulation()
    architectures = [find_architecture(name) for name in arch or (DEFAULT_ARCHITECTURE,)]
    loaded = [load_network(name) for name in networks or available_networks()]
    reports = []
    for network in loaded:
        for architecture in architectures:
            console.note(f"simulating {network.name} on {architecture.name}")
            reports.append(measure(network, architecture))
    if chart is not None:
        from emberline.cli.chart import draw

        draw([network.compile(architecture) for network in loaded for architecture in architectures], chart)
        console.note(f"the chart is in {chart}")
    if as_json:
        console.print_json(reports)
    else:
        print_reports(reports)


def available_networks() -> list[str]:
    """The zoo's networks whose files are here; the others are named on standard error."""
    from emberline.errors import ModelError
    from emberline.zoo import ZOO

    found = []
    for name, entry in ZOO.items():
        try:
            entry.path()
        except ModelError as error:
            console.note(f"left out: {error}")
        else:
            found.append(name)
    return found


def measure(network: Network, architecture: Architecture) -> dict[str, Any]:
    """One frame of random codes through the simulated board; nothing that is reported depends on the data.

    Raises ``EmberlineError`` where the result is not the model's: a wrong result has no speed.
    """
    import numpy as np

    from emberline.cli.comparison import compare
    from emberline.cli.engines import ModelEngine, open_engine
    from emberline.cli.report import bench_report
    from emberline.errors import EmberlineError

    program = network.compile(architecture)
    frames = np.random.default_rng(SEED).integers(-128, 128, (1, *network.input.shape), np.int8)
    with open_engine("rtl", network, architecture) as engine:
        (result,) = engine.run(frames)
    (expected,) = ModelEngine(network).run(frames)
    difference = compare([result.outputs], [expected.outputs])
    if not difference.equal:
        raise EmberlineError(
            f"network '{network.name}' on '{architecture.name}': {difference.differing_outputs} of "
            f"{difference.outputs} outputs of the RTL differ from the model's"
        )
    assert result.cycles is not None
    return bench_report(program, result.cycles)


def print_reports(reports: list[dict[str, Any]]) -> None:
    """The same as a table for people."""
    console.print_table(
        ("network", "arch", ">MACs", ">cycles", ">predicted", ">utilisation", ">activations", ">weights", ">M9K",
         ">MHz", ">ms", ">frames/s", ">frames/s/multiplier"),
        [
            (each["network"], each["arch"], each["macs"], each["cycles"], each["predicted_cycles"],
             console.percent(each["utilisation"]), each["activation_bytes"], each["weight_bytes"], each["m9k"],
             console.number(each["clock_mhz"], 1), console.number(each["milliseconds"], 3),
             console.number(each["frames_per_second"], 0), console.number(each["frames_per_second_per_multiplier"], 2))
            for each in reports
        ],
    )  # fmt: skip
