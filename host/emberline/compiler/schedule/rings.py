"""Which rows of a storage are alive when: the rows that a ring must keep, and what a whole map occupies over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.rows import Role, RowOperation, Storage

_Times = NDArray[np.int64]

NOTHING_ALIVE = 1 << 40
"""A word beyond every memory."""


def rows_read(operation: RowOperation) -> Iterator[tuple[Storage, int]]:
    """Storage rows that an operation reads; those that it combines with are rows that it writes."""
    if not operation.is_padding_only:
        first = operation.source.row
        for row in range(first, first + operation.kernel_rows * operation.source_rows, operation.source_rows):
            yield from ((operation.source.storage, row + more) for more in range(operation.rows))
    if operation.residual is not None:
        first = operation.residual.row
        yield from ((operation.residual.storage, row) for row in range(first, first + operation.rows))


def rows_written(operation: RowOperation) -> Iterator[tuple[Storage, int]]:
    """Storage rows that an operation writes, in whole or in part."""
    first = operation.target.row
    yield from ((operation.target.storage, row) for row in range(first, first + operation.rows))
    if operation.copy is not None and operation.pooling is not None and operation.pooling.copy:
        yield operation.copy.storage, operation.copy.row


@dataclass(frozen=True, eq=False)
class RowLives:
    """When each row of a storage is alive: from operation ``born`` to operation ``dies``, both included.

    int64 ``[height]`` each; a row that is never used has ``born > dies``.
    """

    storage: Storage
    born: _Times
    dies: _Times

    @property
    def first(self) -> int:
        return int(self.born[self.born <= self.dies].min())

    @property
    def last(self) -> int:
        return int(self.dies.max())

    def least_ring(self) -> int:
        """The rows that a ring must have: none is written before the one in its place has been read for the last time.

        An operation reads all of its rows before the next one writes, but never writes what it reads itself.
        """
        rows = np.arange(len(self.born))
        used = self.born <= self.dies
        meets = used[None, :] & (self.born[None, :] <= self.dies[:, None]) & used[:, None]
        newest = np.where(meets, rows[None, :], -1).max(axis=1)
        return int((newest - rows)[used].max()) + 1


def row_lives(
    operations: Sequence[RowOperation], *, before: Iterable[Storage] = (), after: Iterable[Storage] = ()
) -> dict[Storage, RowLives]:
    """The lives of the rows of all maps that the operations touch.

    Parameters:
        before: maps of which something has been written before the first operation: alive from operation 0.
        after: maps that are needed behind the last operation: alive until ``len(operations)``.
    """
    end = len(operations)
    born: dict[Storage, list[int]] = {}
    dies: dict[Storage, list[int]] = {}
    for index, operation in enumerate(operations):
        for touched in (rows_read(operation), rows_written(operation)):
            for storage, row in touched:
                if storage.role is Role.MAP:
                    if storage not in born:
                        born[storage], dies[storage] = [end + 1] * storage.height, [-1] * storage.height
                    if born[storage][row] > index:
                        born[storage][row] = index
                    dies[storage][row] = index
    earlier, later = set(before), set(after)
    found = {}
    for storage in born:
        begins, ends = np.array(born[storage]), np.array(dies[storage])
        if storage in earlier:
            begins[ends >= 0] = 0
        if storage in later:
            begins[ends < 0] = 0 if storage in earlier else end
            ends[:] = end
        found[storage] = RowLives(storage, begins, ends)
    return found


@dataclass(frozen=True, eq=False)
class Extent:
    """What a storage occupies from operation ``first`` on: words ``low`` to ``high`` of it, int64 ``[operations]``.

    Where nothing of it is alive, ``low`` is ``NOTHING_ALIVE`` and ``high`` its negative.
    """

    storage: Storage
    words: int
    first: int
    low: _Times
    high: _Times

    @property
    def end(self) -> int:
        """Behind the last operation."""
        return self.first + len(self.low)

    @property
    def is_constant(self) -> bool:
        """Whether it occupies the same words all the time."""
        return bool((self.low == self.low[0]).all() and (self.high == self.high[0]).all())

    def clearance(self, above: Extent) -> int | None:
        """Words from this storage's start to that of one that lies above it, at least; None if they never meet."""
        first, end = max(self.first, above.first), min(self.end, above.end)
        if first >= end:
            return None
        high = self.high[first - self.first : end - self.first]
        words = int((high - above.low[first - above.first : end - above.first]).max())
        return words if words > -NOTHING_ALIVE // 2 else None

    def touches(self, first: int, end: int) -> _Times:
        """The operations at which anything of words ``first`` to ``end`` from its start is alive."""
        return self.first + np.flatnonzero((self.low < end) & (self.high > first))


def extent(lives: RowLives, ring_rows: int) -> Extent:
    """What a storage occupies: a ring all of it, a whole map the rows between the oldest and the newest alive."""
    storage, first = lives.storage, lives.first
    count = lives.last + 1 - first
    words = ring_rows * storage.row_words
    if ring_rows < storage.height:
        return Extent(storage, words, first, np.zeros(count, np.int64), np.full(count, words))
    low, high = np.full(count, storage.height), np.zeros(count, np.int64)
    for row in range(storage.height):
        alive = slice(int(lives.born[row]) - first, int(lives.dies[row]) + 1 - first)
        if lives.born[row] <= lives.dies[row]:
            np.minimum(low[alive], row, out=low[alive])
            high[alive] = row + 1
    gap = high == 0  # nothing alive for a while
    low, high = low * storage.row_words, high * storage.row_words
    low[gap], high[gap] = NOTHING_ALIVE, -NOTHING_ALIVE
    return Extent(storage, words, first, low, high)


def constant_extent(storage: Storage, count: int) -> Extent:
    """A map that lies there whole during ``count`` operations."""
    return Extent(storage, storage.words, 0, np.zeros(count, np.int64), np.full(count, storage.words))


def interrupted_extent(storage: Storage, words: int, gap: range, count: int) -> Extent:
    """``words`` of a storage that are in use but for the operations in ``gap``."""
    low, high = np.zeros(count, np.int64), np.full(count, words)
    low[gap.start : gap.stop], high[gap.start : gap.stop] = NOTHING_ALIVE, -NOTHING_ALIVE
    return Extent(storage, words, 0, low, high)
