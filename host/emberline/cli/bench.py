"""``emberline bench``: cycles and memory of networks, measured in the RTL simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.arch.program import Program
    from emberline.cli.networks import Network

SEED = 1
RATES = (25.0, 50.0)
"""MB/s of a flash with four lines at 50 MHz and at 100 MHz."""


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
    frames: Annotated[int, typer.Option(min=1, help="How many frames, compared with the model.")] = 1,
    slope: Annotated[
        float | None, typer.Option(help="Of float networks, which are quantised first; see `emberline quantize`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.engines import check_simulation
    from emberline.cli.float_network import load_quantised
    from emberline.cli.networks import DEFAULT_ARCHITECTURE, find_architecture

    check_simulation()
    architectures = [find_architecture(name) for name in arch or (DEFAULT_ARCHITECTURE,)]
    loaded = [load_quantised(name, slope) for name in networks or available_networks()]
    reports = []
    for network in loaded:
        for architecture in architectures:
            console.note(f"simulating {network.name} on {architecture.name}")
            reports.append(measure(network, architecture, frames))
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


def measure(network: Network, architecture: Architecture, count: int = 1) -> dict[str, Any]:
    """Frames of random codes through the simulated board; nothing that is reported depends on the data.

    Raises ``EmberlineError`` where a result is not the model's: a wrong result has no speed.
    """
    from dataclasses import replace

    import numpy as np

    from emberline.cli.comparison import compare
    from emberline.cli.engines import ModelEngine, open_engine
    from emberline.cli.report import bench_report, built_clock_mhz
    from emberline.errors import EmberlineError

    program = network.compile(architecture)
    frames = np.random.default_rng(SEED).integers(-128, 128, (count, *network.input.shape), np.int8)
    with open_engine("rtl", replace(network, program=program), architecture) as engine:
        results = list(engine.run(frames))
    difference = compare(
        [each.outputs for each in results], [each.outputs for each in ModelEngine(network).run(frames)]
    )
    if not difference.equal:
        raise EmberlineError(
            f"network '{network.name}' on '{architecture.name}': {difference.differing_outputs} of "
            f"{difference.outputs} outputs of the RTL differ from the model's"
        )
    cycles = {each.cycles for each in results}
    if len(cycles) != 1:
        raise EmberlineError(
            f"network '{network.name}' on '{architecture.name}': frames take {sorted(map(str, cycles))}"
        )
    (taken,) = cycles
    assert taken is not None
    rates: dict[str, list[dict[str, Any]]] = {"flash_rates": [], "built_flash_rates": []}
    if program.stream:
        rates["flash_rates"] = flash_rates(network, program)
        clock = built_clock_mhz(architecture)
        if clock is not None:
            built = replace(program, architecture=replace(architecture, clock_hz=round(1e6 * clock)))
            rates["built_flash_rates"] = flash_rates(network, built)
    return {**bench_report(program, taken), "frames": count, **rates}


def flash_rates(network: Network, program: Program) -> list[dict[str, Any]]:
    """What the compiler predicts with other flashes, at the architecture's clock: as if all weights were there, and at
    some rates of those that a flash has."""
    from emberline.cli.compile import with_flash

    spent = [layer.spent for layer in program.layers]
    walked = sum(each.total - each.weights for each in spent)
    clock = program.architecture.clock_hz
    rows = [{"megabytes_per_second": None, "cycles": walked, "frames_per_second": clock / walked}]
    for rate in RATES:
        other = network.compile(with_flash(program.architecture, rate))
        cycles = other.predicted_cycles
        rows.append({"megabytes_per_second": rate, "cycles": cycles, "frames_per_second": clock / cycles})
    return rows


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
    for each in reports:
        if each["fetched_bytes"]:
            console.print_line(
                f"{each['network']} on {each['arch']}: {each['fetched_bytes']:,} bytes fetched a frame, "
                f"{each['weight_cycles']:,} cycles waited for them; the result comes {each['cycles_after_input']:,} "
                "cycles after the frame's last row"
            )
            console.print_line(f"predicted at {each['preset_mhz']:g} MHz: {_rates(each['flash_rates'])}")
            if each["built_flash_rates"]:
                console.print_line(f"predicted at {each['clock_mhz']:g} MHz: {_rates(each['built_flash_rates'])}")


def _rates(rows: list[dict[str, Any]]) -> str:
    def when(rate: float | None) -> str:
        return "if no row waited" if rate is None else f"at {rate:g} MB/s"

    return "; ".join(
        f"{row['cycles']:,} cycles, {row['frames_per_second']:.1f} frames/s {when(row['megabytes_per_second'])}"
        for row in rows
    )
