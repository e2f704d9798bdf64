"""When rows of the frame must be there, and when they are released."""

from __future__ import annotations

from collections.abc import Sequence

from emberline.compiler.rows import Role, RowOperation, Storage


def frame_rows_read(operation: RowOperation) -> range:
    """The rows of the input map that an operation reads, first to last: those of all windows in its stored rows."""
    if operation.source.storage.role is not Role.FRAME or operation.is_padding_only:
        return range(0)
    first = operation.source.row
    last = first + (operation.kernel_rows - 1) * operation.source_rows + operation.rows - 1
    link = operation.source.storage.frame_rows
    return range(link.first_row(first), link.last_row(last) + 1)


def last_frame_reader(operations: Sequence[RowOperation]) -> int:
    """The last operation that reads the frame; the last one of all if none does."""
    readers = (index for index, operation in enumerate(operations) if frame_rows_read(operation))
    return max(readers, default=len(operations) - 1)


def plan_frame_rows(
    operations: Sequence[RowOperation], frame: Storage, keep: int = 0, until: int = 0
) -> list[tuple[int, int]]:
    """For each operation: frame rows that must be there and not released, and how many it releases.

    Rows are released in order, each by the last operation that reads it; one that none reads by the first operation
    that reads beyond it; what is left by the last reader of all.

    Parameters:
        keep, until: the last ``keep`` rows are not released before operation ``until``, behind the last reader: so long
            nothing of the next frame comes, if the ring has room for just so many. The operation behind the last
            reader waits for all of them, read or not, so that nothing of this frame comes any more either.
    """
    frame_rows = frame.frame_rows.rows
    reads = [frame_rows_read(operation) for operation in operations]
    last_reader = {row: index for index, rows in enumerate(reads) for row in rows}
    first_reader: dict[int, int] = {}
    for index, rows in enumerate(reads):
        for row in rows:
            first_reader.setdefault(row, index)
    final = max(last_reader.values(), default=len(reads) - 1)
    releases = [0] * len(reads)
    index = 0
    for row in range(frame_rows):
        beyond = next((first_reader[later] for later in range(row, frame_rows) if later in first_reader), final)
        index = max(index, last_reader.get(row, beyond), until if row >= frame_rows - keep else 0)
        releases[index] += 1
    plan, released = [], 0
    behind = last_frame_reader(operations) + 1
    for index, (rows, count) in enumerate(zip(reads, releases, strict=True)):
        kept = frame_rows - released if until and index == behind else 0
        plan.append((max(rows.stop - released if rows else 0, count, kept), count))
        released += count
    return plan
