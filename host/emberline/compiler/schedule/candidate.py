"""Steps in one order, as the search weighs them."""

from __future__ import annotations

from dataclasses import dataclass

from emberline.compiler.rows import RowOperation, Storage
from emberline.compiler.schedule.groups import Interleaving
from emberline.compiler.schedule.supply import Supply


@dataclass(frozen=True, eq=False)
class Candidate:
    """Steps ``first`` to ``end`` in one order.

    Parameters:
        rings: the rows that each storage keeps which only these steps use.
        heap_words: activation words of everything that lies in memory meanwhile, but the frame and the result.
        frame_rows: rows of the frame that must be held.
        decides: the layer during which most memory is in use.
        walking, waiting: cycles; saved: those that the rows take less than one by one; program_words: about.
        weight_bytes: that must be in the weight memory at once; fetched_bytes: that a frame fetches for it.
        kept: in turns, the steps whose weights stay meanwhile; None: not in turns, all of them do.
    """

    first: int
    end: int
    how: Interleaving
    operations: list[RowOperation]
    rings: dict[Storage, int]
    heap_words: int
    frame_rows: int
    decides: str
    walking: int
    saved: int
    waiting: int
    program_words: int
    weight_bytes: int
    fetched_bytes: int
    kept: frozenset[int] | None

    def stalled(self, supply: Supply, once_bytes: int) -> float:
        """The price of the weights in cycles, about.

        What takes longer than the rows, what lies beyond half of the memory, as it cannot arrive before, and what is
        fetched more than once, whoever waits for it.
        """
        slow = self.fetched_bytes - (self.walking + self.waiting) * supply.bytes_per_cycle
        again = self.fetched_bytes - once_bytes
        return (max(0.0, slow) + max(0.0, self.weight_bytes - supply.bytes_available / 2) + again) / (
            supply.bytes_per_cycle
        )


@dataclass(frozen=True)
class Needs:
    """What the least demanding schedule needs: ``words`` of activation memory; ``layer`` decides."""

    words: int
    layer: str
