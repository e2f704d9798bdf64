"""Pass: rows that lie one behind the other in memory become one long row, where that takes fewer cycles.

A convolution whose kernel is one column wide, without padding beside it and with as many columns as its source has, is
the same over one row as over several that follow each other: source, target and residual are read and written pixel by
pixel. Each ROW loads the parameters of all its groups and is handed over once, so that fewer of them cost less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import fields, replace
from itertools import groupby, pairwise

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.timing import CompactClock, FrameClock, frame_clock
from emberline.compiler.hazards import needs_fence, overlap, read_ranges, timing_fields, write_ranges
from emberline.compiler.rows import Access, RowOperation, Schedule

LOOK_AHEAD = 2
"""Operations behind a run, as they are, whose waiting counts for how it is cut: fences and contexts reach so far."""

_LIMITS = {each.name: (1 << each.width) - 1 for each in isa.ROW.fields}


def join_rows(schedule: Schedule, architecture: Architecture) -> Schedule:
    """A schedule with addresses and without waits and fences, its rows joined; the one given stays as it is.

    Operations keep their order, so that every value is computed from the same values as before.
    """
    joiner = _Joiner(schedule, architecture)
    operations: list[RowOperation] = []
    places = {0: 0}  # of the operations at which a run may begin
    for begin, end in joiner.runs():
        operations += joiner.cut(begin, end)
        places[end] = len(operations)
    stages = []
    for stage in schedule.stages:
        first, last = stage.operations
        stages.append(replace(stage, operations=(places[first], places[last])))
    return replace(schedule, operations=operations, stages=stages)


class _Joiner:
    """Goes through a schedule once; the clock follows what has been decided."""

    def __init__(self, schedule: Schedule, architecture: Architecture) -> None:
        self.operations, self.frame, self.architecture = schedule.operations, schedule.frame, architecture
        # A frame that a whole one follows in the ring is waited for by BEGIN, and nobody waits for its release.
        rows = self.frame.frame_rows.rows
        self._joins_frame = self.frame.ring_rows >= 2 * self.frame.height and rows <= _LIMITS["release_rows"]
        self._clock = frame_clock(architecture)
        self._before: RowOperation | None = None

    def runs(self) -> Iterator[tuple[int, int]]:
        """The schedule in ranges of operations, each of which continues the one before it."""
        begin = 0
        for index, (earlier, later) in enumerate(pairwise(self.operations), 1):
            if not self._continues(earlier, later):
                yield begin, index
                begin = index
        yield begin, len(self.operations)

    def _continues(self, earlier: RowOperation, later: RowOperation) -> bool:
        reads_frame = any(access.storage is self.frame for _, access in earlier.accesses)
        return (self._joins_frame or not reads_frame) and continues(earlier, later)

    def cut(self, begin: int, end: int) -> list[RowOperation]:
        """A run in the pieces that take the fewest cycles, also of what follows; of those the fewest."""
        run = self.operations[begin:end]
        behind = self.operations[end : end + LOOK_AHEAD]
        best = min(
            self._candidates(run, behind), key=lambda pieces: (self._follow([*pieces, *behind])[1], _words(pieces))
        )
        self._clock = self._follow(best)[0]
        self._before = best[-1]
        return best

    def _candidates(self, run: Sequence[RowOperation], behind: Sequence[RowOperation]) -> Iterator[list[RowOperation]]:
        """The run as it is; as long as can be; and cut so that its beginning and its end need no fence."""
        yield list(run)
        if len(run) == 1:
            return
        length, before = len(run), self._before
        first, tail = length, 0  # where the first piece must end, and the last one begin, at the latest and earliest
        if before is not None:
            first = self._reach(length, lambda count: (before, join(run[:count])))
        if behind:
            tail = length - self._reach(length, lambda count: (join(run[-count:]), behind[0]))
        middle = min(max(length // 2, tail), first)  # equal pieces make a loop
        for cuts in dict.fromkeys([(), (middle,), (first,), (tail,), (first, tail)]):
            edges = [0, *sorted({cut for cut in cuts if 0 < cut < length}), length]
            yield [each for a, b in pairwise(edges) for each in self._pieces(run[a:b])]

    def _reach(self, length: int, joined: Callable[[int], tuple[RowOperation, RowOperation]]) -> int:
        """How many rows may be joined so that the second of two operations needs no fence; all if each needs one."""
        count = 0
        while count < length and not needs_fence(*joined(count + 1), self.architecture):
            count += 1
        return count or length

    def _pieces(self, run: Sequence[RowOperation]) -> Iterator[RowOperation]:
        """As few long rows as possible."""
        begin = 0
        for end in range(1, len(run) + 1):
            if end == len(run) or not can_join(run[begin : end + 1], self.architecture):
                yield join(run[begin:end])
                begin = end

    def _follow(self, operations: Sequence[RowOperation]) -> tuple[FrameClock | CompactClock, int]:
        """The clock behind some operations that come next, and the cycles that they take."""
        clock, earlier, cycles = copy(self._clock), self._before, 0
        for operation in operations:
            fence = earlier is not None and needs_fence(earlier, operation, self.architecture)
            cycles += clock.row({**timing_fields(operation, self.architecture), "fence": int(fence)}).total
            earlier = operation
        return clock, cycles


def _words(pieces: Sequence[RowOperation]) -> int:
    """Program words, about: rows of one length that follow each other make a loop."""
    lengths = [len(list(alike)) for _, alike in groupby(each.rows for each in pieces)]
    return sum(isa.ROW.word_count + (2 if count > 1 else 0) for count in lengths)


def continues(earlier: RowOperation, later: RowOperation) -> bool:
    """Whether ``later`` computes the row behind that of ``earlier``, with all it reads and writes just behind too."""
    if any(getattr(earlier, name) != getattr(later, name) for name in _SAME):
        return False
    if earlier.depthwise or earlier.pooling is not None or earlier.kernel_columns > 1 or earlier.pad_words:
        return False
    reaches = (earlier.columns - 1) * earlier.pixel_step + earlier.channel_words
    if reaches > earlier.row_words or earlier.columns * earlier.pixel_step != earlier.source.storage.row_words:
        return False
    if earlier.columns * earlier.target_pixels != earlier.target.storage.width:
        return False
    kernel_rows = range(0, earlier.kernel_rows * earlier.source_rows, earlier.source_rows)
    if not all(_is_behind(earlier.source, later.source, first) for first in kernel_rows):
        return False
    if not _is_behind(earlier.target, later.target):
        return False
    if earlier.residual is None or later.residual is None:
        return earlier.residual is later.residual
    return earlier.columns == earlier.residual.storage.width and _is_behind(earlier.residual, later.residual)


def _is_behind(earlier: Access, later: Access, rows: int = 0) -> bool:
    """Whether one access, some rows on, is to the row behind another one, at the same place in it."""
    if earlier.storage is not later.storage or (earlier.words, earlier.groups) != (later.words, later.groups):
        return False
    return later.row == earlier.row + 1 and (later.row + rows) % later.storage.ring_rows != 0


def can_join(rows: Sequence[RowOperation], architecture: Architecture) -> bool:
    """Whether rows, each of which continues the one before it, may be one: it has room for its numbers, and overwrites
    nothing that it reads but its residual in place, as it reads all of its source again for each group."""
    long = join(rows)
    if any(getattr(long, name) > _LIMITS[name] for name in ("columns", "row_words")):
        return False
    (target,) = write_ranges(long, architecture)
    reads = read_ranges(long, architecture)
    if long.residual is not None and reads[-1] == target:
        del reads[-1]
    return not any(overlap(target, each) for each in reads)


def join(rows: Sequence[RowOperation]) -> RowOperation:
    """One operation for rows each of which continues the one before it."""
    first = rows[0]
    more = (len(rows) - 1) * first.columns
    return replace(
        first,
        columns=first.columns + more,
        row_words=first.row_words + more * first.pixel_step,
        rows=first.rows * len(rows),
    )


_SAME = [each.name for each in fields(RowOperation) if each.name not in ("source", "target", "residual")]
