"""When the rows of frames have come into a simulated machine, and when its results are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from emberline.simulation.plan import Tap

if TYPE_CHECKING:
    from emberline.arch.architecture import Architecture

CYCLE_BITS, DONE_BITS, COUNT_BITS = 64, 16, 12
ITEM_BYTES = -(-(CYCLE_BITS + DONE_BITS + COUNT_BITS + 1) // 8)


class FrameEvent(NamedTuple):
    """A cycle in which rows were committed, or with another number of finished frames than the one before.

    Parameters:
        cycle: of the bench.
        frames_done: finished, modulo 65536.
        rows: that were committed.
    """

    cycle: int
    frames_done: int
    rows: int


def frame_events(architecture: Architecture) -> Tap:
    """The tap of an architecture's simulated board whose items `split_events` reads."""
    path = f"{'inner.' if architecture.fetches_from_flash else ''}accelerator."
    commits, done = f"{path}frame_writer.o_committed", (f"{path}frames_done", DONE_BITS)
    payload = (("cycle", CYCLE_BITS), done, (f"{commits}_count", COUNT_BITS), (commits, 1))
    return Tap(payload, commits, changes=(done,))


def split_events(data: bytes) -> Iterator[FrameEvent]:
    """Items of the tap, in their order."""
    for at in range(0, len(data), ITEM_BYTES):
        item = int.from_bytes(data[at : at + ITEM_BYTES], "little")
        cycle, item = item % (1 << CYCLE_BITS), item >> CYCLE_BITS
        done, item = item % (1 << DONE_BITS), item >> DONE_BITS
        count, commits = item % (1 << COUNT_BITS), item >> COUNT_BITS
        yield FrameEvent(cycle, done, count if commits else 0)
