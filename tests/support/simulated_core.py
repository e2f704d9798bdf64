"""Compiled programs on the simulated core, many in one simulator run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.gateware.machine import accelerator
from emberline.model.outputs import decode_outputs, pack_frame
from emberline.simulation.bench import run_bench
from emberline.simulation.flash import FLASH_PORTS, Flashed, flash_size
from emberline.simulation.plan import WritePort
from emberline.simulation.recipe import recipe

BENCH = Path(__file__).parents[1] / "integration" / "bench_core.py"
WRITE_PORTS = {
    "program": WritePort(("program_address", "program_data"), "program_enable"),
    "weights": WritePort(("weight_address", "weight_data"), "weight_enable"),
}
PACKAGES = ("emberline.arch", "emberline.gateware", "emberline.simulation")


@dataclass(frozen=True)
class Job:
    """A program, its frames int8 ``[N, H, W, C]``, and how densely each stream is paused."""

    program: Program
    frames: NDArray[np.int8]
    stalls: Mapping[str, float] | None = None
    seed: int = 1


class CoreResult(NamedTuple):
    """What one frame gave."""

    outputs: dict[str, NDArray[np.int8]]
    cycles: int
    stall_cycles: int


def run_core(architecture: Architecture, jobs: Sequence[Job], folder: Path) -> list[list[CoreResult]]:
    """Run each job's frames through the RTL of ``architecture``; ``folder`` takes the files for the simulator."""
    described = []
    for index, job in enumerate(jobs):
        program, frames = folder / f"{index}.ember", folder / f"{index}.frames"
        job.program.save(program)
        frames.write_bytes(b"".join(pack_frame(job.program, frame) for frame in job.frames))
        described.append(
            {"program": str(program), "frames": str(frames), "stalls": dict(job.stalls or {}), "seed": job.seed}
        )
    generic = replace(architecture, family="generic")
    size = flash_size(max(len(job.program.stream) for job in jobs))
    ports = WRITE_PORTS | FLASH_PORTS if architecture.streams else WRITE_PORTS
    reports = run_bench(
        lambda: Flashed(accelerator(generic), size) if architecture.streams else accelerator(generic),
        BENCH,
        "runs_programs",
        {"jobs": described, "flash_bytes": size},
        recipe=recipe(
            "Accelerator",
            generic,
            architecture.streams and size,
            packages=("emberline.arch", "emberline.gateware", "emberline.simulation"),
        ),
        write_ports=ports,
    )
    return [
        [
            CoreResult(decode_outputs(job.program, bytes.fromhex(data)), cycles, stalls)
            for data, cycles, stalls in report
        ]
        for job, report in zip(jobs, reports, strict=True)
    ]
