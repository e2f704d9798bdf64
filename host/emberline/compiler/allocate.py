"""Pass: addresses. Storages share memory where their rows are not alive together; the frame ring takes what is left."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.compiler.rows import Role, Schedule, Storage
from emberline.compiler.schedule.frame import plan_frame_rows
from emberline.compiler.schedule.packing import pack
from emberline.compiler.schedule.rings import extent, row_lives

MAXIMUM_HELD_ROWS = 4095


def allocate(schedule: Schedule, architecture: Architecture) -> int:
    """Set every storage's ``start`` and the frame's ``ring_rows``, if there is room.

    From the bottom: the frame ring, the result region, the maps. Gives the words that are missing, or 0.
    """
    lives = row_lives(schedule.operations)
    packing = pack([extent(each, each.storage.ring_rows) for each in lives.values()])
    results = [storage for storage in schedule.storages if storage.role is Role.RESULT]
    result_words = sum(storage.words for storage in results)
    frame = schedule.frame
    available = architecture.activation_depth_words
    least = frame.frame_rows.ring_rows(least_held_rows(schedule))
    needed = least * frame.row_words + result_words + packing.words
    if needed > available:
        return needed - available
    rows = (available - result_words - packing.words) // frame.row_words
    frame.ring_rows = frame.frame_rows.ring_rows(held_rows(frame, rows))
    groups = architecture.groups_per_word
    frame.start = 0
    position = frame.words
    for storage in results:
        storage.start = position * groups
        position += storage.words
    for storage, offset in packing.offsets.items():
        storage.start = (position + offset) * groups
    return 0


def held_rows(frame: Storage, ring_rows: int) -> int:
    """Rows of the link that may be held in a ring of so many stored rows: two frames of them at most."""
    return frame.frame_rows.held_rows(ring_rows, min(2 * frame.frame_rows.rows, MAXIMUM_HELD_ROWS))


def least_held_rows(schedule: Schedule) -> int:
    """Frame rows that must be held at once: from the oldest one not yet released to the newest one needed."""
    return max(waits for waits, _ in plan_frame_rows(schedule.operations, schedule.frame))
