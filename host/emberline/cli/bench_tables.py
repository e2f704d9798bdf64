"""What ``emberline bench`` prints for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from emberline.cli import console

Report = dict[str, Any]


def print_reports(reports: Sequence[Report]) -> None:
    """Tables of what was measured, of weights that are fetched, and of frames back to back; then what does not fit."""
    measured = [each for each in reports if each["why_not"] is None]
    console.print_table(
        ("network", "arch", ">MACs", ">cycles", ">predicted", ">utilisation", ">activations", ">weights", ">M9K",
         ">MHz", ">ms", ">frames/s", ">frames/s/multiplier"),
        [
            (each["network"], each["arch"], each["macs"], each["cycles"], each["predicted_cycles"],
             console.percent(each["utilisation"]), each["activation_bytes"], each["weight_bytes"], each["m9k"],
             *_speed(each))
            for each in measured
        ],
    )  # fmt: skip
    weights = [row for each in measured for row in _weight_rows(each)]
    if weights:
        console.print_table(
            ("network", "arch", "weights", "cycles are", ">MHz", ">cycles", ">frames/s", ">bytes stored",
             ">fetched a frame", ">MB/s"),
            weights,
            title="weights that are fetched",
        )  # fmt: skip
    paced = [each for each in measured if each["back_to_back_cycles"] is not None]
    if paced:
        console.print_table(
            ("network", "arch", ">frames", ">cycles", ">result to result", ">of them waiting", ">MHz", ">frames/s",
             ">last row to result", ">the same, back to back"),
            [
                (each["network"], each["arch"], each["frames"], each["cycles"], each["back_to_back_cycles"],
                 each["back_to_back_waiting_cycles"], console.number(each["preset_mhz"], 1),
                 console.number(each["back_to_back_frames_per_second"], 1), each["latency_cycles"],
                 each["back_to_back_latency_cycles"])
                for each in paced
            ],
            title="frames back to back",
        )  # fmt: skip
    for each in reports:
        if each["why_not"] is not None:
            console.print_line(f"{each['network']} does not run on {each['arch']}: {each['why_not']}")
        elif each["fetched_bytes"]:
            console.print_line(
                f"{each['network']} on {each['arch']}: {each['weight_cycles']:,} cycles waited for weights; the result "
                f"comes {each['cycles_after_input']:,} cycles after the frame's last row, if that comes just in time"
            )


def _speed(report: Report) -> tuple[str | None, ...]:
    """At the clock of the committed build, or else at the preset's."""
    cycles, built = report["cycles"], report["clock_mhz"]
    mhz = built or report["preset_mhz"]
    frames = 1e6 * mhz / cycles
    return (
        console.number(mhz, 1) if built else f"{mhz:.1f} (preset)",
        console.number(1e3 / frames, 3),
        console.number(frames, 0 if frames >= 100 else 1),
        console.number(frames / report["multipliers"], 2),
    )


def _weight_rows(report: Report) -> Iterator[tuple[Any, ...]]:
    """As measured, and as predicted with other sources of the weights."""
    if report["weights"] == "resident":
        return
    name, mhz = (report["network"], report["arch"]), report["preset_mhz"]
    rate, how = report["weight_megabytes_per_second"], "simulated" if report["frames"] else "predicted"
    yield (
        *name, _source(report["weights"], rate), how, console.number(mhz, 1), report["cycles"],
        console.number(report["preset_frames_per_second"], 1), report["stored_bytes"], report["fetched_bytes"],
        console.number(report["fetched_megabytes_per_second"], 1),
    )  # fmt: skip
    if report["resident_cycles"] is not None:
        frames = 1e6 * mhz / report["resident_cycles"]
        yield (
            *name, "resident, with memory for all", "predicted", console.number(mhz, 1), report["resident_cycles"],
            console.number(frames, 1), 0, 0, console.number(0, 1),
        )  # fmt: skip
    for rows, clock in ((report["flash_rates"], mhz), (report["built_flash_rates"], report["clock_mhz"])):
        for row in rows:
            yield (
                *name, _source("flash", row["megabytes_per_second"]), "predicted", console.number(clock, 1),
                row["cycles"], console.number(row["frames_per_second"], 1), row["stored_bytes"], row["fetched_bytes"],
                console.number(row["fetched_megabytes_per_second"], 1),
            )  # fmt: skip


def _source(weights: str, rate: float | None) -> str:
    return f"{weights}, if no row waited" if rate is None else f"{weights} at {rate:.4g} MB/s"
