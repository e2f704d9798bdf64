"""The cycles of the compact machine: one ROW after the other, each in parts that nothing disturbs."""

from __future__ import annotations

from collections.abc import Mapping

from emberline.arch import isa
from emberline.arch.architecture import Architecture

INSTRUCTION_CYCLES = 2
"""To request an instruction and to execute it; each of its words takes one more."""

POINTER_CYCLES = 4
"""For each pointer of a ROW."""

PASS_CYCLES = 23
"""A value times a multiplier: parameters and bias 5, two bits a cycle 16, shift, last addition."""

ADDITION_PASSES = 3
"""Beyond the first, for each channel of a residual addition: both operands and the sum."""

_SUMS = 7
"""From a pixel's last tap to its sums: memory, multiply, adder tree, add."""

_WRITE = 2
"""From the last pass to the cycle in which the group is written: clamp, write."""


def can_scale(left_shift: int, right_shift: int) -> bool:
    """Whether the serial requantiser has these shifts: it keeps no bits of a product below ``2**30``."""
    return (left_shift <= right_shift or (left_shift, right_shift) == (1, 0)) and right_shift - left_shift <= 30


def group_cycles(architecture: Architecture, add: bool) -> int:
    """From the sums of a group to its results."""
    return architecture.lanes_out * PASS_CYCLES * (1 + ADDITION_PASSES * add)


def pixel_cycles(architecture: Architecture, add: bool) -> int:
    """The least from one pixel's last tap to the next one's: the group before is written in the first cycle behind."""
    return group_cycles(architecture, add) + _SUMS + 1


def window_cycles(add: bool) -> int:
    """Least cycles without a tap before each pixel: a group is written, one is read to be added, the link has one."""
    return 3 if add else 2


def drain_cycles(architecture: Architecture, add: bool) -> int:
    """From a group's last tap to its write."""
    return _SUMS + group_cycles(architecture, add) + _WRITE


def load_cycles(architecture: Architecture, words: int) -> int:
    """Cycles for a group's weight words and its parameters: a lane each, and one for everybody else."""
    return (words + architecture.parameter_words) * (architecture.lanes_out + 1)


def row_fetch_cycles(row: Mapping[str, int]) -> int:
    """From the request of a ROW to its start."""
    return INSTRUCTION_CYCLES + isa.row_word_count(row) + POINTER_CYCLES * (3 if row["add"] else 2) + 1
