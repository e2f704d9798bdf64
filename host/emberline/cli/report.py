"""What the commands say about a compiled program: memory, cycles and utilisation, as plain values."""

from __future__ import annotations

from typing import Any

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program

M9K_BYTES = 1024
"""Bytes of data in a MAX 10's M9K block: 1024 x 8 bit, its parity bits unused."""


def m9k_blocks(byte_count: int) -> int:
    """M9K blocks that hold so many bytes."""
    return -(-byte_count // M9K_BYTES)


def memory_use(program: Program) -> dict[str, int]:
    """``activation_bytes`` up to the highest address in use, ``weight_bytes`` with the requantisation parameters,
    and ``m9k``: the blocks for both and for the instructions."""
    activation_bytes = max((region.end for region in program.memory), default=0) * program.architecture.lanes_out
    weight_bytes = len(program.weights)
    blocks = sum(m9k_blocks(size) for size in (activation_bytes, weight_bytes, 4 * len(program.instructions)))
    return {"activation_bytes": activation_bytes, "weight_bytes": weight_bytes, "m9k": blocks}


def utilisation(macs: int, cycles: int, architecture: Architecture) -> float:
    """Useful share of the multiplications that the array could have done; 0 for no cycles."""
    return macs / (cycles * architecture.multipliers) if cycles else 0.0


def compile_report(program: Program, file: str | None) -> dict[str, Any]:
    """The JSON document of ``emberline compile``."""
    architecture = program.architecture
    group_bytes = architecture.lanes_out
    return {
        "network": program.network,
        "arch": architecture.name,
        "file": file,
        "macs": program.macs,
        "multipliers": architecture.multipliers,
        "predicted_cycles": program.predicted_cycles,
        "utilisation": program.utilisation,
        **memory_use(program),
        "instructions": len(program.instructions),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "macs": layer.macs,
                "cycles": layer.cycles,
                "utilisation": utilisation(layer.macs, layer.cycles, architecture),
                "weight_bytes": layer.weight_bytes,
            }
            for layer in program.layers
        ],
        "memory": [
            {
                "name": region.name,
                "role": region.role,
                "start_bytes": region.start * group_bytes,
                "end_bytes": region.end * group_bytes,
                "first_layer": region.first_layer,
                "last_layer": region.last_layer,
            }
            for region in program.memory
        ],
    }


def bench_report(program: Program, cycles: int) -> dict[str, Any]:
    """One object of the list that ``emberline bench`` prints, for a program that took so many cycles."""
    architecture = program.architecture
    return {
        "network": program.network,
        "arch": architecture.name,
        "macs": program.macs,
        "multipliers": architecture.multipliers,
        "cycles": cycles,
        "predicted_cycles": program.predicted_cycles,
        "utilisation": utilisation(program.macs, cycles, architecture),
        **memory_use(program),
        "clock_mhz": architecture.clock_hz / 1e6,
        "milliseconds": milliseconds(cycles, architecture),
        "frames_per_second": architecture.clock_hz / cycles,
    }


def milliseconds(cycles: int, architecture: Architecture) -> float:
    """What so many cycles take at the architecture's clock."""
    return 1e3 * cycles / architecture.clock_hz
