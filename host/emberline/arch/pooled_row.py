"""When a pooled ROW may read what the one before it still writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from emberline.arch.architecture import Architecture
from emberline.arch.latency import TAKEN, write_latency

READ_AHEAD = 8
"""Groups that the residual reader asks for ahead of the results that they meet."""

_FIRST_READ = 4
"""Cycles from the hand-over of a ROW to its first request for a residual group."""


@dataclass(frozen=True)
class PooledRow:
    """What the times of a pooled ROW's reads and writes follow from."""

    taps: int
    idle: int
    columns: int
    groups: int
    pool_first: int
    pool_stride: int
    pool_columns: int
    copy: bool

    def results(self, architecture: Architecture) -> list[int]:
        """The last tap of every stored group, in cycles after the hand-over: columns innermost."""
        pace = self.idle + self.taps
        last = [min(self.pool_first + p * self.pool_stride, self.columns - 1) for p in range(self.pool_columns)]
        group = architecture.parameter_words + self.columns * pace
        return [
            g * group + architecture.parameter_words + (column + 1) * pace
            for g in range(self.groups)
            for column in last
        ]


@lru_cache(maxsize=256)
def combines_in_flight(architecture: Architecture, earlier: PooledRow, later: PooledRow, copied: bool) -> bool:
    """Whether ``later`` may combine, without a fence, with what ``earlier``, the ROW before it, stores.

    Parameters:
        earlier, later: rows of equally many groups and stored columns, stored at the same addresses.
        copied: it is the copy that ``later`` reads, not the target.

    Number the stored groups of a ROW ``n = 0, 1, ...`` as they are written and read. Let a ROW be handed over in cycle
    ``h``, its group's last tap be at ``h + tap(n)`` (``PooledRow.results``), and ``L = write_latency``.

    - *Written.* The pipeline behind the lanes has no queue, so ``earlier`` writes group ``n`` in cycle
      ``h + tap(n) + L``, and its copy one later.
    - *Handed over.* ``later`` is handed over after the last tap of ``earlier``: not before
      ``h' = h + row_cycles(earlier) + 1``. Every row before ``earlier`` has been written then: only one ROW may be in
      flight when another one starts.
    - *Read.* ``later`` asks for a group not before ``h' + _FIRST_READ + n``, as it asks for one a cycle. And the
      reader asks for group ``n`` only if fewer than ``READ_AHEAD`` groups have been asked for and not been taken,
      which it knows a cycle late: after group ``n - READ_AHEAD`` was taken. It is taken when it meets its result,
      ``TAKEN`` cycles before its write: in cycle ``h' + tap'(n - READ_AHEAD) + L - TAKEN``.
    - *Order.* Writes and reads use one port of the buffer, in the order of their cycles: a read sees every write of
      an earlier cycle.

    So group ``n`` is read after it was written if it is written in an earlier cycle than the later of the two that the
    read cannot precede. Waiting of any kind makes ``h'`` and the reads later, never a write.

    The reads come in time as well if ``earlier`` leaves the port a free cycle for each group that it stores: its last
    writes take ``L`` cycles of the walk of ``later``, a third of them or more are free, and ``READ_AHEAD`` groups are
    there before the first result of ``later``. From then on its own ``minimum_idle`` leaves a cycle for every read.
    """
    latency = write_latency(architecture)
    pace = earlier.idle + earlier.taps
    if pace * earlier.pool_stride < 2 + earlier.copy:
        return False
    start = earlier.groups * (architecture.parameter_words + earlier.columns * pace) + 1
    taken = later.results(architecture)
    for n, tap in enumerate(earlier.results(architecture)):
        read = start + _FIRST_READ + n
        if n >= READ_AHEAD:
            read = max(read, start + taken[n - READ_AHEAD] + latency - TAKEN + 1)
        if tap + latency + copied >= read:
            return False
    return True
