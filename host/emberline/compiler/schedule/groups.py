"""The order of rows inside a group of steps: every step at its own pace, as early as its inputs allow.

Each step of a group has a *pace*, the time from one of its computed rows to the next: a step whose source another step
of the group writes goes as fast as that one finishes the rows which it takes. Computed row ``i`` of a step is then due
at ``phase + i * pace``, with the least phase for which every row comes after those that it depends on. Rows run in the
order in which they are due. So the order is periodic but for the beginnings and ends of maps, and makes loops.

In *bands*, all rows that are due in the same stretch of time run step by step: depth first if the stretch is short,
layer by layer if it is as long as the whole map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from emberline.compiler.rows import RowOperation, StepRows, Storage
from emberline.compiler.schedule.rings import rows_read, rows_written


@dataclass(frozen=True)
class Interleaving:
    """How the rows of a group's steps follow each other.

    Parameters:
        band: target rows of the slowest step for which the others run ahead, step by step; 0: every row as it is due;
            None: all of them, layer by layer.
        apart: a step reads no row of the step before it until that one has computed another row: nothing has to wait
            until a row has been written, for a row more in the ring.
    """

    band: int | None
    apart: bool = False

    def __str__(self) -> str:
        if self.band is None:
            return "layer by layer"
        rows = "row by row" if self.band == 0 else f"{self.band} row{'s' if self.band > 1 else ''} at a time"
        return f"{rows}, a row apart" if self.apart else rows


LAYER_BY_LAYER = Interleaving(None)


def interleave(steps: Sequence[StepRows], how: Interleaving) -> list[RowOperation]:
    """The row operations of consecutive steps in an order that gives the same values as one step after the other."""
    if how.band is None or len(steps) == 1:
        return [operation for step in steps for operation in step.operations]
    paces, slowest = _paces(steps)
    phases = _phases(steps, paces, apart=how.apart)
    stretch = max(1, how.band * slowest)
    due = [
        ((phases[number] + index * paces[number]) // stretch, number, index)
        if how.band
        else (phases[number] + index * paces[number], number, index)
        for number, step in enumerate(steps)
        for index in range(len(step.rows))
    ]
    return [operation for _, number, index in sorted(due) for operation in steps[number].rows[index]]


def _paces(steps: Sequence[StepRows]) -> tuple[list[int], int]:
    """The time from row to row of every step, and the longest from one target row to the next."""
    per_target: list[Fraction] = []
    times: dict[Storage, Fraction] = {}
    first = steps[0].rows[0][0].target.storage
    for step in steps:
        operation = step.rows[0][0]
        source, target = operation.source.storage, operation.target.storage
        if source in times:
            time = times[source] * step.source_pitch
        elif operation.residual is not None and operation.residual.storage in times:
            time = times[operation.residual.storage]
        else:  # as long in all as the group's first step
            time = Fraction(first.height, target.height)
        times[target] = time
        per_target.append(time)
    paces = [time / step.rows_per_target for time, step in zip(per_target, steps, strict=True)]
    unit = lcm(*(pace.denominator for pace in paces))
    slowest = max(time for time, step in zip(per_target, steps, strict=True) if step is steps[0] or len(step.rows) > 1)
    return [int(pace * unit) for pace in paces], -(-slowest.numerator * unit // slowest.denominator)


def _phases(steps: Sequence[StepRows], paces: Sequence[int], *, apart: bool) -> list[int]:
    """When every step's first row is due: the least that keeps the order of all accesses to the same storage row.

    Steps that write different channels of a row, parts of a concatenation, do so in any order.
    """
    written: dict[Storage, dict[int, int]] = {}
    overwritten: dict[tuple[Storage, int], dict[int, int]] = {}
    read: dict[Storage, dict[int, int]] = {}
    writers: dict[Storage, int] = {}
    phases: list[int] = []
    for number, (step, pace) in enumerate(zip(steps, paces, strict=True)):
        phase = 0
        accesses = [_accesses(row) for row in step.rows]
        for index, (reads, writes) in enumerate(accesses):
            earliest = 0
            for storage, row in reads:
                if row in written.get(storage, {}):
                    behind = writers[storage] == number - 1 and apart
                    earliest = max(earliest, written[storage][row] + (paces[number - 1] if behind else 0))
            for storage, row, groups in writes:
                earliest = max(earliest, overwritten.get((storage, groups), {}).get(row, 0))
                earliest = max(earliest, read.get(storage, {}).get(row, 0))
            phase = max(phase, earliest - index * pace)
        phases.append(phase)
        for index, (reads, writes) in enumerate(accesses):
            time = phase + index * pace
            for storage, row in reads:
                _raise(read.setdefault(storage, {}), row, time)
            for storage, row, groups in writes:
                _raise(written.setdefault(storage, {}), row, time)
                _raise(overwritten.setdefault((storage, groups), {}), row, time)
        for _, writes in accesses:
            writers |= {storage: number for storage, *_ in writes}
    return phases


def _raise(times: dict[int, int], row: int, time: int) -> None:
    times[row] = max(times.get(row, time), time)


def _accesses(row: Sequence[RowOperation]) -> tuple[set[tuple[Storage, int]], set[tuple[Storage, int, int]]]:
    """Storage rows that the operations of one computed row read, and those that they write from a group on; maxima read
    what they combine with."""
    return (
        {access for operation in row for access in rows_read(operation)},
        {access for operation in row for access in _parts_written(operation)},
    )


def _parts_written(operation: RowOperation) -> Iterator[tuple[Storage, int, int]]:
    for storage, row in rows_written(operation):
        yield storage, row, operation.target.groups
