"""``emberline bench``: cycles and memory of networks, measured in the RTL simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture
    from emberline.arch.program import Program
    from emberline.cli.engines import FrameResult
    from emberline.cli.networks import Network
    from emberline.cli.pace import Pace
    from emberline.compiler.network_plan import WeightPlace

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
    weights: Annotated[
        str, typer.Option(help="resident, flash, link or auto: where weights are, as for `emberline compile`.")
    ] = "auto",
    flash_rate: Annotated[
        list[float] | None, typer.Option(help="MB/s of the flash; may be repeated, for a row each.")
    ] = None,
    slope: Annotated[
        float | None,
        typer.Option(help="Of float networks, which are quantised first: see `emberline quantize`; default the zoo's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    from emberline.cli.engines import check_simulation
    from emberline.cli.float_network import load_quantised
    from emberline.cli.machines import weight_place
    from emberline.cli.networks import DEFAULT_ARCHITECTURE, find_architecture

    check_simulation()
    architectures = [find_architecture(name) for name in arch or (DEFAULT_ARCHITECTURE,)]
    place = weight_place(weights)
    loaded = [load_quantised(name, slope) for name in networks or available_networks()]
    cases = compile_all(loaded, architectures, place, flash_rate or [])
    reports = report_all(cases, frames)
    if chart is not None:
        from emberline.cli.chart import draw

        draw([case.program for case in cases if case.program is not None], chart)
        console.note(f"the chart is in {chart}")
    if as_json:
        console.print_json(reports)
    else:
        from emberline.cli.bench_tables import print_reports

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


@dataclass(frozen=True)
class Case:
    """A network on a machine, or why it is not there.

    Parameters:
        asked: what ``--arch`` names.
        program: for the machine that was chosen; ``None`` where there is none.
        rates: whether rates of the flash were given.
    """

    network: Network
    asked: Architecture
    program: Program | None
    why_not: str | None = None
    rates: bool = False


def compile_all(
    networks: Sequence[Network], architectures: Sequence[Architecture], place: WeightPlace, rates: Sequence[float]
) -> list[Case]:
    """Every network on every architecture, one that fetches weights at every rate.

    Raises ``CompileError`` where none can be compiled.
    """
    from emberline.cli.machines import compile_for
    from emberline.errors import CompileError

    cases: list[Case] = []
    first_error = None
    for network in networks:
        for architecture in architectures:
            for rate in rates or (None,):
                try:
                    program = compile_for(network, architecture, place, rate)
                except CompileError as error:
                    first_error = first_error or error
                    cases.append(Case(network, architecture, None, str(error)))
                    break
                cases.append(Case(network, architecture, program, rates=bool(rates)))
                if not program.stream:
                    break
    if first_error is not None and not any(case.program for case in cases):
        raise first_error
    return cases


def report_all(cases: Sequence[Case], frames: int) -> list[dict[str, Any]]:
    """An object for each; all have the same keys."""
    measured: list[dict[str, Any] | None] = []
    for case in cases:
        if case.program is None:
            measured.append(None)
        else:
            console.note(f"simulating {case.network.name} on {case.program.architecture.name}")
            measured.append(measure(case, frames))
    keys = next(list(each) for each in measured if each is not None)
    return [
        each or {**dict.fromkeys(keys), "network": case.network.name, "arch": case.asked.name,
                 "preset": case.asked.name, "why_not": case.why_not}
        for case, each in zip(cases, measured, strict=True)
    ]  # fmt: skip


def measure(case: Case, count: int = 1) -> dict[str, Any]:
    """Frames of random codes through the simulated board; nothing that is reported depends on the data.

    Weights at a pace that no clock of a flash gives cannot be simulated: then cycles are predicted.

    Raises ``EmberlineError`` where a result is not the model's: a wrong result has no speed.
    """
    from emberline.cli.report import bench_report
    from emberline.errors import BuildError
    from emberline.gateware.machine import check_buildable

    network, program = case.network, case.program
    assert program is not None
    results: list[FrameResult] = []
    pace = None
    try:
        check_buildable(program.architecture)
    except BuildError as error:
        console.note(f"{error}: cycles of {network.name} are predicted")
    else:
        results, pace = run_frames(network, program, count)
    taken = max((each.cycles or 0 for each in results), default=program.predicted_cycles)
    return {
        **bench_report(program, taken),
        "frames": len(results),
        **back_to_back(program, taken, pace),
        **predictions(case),
        "preset": case.asked.name,
        "why_not": None,
    }


def run_frames(network: Network, program: Program, count: int) -> tuple[list[FrameResult], Pace | None]:
    """Results that are the model's, and of several frames their pace.

    All that never waited for the host take as many cycles; such a wait may hide another one.
    """
    import numpy as np

    from emberline.cli import engines, pace
    from emberline.cli.comparison import compare
    from emberline.errors import EmberlineError

    found, where = None, f"network '{network.name}' on '{program.architecture.name}'"
    frames = np.random.default_rng(SEED).integers(-128, 128, (count, *network.input.shape), np.int8)
    if count == 1:
        with engines.open_engine("rtl", replace(network, program=program), program.architecture) as engine:
            results = list(engine.run(frames))
    else:
        results, found = pace.run_back_to_back(program, frames)
    expected = [each.outputs for each in engines.ModelEngine(network).run(frames)]
    difference = compare([each.outputs for each in results], expected)
    if not difference.equal:
        raise EmberlineError(
            f"{where}: {difference.differing_outputs} of {difference.outputs} outputs of the RTL differ from the "
            "model's"
        )
    cycles = {each.cycles for each in results if not each.stall_cycles}
    if len(cycles) > 1:
        raise EmberlineError(f"{where}: frames take {sorted(map(str, cycles))}")
    return results, found


def back_to_back(program: Program, cycles: int, pace: Pace | None) -> dict[str, Any]:
    """What is reported of frames that follow each other, each of which takes so many ``cycles`` beside its waits."""
    clock = program.architecture.clock_hz
    return {
        "back_to_back_cycles": pace and pace.cycles,
        "back_to_back_waiting_cycles": pace and pace.cycles - cycles,
        "back_to_back_frames_per_second": pace and clock / pace.cycles,
        "latency_cycles": pace and pace.latencies[0],
        "back_to_back_latency_cycles": pace and max(pace.latencies[1:]),
    }


def predictions(case: Case) -> dict[str, Any]:
    """What the compiler predicts for other sources of the weights, where they are fetched and no rate was given."""
    from emberline.cli.report import built_clock_mhz

    program = case.program
    assert program is not None
    machine = program.architecture
    found: dict[str, Any] = {"resident_cycles": None, "flash_rates": [], "built_flash_rates": []}
    if case.rates or not program.stream:
        return found
    found["resident_cycles"] = resident_cycles(case.network, machine)
    if not machine.fetches_from_flash:
        return found
    found["flash_rates"] = flash_rates(case.network, program)
    clock = built_clock_mhz(machine)
    if clock is not None:
        built = replace(program, architecture=replace(machine, clock_hz=round(1e6 * clock)))
        found["built_flash_rates"] = flash_rates(case.network, built)
    return found


def resident_cycles(network: Network, architecture: Architecture) -> int | None:
    """Of a frame on the machine with memories for all weights and instructions; ``None`` if that is not enough."""
    from emberline.arch.architecture import LARGEST_DEPTHS
    from emberline.errors import CompileError

    depths: dict[str, Any] = {name: LARGEST_DEPTHS[name] for name in ("weight_depth_words", "program_depth_words")}
    try:
        return network.compile(replace(architecture, weight_word_cycles=0, **depths)).predicted_cycles
    except CompileError:
        return None


def flash_rates(network: Network, program: Program) -> list[dict[str, Any]]:
    """What the compiler predicts with other flashes, at the architecture's clock: as if all weights were there, and at
    some rates of those that a flash has."""
    from emberline.cli.machines import with_flash

    spent = [layer.spent for layer in program.layers]
    walked = sum(each.total - each.weights for each in spent)
    rows = [_at_rate(program, None, walked)]
    for rate in RATES:
        machine = with_flash(program.architecture, rate)
        same = machine == program.architecture
        other = program if same else network.compile(machine)
        rows.append(_at_rate(other, rate, other.predicted_cycles))
    return rows


def _at_rate(program: Program, rate: float | None, cycles: int) -> dict[str, Any]:
    frames = program.architecture.clock_hz / cycles
    return {
        "megabytes_per_second": rate,
        "cycles": cycles,
        "frames_per_second": frames,
        "stored_bytes": len(program.stream),
        "fetched_bytes": program.fetched_bytes,
        "fetched_megabytes_per_second": program.fetched_bytes * frames / 1e6,
    }
