"""Pass: addresses. Storages share memory where their lives do not meet; the frame ring takes what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.compiler.checks import kib, refuse
from emberline.compiler.rows import Role, RowOperation, Schedule, Storage

MAXIMUM_RING_ROWS = 4095


@dataclass(frozen=True)
class Lifetime:
    """A storage is needed from operation ``first`` to operation ``last``, both included."""

    storage: Storage
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


def lifetimes(schedule: Schedule) -> list[Lifetime]:
    """When each map's storage is in use: from its first write to its last read."""
    spans: dict[int, list[int]] = {}
    for index, operation in enumerate(schedule.operations):
        for access in (operation.source, operation.target, operation.residual):
            if access is not None:
                spans.setdefault(id(access.storage), [index, index])[1] = index
    return [
        Lifetime(storage, *spans[id(storage)])
        for storage in schedule.storages
        if storage.role is Role.MAP and id(storage) in spans
    ]


def allocate(schedule: Schedule, architecture: Architecture) -> None:
    """Set every storage's ``start`` and the frame's ``ring_rows``.

    From the bottom: the frame ring, the result region, the maps. The maps are placed at the lowest address that is
    free for their whole life, in the best of a few orders. Raises ``CompileError`` naming the layer that needs most.
    """
    lives = lifetimes(schedule)
    offsets, heap_words = _best_packing(lives)
    results = [storage for storage in schedule.storages if storage.role is Role.RESULT]
    result_words = sum(storage.words for storage in results)
    frame = schedule.frame
    least = least_ring_rows(schedule)
    available = architecture.activation_depth_words
    needed = least * frame.row_words + result_words + heap_words
    if needed > available:
        raise _too_large(schedule, lives, needed, architecture)
    rows = (available - result_words - heap_words) // frame.row_words
    frame.ring_rows = min(rows, 2 * frame.height, MAXIMUM_RING_ROWS)
    groups = architecture.groups_per_word
    frame.start = 0
    position = frame.words
    for storage in results:
        storage.start = position * groups
        position += storage.words
    for life in lives:
        life.storage.start = (position + offsets[id(life.storage)]) * groups


def least_ring_rows(schedule: Schedule) -> int:
    """Frame rows that must be held at once: from the oldest one not yet released to the newest one needed."""
    return max(waits for waits, _ in plan_frame_rows(schedule))


def frame_rows_read(operation: RowOperation) -> range:
    """The rows of the input map that an operation reads, first to last."""
    if operation.source.storage.role is not Role.FRAME or operation.is_padding_only:
        return range(0)
    first = operation.source.row
    return range(first, first + (operation.kernel_rows - 1) * operation.source_rows + 1)


def plan_frame_rows(schedule: Schedule) -> list[tuple[int, int]]:
    """For each operation: frame rows that must be there and not released, and how many it releases.

    Rows are released in order, each by the last operation that reads it; one that none reads by the first operation
    that reads beyond it; what is left by the last reader of all.
    """
    reads = [frame_rows_read(operation) for operation in schedule.operations]
    last_reader = {row: index for index, rows in enumerate(reads) for row in rows}
    first_reader: dict[int, int] = {}
    for index, rows in enumerate(reads):
        for row in rows:
            first_reader.setdefault(row, index)
    final = max(last_reader.values(), default=len(reads) - 1)
    releases = [0] * len(reads)
    index = 0
    for row in range(schedule.frame.height):
        beyond = next(
            (first_reader[later] for later in range(row, schedule.frame.height) if later in first_reader), final
        )
        index = max(index, last_reader.get(row, beyond))
        releases[index] += 1
    plan, released = [], 0
    for rows, count in zip(reads, releases, strict=True):
        plan.append((max(rows.stop - released if rows else 0, count), count))
        released += count
    return plan


def _best_packing(lives: list[Lifetime]) -> tuple[dict[int, int], int]:
    """Offsets in words by storage, and the height of the pile: the lowest of several orders of placing."""
    orders: list[Callable[[Lifetime], tuple[int, ...]]] = [
        lambda life: (-life.storage.words, life.first),
        lambda life: (life.first, -life.storage.words),
        lambda life: (life.first - life.last, -life.storage.words),
        lambda life: (-life.storage.words * (life.last - life.first + 1), life.first),
    ]
    packings = [_pack(sorted(lives, key=order)) for order in orders]
    return min(packings, key=lambda packing: packing[1])


def _pack(lives: list[Lifetime]) -> tuple[dict[int, int], int]:
    placed: list[tuple[Lifetime, int]] = []
    for life in lives:
        taken = sorted((offset, offset + other.storage.words) for other, offset in placed if life.meets(other))
        best, position, smallest = -1, 0, 0
        for start, end in taken:
            gap = start - position
            if gap >= life.storage.words and (best < 0 or gap < smallest):
                best, smallest = position, gap
            position = max(position, end)
        placed.append((life, best if best >= 0 else position))
    height = max((offset + life.storage.words for life, offset in placed), default=0)
    return {id(life.storage): offset for life, offset in placed}, height


def _too_large(schedule: Schedule, lives: list[Lifetime], needed: int, architecture: Architecture) -> Exception:
    def live_words(index: int) -> int:
        return sum(life.storage.words for life in lives if life.first <= index <= life.last)

    worst = max(range(len(schedule.operations)), key=live_words)
    return refuse(
        schedule.operations[worst].layer,
        f"needs {kib(needed * architecture.lanes_in)} of activation memory, {kib(architecture.activation_bytes)} "
        f"available on '{architecture.name}'",
    )
