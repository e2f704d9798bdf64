"""Where fetched weights lie in the weight memory, and which of its words a LOAD brings.

*Segments* are the weights and parameters of a step: from its stage's first row to the step's last; in a stage in turns,
for each turn anew, unless the stage keeps them: then they lie side by side until its end. Segments come in the order
of their first use, each contiguous, behind the one before or where the least recently used words are, and overwrite
what is no longer read. A LOAD brings words that become free together: of one segment, part of one, or several that
follow each other in the memory; of a turn the same words each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.isa import LOAD
from emberline.arch.weight_code import CHUNK_BYTES
from emberline.compiler.checks import kib, refuse
from emberline.compiler.fetch import Part
from emberline.compiler.rows import RowOperation, Schedule
from emberline.compiler.weights import WeightImage

LONGEST_CYCLES = next(field for field in LOAD.fields if field.name == "cycles").maximum

SHARE = 8
"""A LOAD of several segments, or of part of one, is a piece of the memory of about this fraction."""


@dataclass(eq=False)
class Segment:
    """Parameters:
    stage: others of it are read meanwhile; of a turn a negative number of its own.
    lasts: it is read in several turns of a stage, until its end.
    first, last: the operations that read it.
    """

    layer: str
    stage: int
    lasts: bool
    first: int
    last: int
    image: WeightImage
    parameters: int
    """Its first word of parameters; those before are weights."""
    start: int = -1

    @property
    def words(self) -> int:
        return self.image.words

    @property
    def is_turn(self) -> bool:
        """Whether it is that of a single turn."""
        return self.stage < 0


@dataclass(eq=False)
class Piece:
    """Neighbouring words of the memory that are written together: ``words`` of a segment from its word ``first`` on."""

    segment: Segment
    first: int
    words: int

    @property
    def address(self) -> int:
        return self.segment.start + self.first

    def parts(self, architecture: Architecture) -> list[Part]:
        size, middle = architecture.multipliers, self.segment.parameters
        ranges = ((self.first, min(self.first + self.words, middle), 0),
                  (max(self.first, middle), self.first + self.words, architecture.lanes_in // CHUNK_BYTES))  # fmt: skip
        data = self.segment.image.data
        return [
            Part(self.segment.layer, bytes(data[begin * size : end * size]), distance)
            for begin, end, distance in ranges
            if begin < end
        ]


@dataclass(eq=False)
class LoadGroup:
    """The pieces of a LOAD, and the operation in front of which they may be written; ``alone``: nothing joins them."""

    pieces: list[Piece]
    free: int
    alone: bool = False

    @property
    def needed(self) -> int:
        return min(piece.segment.first for piece in self.pieces)

    @property
    def address(self) -> int:
        return self.pieces[0].address

    @property
    def words(self) -> int:
        return sum(piece.words for piece in self.pieces)


def find_segments(schedule: Schedule, architecture: Architecture) -> tuple[list[Segment], list[Segment]]:
    """All segments in the order of their first use, and the segment of every operation."""
    operations, turns = schedule.operations, schedule.turns()
    members: dict[tuple[int, int, int], list[int]] = {}
    steps: dict[tuple[int, int], list[int]] = {}
    for number, stage in enumerate(schedule.stages):
        for index in range(*stage.operations):
            step, turn = operations[index].step, turns[index]
            alone = stage.kept is not None and step not in stage.kept
            members.setdefault((number, step, turn if alone else -1), []).append(index)
            steps.setdefault((number, step), []).append(index)
    segments: list[Segment] = []
    owners: dict[int, Segment] = {}
    images: dict[tuple[int, int], tuple[WeightImage, int]] = {}
    for (number, step, turn), indices in sorted(members.items(), key=lambda member: member[1]):
        if (number, step) not in images:  # all turns of a step fetch the same
            images[number, step] = _image([operations[index] for index in steps[number, step]], architecture)
        group = number if turn < 0 else -len(segments) - 1
        lasts = turn < 0 and schedule.stages[number].kept is not None
        layer = operations[indices[0]].layer
        segments.append(Segment(layer, group, lasts, indices[0], indices[-1], *images[number, step]))
        owners |= dict.fromkeys(indices, segments[-1])
    return segments, [owners[index] for index in range(len(operations))]


def whole_segment(operations: Sequence[RowOperation], architecture: Architecture) -> Segment:
    """The weights and the parameters of a layer's operations."""
    return Segment(operations[0].layer, 0, False, 0, len(operations) - 1, *_image(operations, architecture))


def _image(operations: Sequence[RowOperation], architecture: Architecture) -> tuple[WeightImage, int]:
    """The weights and the parameters of some operations, and the first word of these."""
    image = WeightImage(architecture)
    for operation in operations:
        image.add_weights(operation.weights)
    parameters = image.words
    for operation in operations:
        image.add_parameters(operation.parameters)
    return image, parameters


def place_segments(segments: Sequence[Segment], resident_bytes: int, architecture: Architecture) -> list[LoadGroup]:
    """Set every segment's ``start``, behind what stays; the LOADs in their order."""
    depth = architecture.weight_depth_words
    longest = longest_load(architecture)
    most = min(depth // SHARE, longest)
    _find_places(segments, resident_bytes, architecture)
    free = np.zeros(depth, np.int64)  # from which operation on a word may be overwritten
    groups: list[LoadGroup] = []
    reached = 0
    for segment in segments:
        words = slice(segment.start, segment.start + segment.words)
        for piece, since in _pieces(segment, np.maximum(free[words], reached), depth // SHARE, longest):
            reached = max(reached, since)
            if segment.is_turn:
                groups.append(LoadGroup([piece], reached, alone=True))
            else:
                _append(groups, piece, reached, most)
        free[words] = segment.last + 1
    return groups


def _find_places(segments: Sequence[Segment], resident_bytes: int, architecture: Architecture) -> None:
    """Every segment where there is room first; those of a stage side by side where some would find none otherwise.

    Those that last lie at an end of the memory, all of their stage.
    """
    position, reached = resident_bytes // architecture.multipliers, 0
    free = np.zeros(architecture.weight_depth_words, np.int64)
    free[:position] = np.iinfo(np.int64).max
    bottom, lasting = position, [segment for segment in segments if segment.lasts]
    for number, members in groupby(segments, key=lambda segment: segment.stage):
        stage = [segment for segment in members if segment.start < 0]
        if stage and stage[0].lasts:
            stage = [segment for segment in lasting if segment.stage == number]
            _keep(stage, free, bottom)
            continue
        if not stage:
            continue
        found = _fill(stage, free.copy(), position, reached)
        if found is None:
            whole = sum(segment.words for segment in stage)
            start = _find_room(whole, stage[0].first, free, position, reached)
            if start is None:
                raise refuse(
                    max(stage, key=lambda segment: segment.words).layer,
                    f"needs {kib(whole * architecture.multipliers)} of weights with the rest of its stage, "
                    f"{kib(architecture.weight_bytes - resident_bytes)} available on '{architecture.name}'",
                )
            found = []
            for segment in stage:
                found.append(start)
                start += segment.words
        for segment, start in zip(stage, found, strict=True):
            segment.start, position = start, start + segment.words
            reached = max(reached, int(free[start:position].max()))
        for segment in stage:
            free[segment.start : segment.start + segment.words] = segment.last + 1


def _keep(stage: Sequence[Segment], free: NDArray[np.int64], bottom: int) -> None:
    """The segments that last of a stage at the bottom or at the top of the memory, where there is room first."""
    words = sum(segment.words for segment in stage)
    top = len(free) - words
    start = min((bottom, top), key=lambda start: int(free[start : start + words].max()))
    for segment in stage:
        segment.start, start = start, start + segment.words
        free[segment.start : start] = max(segment.last for segment in stage) + 1


def _fill(stage: Sequence[Segment], free: NDArray[np.int64], position: int, reached: int) -> list[int] | None:
    """Where the segments of a stage go one after the other, or None."""
    starts = []
    for segment in stage:
        start = _find_room(segment.words, segment.first, free, position, reached)
        if start is None:
            return None
        starts.append(start)
        position = start + segment.words
        reached = max(reached, int(free[start:position].max()))
        free[start:position] = segment.last + 1
    return starts


def _find_room(words: int, needed: int, free: NDArray[np.int64], position: int, reached: int) -> int | None:
    """The place that is free first, ``position`` if it is as good; None if none is before operation ``needed``."""
    depth = len(free)
    edges = np.flatnonzero(np.diff(free)) + 1
    starts = [position, 0, *edges.tolist(), *(edges - words).tolist(), depth - words]
    best: tuple[int, int] | None = None
    for start in starts:
        if 0 <= start <= depth - words:
            since = max(reached, int(free[start : start + words].max()))
            if since <= needed and (best is None or since < best[0]):
                best = (since, start)
    return None if best is None else best[1]


def longest_load(architecture: Architecture) -> int:
    """Words that a LOAD brings in the cycles that it can announce, even if they grew by half when they were stored."""
    stored_words = LONGEST_CYCLES // architecture.weight_word_cycles
    return max(1, 2 * CHUNK_BYTES * stored_words // (3 * architecture.multipliers))


def _pieces(segment: Segment, since: NDArray[np.int64], least: int, longest: int) -> list[tuple[Piece, int]]:
    """A segment cut where its words become free at different times, earliest first, and where a LOAD would be too long;
    short pieces join a neighbour. That of a turn is cut in the same way for every turn, as they come again."""
    if segment.is_turn:
        count = max(1, segment.words // least, -(-segment.words // longest))
        edges = [segment.words * number // count for number in range(count + 1)]
        parts = [(Piece(segment, first, end - first), int(since[first:end].max())) for first, end in pairwise(edges)]
        return sorted(parts, key=lambda each: each[1])
    edges = [0, *(np.flatnonzero(np.diff(since)) + 1).tolist(), len(since)]
    runs = [[begin, end, int(since[begin])] for begin, end in pairwise(edges)]
    while len(runs) > 1:
        lengths = [end - begin for begin, end, _ in runs]
        place = lengths.index(min(lengths))
        if lengths[place] >= least:
            break
        sides = [other for other in (place - 1, place + 1) if 0 <= other < len(runs)]
        other = min(sides, key=lambda side: abs(runs[side][2] - runs[place][2]))
        low, high = min(place, other), max(place, other)
        runs[low : high + 1] = [[runs[low][0], runs[high][1], max(runs[low][2], runs[high][2])]]
    pieces = [
        (Piece(segment, first, min(longest, end - first)), time)
        for begin, end, time in runs
        for first in range(begin, end, longest)
    ]
    return sorted(pieces, key=lambda each: each[1])


def _append(groups: list[LoadGroup], piece: Piece, since: int, most: int) -> None:
    """Another LOAD, or more words for the last one."""
    if groups:
        last = groups[-1]
        behind = last.address + last.words == piece.address
        if behind and not last.alone and last.free == since and last.words + piece.words <= most:
            last.pieces.append(piece)
            return
    groups.append(LoadGroup([piece], since))
