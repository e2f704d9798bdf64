"""Pass: fences, where an operation reads what may not have been written yet."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

from emberline.arch.architecture import Architecture
from emberline.arch.latency import minimum_idle
from emberline.arch.pooled_row import PooledRow, combines_in_flight
from emberline.compiler.rows import Access, RowOperation, Schedule


class Span(NamedTuple):
    """``groups`` groups every ``step`` groups: ``first``, and ``end`` behind the last of all."""

    first: int
    end: int
    step: int
    groups: int


def plan_fences(schedule: Schedule, architecture: Architecture) -> None:
    """Set ``fence`` where an operation reads what the one before it writes, or differs in ``add``.

    When a ROW starts, only the one before it may still be writing. A maximum may be combined with what that one
    stores, if it is stored well before it is read: `emberline.arch.timing.combines_in_flight`.
    """
    earlier: RowOperation | None = None
    for operation in schedule.operations:
        if earlier is not None:
            operation.fence = needs_fence(earlier, operation, architecture)
        earlier = operation


def needs_fence(earlier: RowOperation, operation: RowOperation, architecture: Architecture) -> bool:
    """Whether ``operation``, which follows ``earlier``, must wait until that has written everything."""
    if (operation.addition is None) != (earlier.addition is None) or starves(earlier, operation):
        return True
    reads, writes = read_ranges(operation, architecture), write_ranges(earlier, architecture)
    if any(overlap(read, write) for read in reads for write in writes):
        return True
    if operation.pooling is None or not operation.pooling.combine:
        return False
    target = _pixel_range(operation.target, operation, architecture)
    touched = [index for index, write in enumerate(writes) if overlap(target, write)]
    if not touched:
        return False
    same = earlier.pooling is not None and _stored(earlier) == _stored(operation)
    if not same or touched != [touched[0]] or writes[touched[0]] != target:
        return True
    rows = pooled_row(earlier, architecture), pooled_row(operation, architecture)
    return not combines_in_flight(architecture, *rows, copied=touched[0] > 0)


def starves(earlier: RowOperation, operation: RowOperation) -> bool:
    """Whether ``operation`` combines with its target, and ``earlier`` may leave it no cycle to read that."""
    return operation.pooling is not None and bool(operation.pooling.combine) and earlier.computes_pair


def _stored(operation: RowOperation) -> tuple[int, int, int]:
    """What the addresses of a row's groups follow from, besides the first."""
    return operation.stored_columns, operation.groups, operation.target.storage.pixel_words


def pooled_row(operation: RowOperation, architecture: Architecture) -> PooledRow:
    """The row's geometry as its timing has it."""
    pooling = operation.pooling
    assert pooling is not None
    return PooledRow(
        operation.taps,
        idle_cycles(operation, architecture),
        operation.columns,
        operation.groups,
        pooling.pool_first,
        pooling.pool_stride,
        pooling.pool_columns,
        bool(pooling.copy),
    )


def idle_cycles(operation: RowOperation, architecture: Architecture) -> int:
    """The operation's ``idle``: the least there is."""
    pooling = operation.pooling
    return minimum_idle(
        architecture,
        operation.taps,
        operation.columns,
        operation.addition is not None,
        pooling is not None and bool(pooling.copy),
        pooling is not None and bool(pooling.combine),
        1 if pooling is None else pooling.pool_stride,
        operation.depthwise,
    )


def timing_fields(operation: RowOperation, architecture: Architecture) -> dict[str, int]:
    """The fields of the ROW that its time follows from, without a fence."""
    fields = {
        "add": int(operation.addition is not None),
        "pool": int(operation.pooling is not None),
        "depthwise": int(operation.depthwise),
        "hold_weight": int(operation.weights.hold),
        "fence": 0,
        "idle": idle_cycles(operation, architecture),
    }
    fields |= {name: getattr(operation, name) for name in _SHAPE}
    return fields | (asdict(operation.pooling) if operation.pooling is not None else {})


_SHAPE = ("kernel_rows", "kernel_columns", "channel_words", "columns", "groups", "lead")


def overlap(a: Span, b: Span) -> bool:
    """Whether two spans have a group in common; of different steps, whether they might."""
    if a.end <= b.first or b.end <= a.first:
        return False
    if a.step != b.step:
        return True
    distance = (b.first - a.first) % a.step
    return distance < a.groups or a.step - distance < b.groups


def write_ranges(operation: RowOperation, architecture: Architecture) -> list[Span]:
    """What an operation writes."""
    ranges = [_pixel_range(operation.target, operation, architecture)]
    if operation.copy is not None and operation.pooling is not None and operation.pooling.copy:
        ranges.append(_pixel_range(operation.copy, operation, architecture))
    return ranges


def _pixel_range(access: Access, operation: RowOperation, architecture: Architecture) -> Span:
    storage, groups = access.storage, architecture.groups_per_word
    first = storage.start + (access.row % storage.ring_rows * storage.row_words + access.words) * groups
    first += access.groups
    step, written = storage.pixel_words * groups, operation.groups_written(groups)
    if access is operation.target:
        step *= operation.target_pixels
    return Span(first, first + (operation.stored_columns - 1) * step + written, step, written)


def read_ranges(operation: RowOperation, architecture: Architecture) -> list[Span]:
    """Every kernel row that an operation reads, and its residual; not what it combines with, which is its target."""
    groups, source = architecture.groups_per_word, operation.source
    ranges = []
    last = (operation.columns - 1) * operation.pixel_step + (operation.kernel_columns - 1) * operation.tap_step
    end = min(operation.row_words, last + operation.words_read - operation.pad_words)
    begin = max(0, -operation.pad_words)
    for ky in range(operation.kernel_rows if end > begin else 0):
        row = (source.row + ky * operation.source_rows) % source.storage.ring_rows
        first = source.storage.start + (row * source.storage.row_words + source.words) * groups
        ranges.append(Span(first + begin * groups, first + end * groups, 1, 1))
    if operation.residual is not None:
        ranges.append(_pixel_range(operation.residual, operation, architecture))
    return ranges
