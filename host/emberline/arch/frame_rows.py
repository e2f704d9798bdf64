"""How the rows of a frame become rows of its ring: which of the link's rows a stored row is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class FrameRows:
    """Stored row ``s`` holds, for each of its pixels, ``kernel_rows`` rows from ``s * row_stride - pad_rows`` on.

    The fields are FRAME's. Rows outside the frame hold its zero point; they are stored with its first and last row.
    """

    rows: int
    kernel_rows: int
    row_stride: int
    pad_rows: int
    stored_rows: int

    @staticmethod
    def of(fields: Mapping[str, int]) -> FrameRows:
        """From the fields of a FRAME."""
        names = ("rows", "kernel_rows", "row_stride", "pad_rows", "stored_rows")
        return FrameRows(*(fields[name] for name in names))

    def first_row(self, stored: int) -> int:
        """The row of the link with which a stored row begins."""
        return min(max(stored * self.row_stride - self.pad_rows, 0), self.rows - 1)

    def last_row(self, stored: int) -> int:
        """The row of the link with which a stored row is complete."""
        return min(max(stored * self.row_stride - self.pad_rows + self.kernel_rows - 1, 0), self.rows - 1)

    def parts(self, row: int) -> list[tuple[int, int, int]]:
        """What row ``row`` of the link brings: ``(stored row, kernel row, row)``, the last -1 for zeros."""
        first = 0 if row == 0 else row + self.pad_rows
        last = row + self.pad_rows
        if row == self.rows - 1:
            last = max(last, (self.stored_rows - 1) * self.row_stride + self.kernel_rows - 1)
        found = []
        for padded in range(first, last + 1):
            inside = padded - self.pad_rows
            for stored in range(self.stored_rows):
                kernel_row = padded - stored * self.row_stride
                if 0 <= kernel_row < self.kernel_rows:
                    found.append((stored, kernel_row, inside if 0 <= inside < self.rows else -1))
        return found

    def begun(self, row: int) -> int:
        """Stored rows that have begun once row ``row`` of the first of endless frames is there."""
        frame, row = divmod(row, self.rows)
        inside = self.stored_rows
        if row < self.rows - 1:
            inside = min(inside, (row + self.pad_rows) // self.row_stride + 1)
        return frame * self.stored_rows + inside

    def ring_rows(self, held: int) -> int:
        """Rows of a ring in which ``held`` rows of the link, released in order, always have room.

        A row of the link is released when no stored row that begins with it or before will be read again.
        """
        return _ring_rows(self, held)

    def held_rows(self, ring_rows: int, limit: int) -> int:
        """The most rows of the link, at most ``limit``, for which a ring of ``ring_rows`` is long enough."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.ring_rows(middle) <= ring_rows else (low, middle - 1)
        return low


@lru_cache(maxsize=4096)
def _ring_rows(rows: FrameRows, held: int) -> int:
    def released(count: int) -> int:
        frame, inside = divmod(count, rows.rows)
        return frame * rows.stored_rows + (rows.begun(inside - 1) if inside else 0)

    return max(rows.begun(first + held - 1) - released(first) for first in range(rows.rows)) if held else 0
