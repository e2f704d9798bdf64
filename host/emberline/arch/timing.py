"""When everything happens: the pipeline's latencies and the cycles that a program takes, exactly.

Nothing in the machine depends on data, so the cycles of a frame follow from its program: rows are walked back to back
unless a row waits for its fetch, for a fence, or for the row before the last to leave the pipeline.
`tests/unit/test_timing.py` holds the latencies against the gateware's, `tests/integration` the cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode

HEAD_CYCLES = 3
"""From the request of an instruction to its first word: address, memory, register."""

EXECUTE_CYCLES = 1
"""What an instruction of one word takes beyond that."""

POINTER_CYCLES = 3
"""Resolving the pointers of a ROW: one cycle each, and these until the last is written back."""

_MULTIPLIER = 3
_RESCALER = _MULTIPLIER + 5
_CLAMP = 3
_REQUANTISER = 4 + _RESCALER + _CLAMP
_ISSUE_TO_LANE = 2 + 2 + 1
_POOLER = 1
_COMBINER = 1
_WRITER = 1


def _log2(value: int) -> int:
    return value.bit_length() - 1


def sum_latency(architecture: Architecture) -> int:
    """Cycles from an activation word at a lane to the accumulator: multiply, fabric register, adder tree, add."""
    return _MULTIPLIER + 1 + _log2(architecture.lanes_in) + 1


def addition_latency(architecture: Architecture) -> int:
    """Cycles of a group in the residual adder."""
    return 1 + (1 + 4 + 1 + 3) + 1 + _RESCALER + _CLAMP + architecture.lanes_out // architecture.adders


def write_latency(architecture: Architecture, *, add: bool = False, copy: bool = False) -> int:
    """Cycles from a ROW's last tap to the write of its last group."""
    lanes = _ISSUE_TO_LANE + architecture.lanes_out - 1
    results = sum_latency(architecture) + _REQUANTISER + _POOLER
    return lanes + results + (addition_latency(architecture) if add else _COMBINER) + _WRITER + copy


def minimum_idle(architecture: Architecture, taps: int, columns: int, add: bool, copy: bool = False) -> int:
    """The least ``idle`` of a ROW with ``taps`` taps in each of ``columns`` pixels.

    Pooled rows that are also copied need two cycles to write a group. Three things need time from pixel to pixel: a requantiser takes ``lanes_out / requantisers`` cycles for a group;
    the residual adder
    ``lanes_out / adders``; and a group's parameters, loaded every other group into the same registers,
    must outlive the sums on their way (``sum_latency`` cycles for all columns together).
    """
    shortest = architecture.lanes_out // architecture.adders if add else 2 if copy else 1
    pace = max(taps, architecture.lanes_out // architecture.requantisers, shortest)
    group = sum_latency(architecture) - architecture.parameter_words
    return max(pace, -(-group // columns)) - taps


def row_cycles(architecture: Architecture, row: dict[str, int]) -> int:
    """Cycles for which a ROW occupies the lanes."""
    taps = row["kernel_rows"] * row["kernel_columns"] * row["channel_words"]
    return row["groups"] * (architecture.parameter_words + row["columns"] * (row["idle"] + taps))


@dataclass(frozen=True)
class FrameTiming:
    """Cycles of one frame whose rows are on the chip, from BEGIN to the last group written."""

    cycles: int
    row_cycles: dict[int, int]
    """By the ROW's word address in the program: all its executions, each up to the next ROW's start. Their sum is
    ``cycles``."""


def predict(architecture: Architecture, words: Sequence[int]) -> FrameTiming:
    """The cycles of one frame. ``ValueError`` if the program has no BEGIN, no END or no ROW."""
    request = 1  # the cycle in which the next instruction's address is at the memory; BEGIN passes at 0
    start, end = 0, -1  # of the ROW being walked: the cycle it was taken, its last cycle
    written = [-2, -2]  # last write of the two ROWs before
    current: int | None = None
    attributed: dict[int, int] = {}
    for address, opcode, row in _executed(words):
        if opcode is not Opcode.ROW:
            request += HEAD_CYCLES + EXECUTE_CYCLES
            continue
        operands = 3 if row["add"] or row["pool"] else 2
        ready = request + HEAD_CYCLES + isa.row_word_count(row) - 1 + operands + POINTER_CYCLES
        cleared = written[1] if row["fence"] else written[0]
        taken = max(ready + 1, end + 1, cleared + 2)
        if current is not None:
            attributed[current] = attributed.get(current, 0) + taken - start
            start = taken
        current = address
        end = taken + row_cycles(architecture, row)
        latency = write_latency(architecture, add=bool(row["add"]), copy=bool(row.get("copy", 0)))
        written = [written[1], end + latency]
        request = taken + 1
    if current is None:
        raise ValueError("the program has no ROW between BEGIN and END")
    # END is being fetched since ``request``; the loop above counted it like any other instruction.
    cycles = max(request, written[1] + 1)
    attributed[current] = attributed.get(current, 0) + cycles - start
    return FrameTiming(cycles, attributed)


def _executed(words: Sequence[int]) -> Iterator[tuple[int, Opcode, dict[str, int]]]:
    """The instructions of one frame in the order of execution, END included, with the fields of the ROWs."""
    address, inside = 0, False
    stack: list[list[int]] = []
    decoded: dict[int, dict[str, int]] = {}
    while address < len(words):
        opcode = Opcode(words[address] & 15)
        layout = isa.LAYOUTS[opcode]
        if address not in decoded:
            decoded[address] = layout.unpack(list(words[address : address + layout.word_count]))
            if opcode is Opcode.ROW and decoded[address]["pool"]:
                decoded[address] |= isa.POOL.unpack(list(words[address + layout.word_count :][: isa.POOL.word_count]))
        fields = decoded[address]
        following = address + (isa.row_word_count(fields) if opcode is Opcode.ROW else layout.word_count)
        if inside:
            yield address, opcode, fields
        if opcode is Opcode.BEGIN:
            inside = True
        elif opcode is Opcode.END:
            return
        elif opcode is Opcode.LOOP:
            stack.append([following, fields["count"] - 1])
        elif opcode is Opcode.NEXT:
            if stack[-1][1]:
                stack[-1][1] -= 1
                following = stack[-1][0]
            else:
                stack.pop()
        address = following
    raise ValueError("the program does not reach END")
