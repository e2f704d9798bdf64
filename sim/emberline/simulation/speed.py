"""Measure the simulated board: ``python -m emberline.simulation.speed [PRESET]`` prints cycles per second."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from emberline.arch.presets import preset
from emberline.simulation.board import SimulatedBoard, simulate_architecture

CYCLES = 2_000_000


def measure(board: SimulatedBoard, cycles: int = CYCLES) -> tuple[float, float]:
    """Simulated cycles per second of time, and per second of the simulator's processor time."""
    seconds, processor_seconds = time.monotonic(), _processor_seconds(board.pid)
    board.advance(cycles)
    return (
        cycles / (time.monotonic() - seconds),
        cycles / max(0.01, _processor_seconds(board.pid) - processor_seconds),
    )


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "max10-10m50"
    with simulate_architecture(preset(name)) as simulated:
        elapsed, processor = measure(simulated)
    print(f"{name}: {elapsed:,.0f} cycles/s, {processor:,.0f} cycles per processor second")
