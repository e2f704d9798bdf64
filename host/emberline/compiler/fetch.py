"""Pass: weights as a LOAD brings them: compressed, with the cycles that it takes at most.

The source gives a word every ``weight_word_cycles``, once the flash has taken the read command; words from the link are
announced as if they came so, too. The decoder takes words when it needs them. Both go on while the other one waits, as
a word or two lie between them; so a LOAD's time is found by following its words, and it is little longer than what the
slower one of both needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from emberline.arch.architecture import Architecture
from emberline.arch.flash import DESELECTED_SECONDS, clock_divider, flash_count
from emberline.arch.weight_code import CHUNK_BYTES, COUNT_WORDS, HEADER
from emberline.compiler.weight_encoder import Block, WeightEncoder

COMMAND_PERIODS = 24
"""SCK periods from a read's request to its first byte, at most. At single rate the command takes 8 on one line, address
and mode 8 on four lines, the pause 4 and the byte 2. At double rate address and mode take 4, but of twice the length,
the pause up to 7 and the byte 1."""
COMMAND_CYCLES = 48
"""Cycles beside them: to hand over, to stay deselected, from the flash's data to byte to word to decoder."""
PAIR_CYCLES = 4
"""More where two flashes are asked."""

_HEADER_CYCLES = (2, 2, 6)
_COUNT_CYCLES = 6
_TABLE_CYCLES = 6
_BLOCK_CYCLES = 40
"""Behind the payload: the pipeline and the queue run empty, the check is compared, the last chunk is written."""


@dataclass(frozen=True)
class Part:
    """Whole words of a layer's weights or parameters, as they lie in the weight memory.

    Parameters: ``distance`` of their prediction in chunks, 0 for none.
    """

    layer: str
    data: bytes
    distance: int


@dataclass(frozen=True, eq=False)
class Fetch:
    """What a LOAD fetches.

    Parameters:
        data: all blocks, little endian.
        check: their check words, combined.
        cycles: that it takes at most.
        layer_bytes: of ``data``, by layer.
    """

    data: bytes
    check: int
    cycles: int
    layer_bytes: dict[str, int]


class Fetcher:
    """Makes LOADs of weights; equal ones are made once."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._made: dict[tuple[Part, ...], Fetch] = {}

    def fetch(self, parts: Sequence[Part]) -> Fetch:
        """The LOAD of some parts, one behind the other."""
        key = tuple(parts)
        if key not in self._made:
            self._made[key] = self._fetch(key)
        return self._made[key]

    def _fetch(self, parts: Sequence[Part]) -> Fetch:
        encoder = WeightEncoder(wide=self.architecture.decodes_wide)
        blocks: list[Block] = []
        layer_bytes: dict[str, int] = {}
        for part in parts:
            new = encoder.encode(part.data, distance=part.distance)
            blocks += new
            layer_bytes[part.layer] = layer_bytes.get(part.layer, 0) + sum(block.size for block in new)
        data = b"".join(block.words.astype("<u4").tobytes() for block in blocks)
        check = 0
        for block in blocks:
            check ^= block.check
        return Fetch(data, check, fetch_cycles(blocks, self.architecture), layer_bytes)


def fetch_cycles(blocks: Sequence[Block], architecture: Architecture) -> int:
    """Cycles from a LOAD's start until its blocks have been decoded and written, at most.

    Word ``k`` has come ``weight_word_cycles`` after the one before it, or after word ``k - 2`` has been taken,
    whichever is later; it is taken when it has come and the decoder has done what the word before it gave it to do.
    """
    pace = architecture.weight_word_cycles
    command = COMMAND_CYCLES
    if architecture.fetches_from_flash:
        command += ceil(COMMAND_PERIODS * clock_divider(architecture)) + int(architecture.clock_hz * DESELECTED_SECONDS)
        command += PAIR_CYCLES * (flash_count(architecture) - 1)
    come = taken = before = command
    free = 0
    for work in _work(blocks):
        come = max(come, before) + pace
        before = taken
        taken = max(come, free)
        free = taken + work
    return free


def _work(blocks: Sequence[Block]) -> list[int]:
    """For each word the cycles from its being taken until the next one can be."""
    work: list[int] = []
    for block in blocks:
        work += _HEADER_CYCLES
        tables = block.words[HEADER.word_count :]
        for _ in range(block.new_tables):
            symbols = int(tables[:COUNT_WORDS].view(np.uint8).astype(np.int64).sum())
            words = -(-symbols // CHUNK_BYTES)
            work += [_COUNT_CYCLES] * COUNT_WORDS + [1] * (words - 1) + [_TABLE_CYCLES]
            tables = tables[COUNT_WORDS + words :]
        ends = np.append(block.taken, block.payload_cycles)
        work += np.maximum(np.diff(ends), 1).tolist()
        work[-1] += _BLOCK_CYCLES
        work.append(_BLOCK_CYCLES)
    return work
