"""``emberline demo``: real photographs through the whole machine, every way it can be computed, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberline.cli import console

if TYPE_CHECKING:
    from emberline.cli.engines import Codes, FrameResult
    from emberline.cli.networks import Network
    from emberline.cli.photographs import Photograph

NETWORK = "ember_cifar10"


def register(app: typer.Typer) -> None:
    app.command(name="demo", help="Classify photographs on the simulated hardware and compare with every other way.")(
        demo
    )


def demo(
    arch: Annotated[str, typer.Option(help="An architecture preset.")] = "ulx3s-85f",
    on: Annotated[
        str | None, typer.Option(help="rtl, emulator or a serial port; default: rtl where it can be simulated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N photographs.")] = None,
) -> None:
    from emberline.cli.frames import load_all
    from emberline.cli.networks import find_architecture, load_network
    from emberline.cli.photographs import available_photographs

    started = time.monotonic()
    network, architecture = load_network(NETWORK), find_architecture(arch)
    photographs = available_photographs()[:limit]
    frames = load_all([str(each.path()) for each in photographs], network).frames
    program = network.compile(architecture)
    console.print_line(
        f"{network.name}: {program.macs:,} multiply-accumulates a frame on {architecture.multipliers} multipliers of "
        f"'{architecture.name}' at {architecture.clock_hz / 1e6:g} MHz"
    )
    runs = run_everywhere(network, arch, choose_engines(on), frames)
    machine = next(iter(runs))
    rows = [
        Row(photograph, {name: results[index] for name, results in runs.items()}, program.predicted_cycles)
        for index, photograph in enumerate(photographs)
    ]
    print_rows(network, rows, machine, architecture.clock_hz)
    problems = find_problems(rows, machine)
    print_summary(rows, network, machine, problems, time.monotonic() - started)
    if problems:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Row:
    """One photograph and what every way of computing it gave."""

    photograph: Photograph
    results: Mapping[str, FrameResult]
    predicted_cycles: int


def choose_engines(on: str | None) -> list[str]:
    """What to run: the machine first, then everything that can confirm it. Says on standard error what cannot."""
    from emberline.cli.toolchain import missing_for_simulation
    from emberline.model import litert

    engines = []
    if on not in (None, "rtl", "emulator"):
        engines.append(on)
    elif on == "rtl":
        engines.append("rtl")
    elif on is None:
        missing = missing_for_simulation()
        if missing is None:
            engines.append("rtl")
        else:
            console.note(f"{missing}.\nThe demo runs on the emulator instead.")
    engines += ["emulator", "model"]
    if litert.available():
        engines.append("litert")
    else:
        console.note("LiteRT is not installed (PyPI package ai-edge-litert): results are not compared with it.")
    return engines


def run_everywhere(network: Network, arch: str, engines: Sequence[str], frames: Codes) -> dict[str, list[FrameResult]]:
    """Every frame on every engine, by the engine's name."""
    from emberline.cli.engines import open_engine, open_reference
    from emberline.cli.networks import find_architecture

    results = {}
    for name in engines:
        if name == "litert":
            results[name] = list(open_reference(name, network).run(frames))
            continue
        if name == "rtl":
            console.note("building the RTL simulation (the first time takes a minute or two) …")
        with open_engine(name, network, find_architecture(arch)) as engine:
            results[name] = list(console.progress(engine.run(frames), name, len(frames)))
    return results


def agreement(results: Mapping[str, FrameResult]) -> str:
    """``rtl = emulator = model``, with ``≠`` before each that differs from the first in any value."""
    from emberline.cli.comparison import compare

    (first, expected), *others = results.items()
    text = _title(first)
    for name, result in others:
        equal = compare([result.outputs], [expected.outputs]).equal
        text += f" {'=' if equal else '≠'} {_title(name)}"
    return text


def find_problems(rows: Sequence[Row], machine: str) -> list[str]:
    """What contradicts the promise: a differing output, or a cycle count other than the predicted one."""
    problems = []
    for row in rows:
        text, cycles = agreement(row.results), row.results[machine].cycles
        if "≠" in text:
            problems.append(f"{row.photograph.title}: {text}")
        if cycles is not None and cycles != row.predicted_cycles:
            problems.append(f"{row.photograph.title}: {cycles:,} cycles, {row.predicted_cycles:,} predicted")
    return problems


def print_rows(network: Network, rows: Sequence[Row], machine: str, clock_hz: int) -> None:
    from emberline.cli.run import describe

    table: list[Sequence[Any]] = []
    for row in rows:
        result = row.results[machine]
        entry = describe(network, row.photograph.title, result, None, row.predicted_cycles)
        expected = row.photograph.label
        mark = "no such class" if expected is None else "right" if entry["label"] == expected else f"wrong: {expected}"
        cycles = result.cycles
        table.append(
            (row.photograph.title, entry["label"], console.percent(entry["confidence"]), mark, cycles,
             row.predicted_cycles, None if cycles is None else f"{1e3 * cycles / clock_hz:.3f}", agreement(row.results))
        )  # fmt: skip
    console.print_table(
        ("photograph", "class", ">confidence", "", ">cycles", ">predicted", ">ms", "every output value"),
        table,
        title=f"{len(rows)} photographs on {_title(machine)}",
    )


def print_summary(rows: Sequence[Row], network: Network, machine: str, problems: Sequence[str], seconds: float) -> None:
    from emberline.cli.comparison import best_class

    known = [row for row in rows if row.photograph.label is not None]
    right = sum(network.labels[best_class(row.results[machine].outputs[0])] == row.photograph.label for row in known)
    console.print_line(f"{right} of the {len(known)} photographs that show one of the network's classes are right.")
    for problem in problems:
        console.print_line(f"DIFFERENT: {problem}")
    if not problems:
        ways = ", ".join(_title(name) for name in rows[0].results)
        counted = "" if machine == "emulator" else ", and the cycles are the predicted ones"
        console.print_line(f"All outputs of {ways} are equal{counted}.")
    console.print_line(f"{seconds:.0f} s")


def _title(engine: str) -> str:
    return {"rtl": "RTL", "model": "numpy", "litert": "LiteRT"}.get(engine, engine)
