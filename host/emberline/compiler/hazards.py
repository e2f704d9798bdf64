"""Pass: fences, where an operation reads what may not have been written yet."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.compiler.rows import Access, RowOperation, Schedule

ROWS_IN_FLIGHT = 2
"""ROWs before the current one whose results may not have landed."""

Range = tuple[int, int]
"""First group and the one behind the last."""


def plan_fences(schedule: Schedule, architecture: Architecture) -> None:
    """Set ``fence`` where an operation reads what one of the two before it writes, or differs in ``add``."""
    landed = 0
    writes: list[list[Range]] = []
    for index, operation in enumerate(schedule.operations):
        flying = writes[max(landed, index - ROWS_IN_FLIGHT) :]
        reads = read_ranges(operation, architecture)
        operation.fence = any(_overlap(read, write) for read in reads for row in flying for write in row)
        if index and (operation.addition is None) != (schedule.operations[index - 1].addition is None):
            operation.fence = True
        if operation.fence:
            landed = index
        writes.append(write_ranges(operation, architecture))


def _overlap(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def write_ranges(operation: RowOperation, architecture: Architecture) -> list[Range]:
    """What an operation writes, gaps included."""
    ranges = [_pixel_range(operation.target, operation, architecture)]
    if operation.copy is not None and operation.pooling is not None and operation.pooling.copy:
        ranges.append(_pixel_range(operation.copy, operation, architecture))
    return ranges


def _pixel_range(access: Access, operation: RowOperation, architecture: Architecture) -> Range:
    storage, groups = access.storage, architecture.groups_per_word
    first = storage.start + (access.row % storage.ring_rows * storage.row_words + access.words) * groups
    first += access.groups
    return first, first + (operation.stored_columns - 1) * storage.pixel_words * groups + operation.groups


def read_ranges(operation: RowOperation, architecture: Architecture) -> list[Range]:
    """Every kernel row that an operation reads, its residual, and the maxima that it combines with."""
    groups, source = architecture.groups_per_word, operation.source
    ranges = []
    last = (operation.columns - 1) * operation.pixel_step + (operation.kernel_columns - 1) * operation.tap_step
    end = min(operation.row_words, last + operation.channel_words - operation.pad_words)
    begin = max(0, -operation.pad_words)
    for ky in range(operation.kernel_rows if end > begin else 0):
        row = (source.row + ky * operation.source_rows) % source.storage.ring_rows
        first = source.storage.start + (row * source.storage.row_words + source.words) * groups
        ranges.append((first + begin * groups, first + end * groups))
    if operation.residual is not None:
        ranges.append(_pixel_range(operation.residual, operation, architecture))
    if operation.pooling is not None and operation.pooling.combine:
        ranges.append(_pixel_range(operation.target, operation, architecture))
    return ranges
