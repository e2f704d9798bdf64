"""What the commands say about a compiled program: memory, cycles and utilisation, as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emberline.arch.architecture import Architecture
from emberline.arch.block_memory import M9K, activation_shape, program_shape, weight_shape
from emberline.arch.isa import Opcode
from emberline.arch.listing import decode
from emberline.arch.program import Program
from emberline.cli.machines import weight_megabytes_per_second
from emberline.model.trace import cycles_after_input

REPORTS = Path(__file__).resolve().parents[3] / "bitstreams" / "reports"
"""The committed builds, in a checkout."""


def memory_use(program: Program) -> dict[str, int]:
    """``activation_bytes`` up to the highest address in use, ``weight_bytes`` with the requantisation parameters,
    and ``m9k``: the blocks of memories of this machine's shapes that are just deep enough for both and for the
    instructions."""
    architecture = program.architecture
    groups = max((region.end for region in program.memory), default=0)
    loads = [each.fields for each in decode(program.instructions) if each.opcode is Opcode.LOAD]
    ends = [load["address"] + load["words"] for load in loads if not load["page"]]
    weight_words = max(len(program.weights) // architecture.multipliers, *ends, 0)
    blocks = M9K.blocks(activation_shape(architecture, max(1, -(-groups // architecture.groups_per_word))))
    blocks += architecture.lanes_out * M9K.blocks(weight_shape(architecture, max(1, weight_words)))
    blocks += M9K.blocks(program_shape(architecture, max(1, *(page.end for page in program.pages))))
    weight_bytes = weight_words * architecture.multipliers
    return {"activation_bytes": groups * architecture.lanes_out, "weight_bytes": weight_bytes, "m9k": blocks}


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
        "pages": len(program.pages),
        "stored_bytes": len(program.stream),
        "fetched_bytes": program.fetched_bytes,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "macs": layer.macs,
                "cycles": layer.cycles,
                "utilisation": utilisation(layer.macs, layer.cycles, architecture),
                "weight_bytes": layer.weight_bytes,
                "stored_bytes": layer.stored_bytes,
                "spent": asdict(layer.spent),
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
    clock = built_clock_mhz(architecture)
    frames = None if clock is None else 1e6 * clock / cycles
    preset_frames = architecture.clock_hz / cycles
    return {
        "network": program.network,
        "arch": architecture.name,
        "macs": program.macs,
        "multipliers": architecture.multipliers,
        "cycles": cycles,
        "predicted_cycles": program.predicted_cycles,
        "cycles_after_input": cycles_after_input(program.instructions, architecture, program.input.map.height),
        "utilisation": utilisation(program.macs, cycles, architecture),
        **memory_use(program),
        "weights": architecture.weight_source if program.stream else "resident",
        "weight_megabytes_per_second": weight_megabytes_per_second(architecture) if program.stream else None,
        "stored_bytes": len(program.stream),
        "fetched_bytes": program.fetched_bytes,
        "fetched_megabytes_per_second": program.fetched_bytes * preset_frames / 1e6,
        "weight_cycles": sum(layer.spent.weights for layer in program.layers),
        "preset_mhz": architecture.clock_hz / 1e6,
        "preset_frames_per_second": preset_frames,
        "clock_mhz": clock,
        "milliseconds": None if frames is None else 1e3 / frames,
        "frames_per_second": frames,
        "frames_per_second_per_multiplier": None if frames is None else frames / architecture.multipliers,
    }


def built_clock_mhz(architecture: Architecture, reports: Path = REPORTS) -> float | None:
    """The clock of the board's committed build, which the tools found it to meet; ``None`` without a build."""
    path = reports / f"{architecture.board}.json"
    if not path.is_file():
        return None
    clock = json.loads(path.read_text(encoding="utf-8")).get("clock_mhz")
    return float(clock) if isinstance(clock, int | float) else None


def milliseconds(cycles: int, architecture: Architecture) -> float:
    """What so many cycles take at the architecture's clock."""
    return 1e3 * cycles / architecture.clock_hz
