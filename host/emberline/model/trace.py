"""A frame of a program, ROW by ROW: when each is walked, which groups of the activation buffer it reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.isa import POINTER_COUNT, Opcode
from emberline.arch.listing import Instruction, unroll, validate
from emberline.arch.timing import Spent, frame_clock, predict

_Groups = NDArray[np.int64]


@dataclass(frozen=True)
class WalkedRow:
    """One execution of a ROW.

    Parameters:
        address: of its instruction.
        begin, end: cycles since BEGIN: the end of the ROW before, and its last tap.
        spent: what the cycles between them go for.
        reads, writes: groups of the activation buffer, each once, in rising order.
    """

    address: int
    begin: int
    end: int
    spent: Spent
    reads: _Groups
    writes: _Groups


def trace(words: Sequence[int], architecture: Architecture) -> Iterator[WalkedRow]:
    """The ROWs of a program's first frame in their order of execution, with the cycles that are predicted for them.

    Raises ``ProgramError`` where the program is not valid for the architecture.
    """
    instructions = validate(words, architecture)
    begin = next(index for index, each in enumerate(instructions) if each.opcode is Opcode.BEGIN)
    pointers = [0] * POINTER_COUNT
    for instruction in instructions[:begin]:
        if instruction.opcode is Opcode.SET:
            pointers[instruction.fields["pointer"]] = instruction.fields["value"]
    clock, now = frame_clock(architecture), 0
    for instruction in unroll(instructions[begin:]):
        f = instruction.fields
        if instruction.opcode is Opcode.ROW:
            spent = clock.row(f)
            reads, writes = _touched(instruction, pointers, architecture)
            yield WalkedRow(instruction.address, now, now + spent.total, spent, reads, writes)
            now += spent.total
            continue
        if instruction.opcode is Opcode.SET:
            pointers[f["pointer"]] = f["value"]
        if instruction.opcode is Opcode.LOAD:
            clock.load(f)
        elif instruction.opcode is Opcode.JUMP:
            clock.jump()
        else:
            clock.pass_one()


def cycles_after_input(words: Sequence[int], architecture: Architecture, frame_rows: int) -> int:
    """Cycles from the last row of a frame to its last result, if that row comes just when the first ROW needs it.

    Parameters:
        frame_rows: of a frame, at least 1.
    """
    fields = {each.address: each.fields for each in validate(words, architecture) if each.opcode is Opcode.ROW}
    released, since = 0, None
    for row in trace(words, architecture):
        if since is None and released + fields[row.address]["wait_rows"] >= frame_rows:
            since = row.begin
        released += fields[row.address]["release_rows"]
    return predict(architecture, words).cycles - (since or 0)


def _touched(instruction: Instruction, pointers: list[int], architecture: Architecture) -> tuple[_Groups, _Groups]:
    """The groups that a ROW reads and writes; its pointers move on."""
    f, per_word = instruction.fields, architecture.groups_per_word
    source = _take(f, "source", pointers)
    length = f["source_end"] - f["source_start"]
    reads = []
    for row in range(f["kernel_rows"]):
        first = f["source_start"] + (source + row * f["row_step"] - f["source_start"]) % length
        reads.append(np.arange(first, first + f["row_words"] * per_word))
    groups = f["groups"] * (per_word if f["depthwise"] else 1)
    columns = f["pool_columns"] if f["pool"] else f["columns"]
    pixels = np.arange(columns)[:, None] * f["target_pixel_step"] + np.arange(groups)
    target = _take(f, "target", pointers)
    writes = [target + pixels]
    if f["add"]:
        residual = np.arange(columns)[:, None] * f["residual_pixel_step"] + np.arange(groups)
        reads.append(_take(f, "residual", pointers) + residual)
    if f["pool"]:
        copy = _take(f, "copy", pointers)
        if f["copy"]:
            writes.append(copy + pixels)
        if f["combine"]:
            reads.append(target + pixels)
    return _union(reads), _union(writes)


def _take(fields: dict[str, int], role: str, pointers: list[int]) -> int:
    """A row's address; the pointer moves on within its ring."""
    pointer, start, end = (fields[f"{role}_{name}"] for name in ("pointer", "start", "end"))
    address = pointers[pointer]
    pointers[pointer] = start + (address + fields[f"{role}_step"] - start) % (end - start)
    return address


def _union(parts: Sequence[_Groups]) -> _Groups:
    return np.unique(np.concatenate([part.ravel() for part in parts]))
