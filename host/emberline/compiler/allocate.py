"""Pass: addresses. Storages share memory where their rows are not alive together.

The frame ring takes what is left; where that is too little, maps that are written when the frame has been read lie in
it too. Its last rows are then released, so that the next frame may come, when these maps have been read in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emberline.arch.architecture import Architecture
from emberline.compiler.rows import Role, Schedule, Storage
from emberline.compiler.schedule.frame import last_frame_reader, plan_frame_rows
from emberline.compiler.schedule.packing import pack
from emberline.compiler.schedule.rings import Extent, extent, interrupted_extent, row_lives

MAXIMUM_HELD_ROWS = 4095
MOST_RELEASED = 255
"""Rows that an operation can release."""
WRITTEN = 2
"""Operations from one to the first whose end finds everything written that it writes."""


def allocate(schedule: Schedule, architecture: Architecture) -> int:
    """Set every storage's ``start``, the frame's ``ring_rows`` and ``frame_until``, if there is room.

    From the bottom: the frame ring, the result region, the maps; or the result region, and behind it the ring
    wherever there is room for it among the maps. Gives the words that are missing, or 0.
    """
    lives = row_lives(schedule.operations)
    maps = [extent(each, each.storage.ring_rows) for each in lives.values()]
    frame = schedule.frame
    result_words = sum(each.words for each in schedule.storages if each.role is Role.RESULT)
    available = architecture.activation_depth_words - result_words
    packing = pack(maps)
    rows = (available - packing.words) // frame.row_words
    if rows >= frame.frame_rows.ring_rows(least_held_rows(schedule)):
        frame.ring_rows = frame.frame_rows.ring_rows(held_rows(frame, rows))
        offsets = {frame: -result_words} | {each: frame.words + at for each, at in packing.offsets.items()}
        until, position = 0, frame.words
    else:
        found = _share_ring(schedule, maps, available)
        if isinstance(found, int):
            return found
        offsets, until, position = found, _frame_until(schedule, maps, found), 0
    schedule.frame_until = until
    for storage, offset in offsets.items():  # counted from the result region's end
        storage.start = (result_words + offset) * architecture.groups_per_word
    for storage in schedule.storages:
        if storage.role is Role.RESULT:
            storage.start = position * architecture.groups_per_word
            position += storage.words
    return 0


def _share_ring(schedule: Schedule, maps: Sequence[Extent], available: int) -> dict[Storage, int] | int:
    """Offsets of maps and frame, where maps may lie in its ring when it has been read; or the words missing.

    The ring is as long as doubling finds room for: the more rows of the next frame come while this one is computed,
    the less the link must keep in step with their readers.
    """
    frame, least = schedule.frame, least_held_rows(schedule)
    found: dict[Storage, int] | int = 1 << 60
    held = least
    while held == least or held <= min(frame.frame_rows.rows, MOST_RELEASED):
        rows = frame.frame_rows.ring_rows(held)
        gap = _free_time(schedule) if held <= MOST_RELEASED else range(0)
        ring = interrupted_extent(frame, rows * frame.row_words, gap, len(schedule.operations))
        packing = pack([ring, *maps])
        if packing.words > available:
            return packing.words - available if held == least else found
        found, frame.ring_rows = packing.offsets, rows
        held *= 2
    return found


def _free_time(schedule: Schedule) -> range:
    """The operations during which maps may be alive in the frame's ring."""
    return range(last_frame_reader(schedule.operations) + 1, len(schedule.operations) - WRITTEN)


def _frame_until(schedule: Schedule, maps: Sequence[Extent], offsets: Mapping[Storage, int]) -> int:
    """The operation that may release the frame's last rows, as nothing is alive in its ring any more; 0: their reader.

    ``WRITTEN`` operations before it none touches the ring, whatever it writes there.
    """
    ring, begin = schedule.frame, offsets[schedule.frame]
    touched = (each.touches(begin - offsets[each.storage], begin + ring.words - offsets[each.storage]) for each in maps)
    last = max((int(each[-1]) for each in touched if len(each)), default=0)
    return last + WRITTEN if last > last_frame_reader(schedule.operations) else 0


def place_frame_release(schedule: Schedule, architecture: Architecture) -> bool:
    """Set ``frame_until`` of a schedule whose storages have their places; False if its end comes too early for that."""
    if schedule.frame_until:
        lives = row_lives(schedule.operations)
        maps = [extent(each, each.storage.ring_rows) for each in lives.values()]
        storages = (schedule.frame, *lives)
        offsets = {each: each.start // architecture.groups_per_word for each in storages}
        schedule.frame_until = _frame_until(schedule, maps, offsets)
    return schedule.frame_until < len(schedule.operations)


def held_rows(frame: Storage, ring_rows: int) -> int:
    """Rows of the link that may be held in a ring of so many stored rows: two frames of them at most."""
    return frame.frame_rows.held_rows(ring_rows, min(2 * frame.frame_rows.rows, MAXIMUM_HELD_ROWS))


def least_held_rows(schedule: Schedule) -> int:
    """Frame rows that must be held at once: from the oldest one not yet released to the newest one needed."""
    return max(waits for waits, _ in plan_frame_rows(schedule.operations, schedule.frame))
