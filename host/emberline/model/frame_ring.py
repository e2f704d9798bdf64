"""The frame ring of a machine: rows of the link arrive where there is room, and ROWs wait for them and release them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emberline.arch.frame_rows import FrameRows
from emberline.errors import EmulationError

FrameRow = NDArray[np.int8]
"""A row of the link, ``[columns, channels]``."""


@dataclass
class FrameRing:
    """Stores frames as a FRAME instruction says (`emberline.arch.isa`). All counts are of rows of the link.

    Parameters:
        fields: of the FRAME.
        activations: the buffer, int8 ``[words, lanes_in]``.
        groups_per_word: of the architecture.
        require: raises ``EmulationError`` with its second argument, and where, if the first is false.
    """

    fields: dict[str, int]
    activations: NDArray[np.int8]
    groups_per_word: int
    require: Callable[[bool, str], None]
    arrived: int = 0
    released: int = 0
    guaranteed: int = 0
    """Rows of all frames that have been received, given back, and waited for."""
    first_of_frame: int = 0
    """The number of the current frame's first row."""
    covered: bool = False
    """Whether ROWs have written where this frame's last rows were."""
    _pending: Iterator[FrameRow] = field(init=False, default_factory=lambda: iter(()))

    @property
    def geometry(self) -> FrameRows:
        return FrameRows.of(self.fields)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on the link."""
        return self.fields["columns"] * self.fields["channels"]

    @property
    def stored_rows(self) -> int:
        """Stored rows that the ring holds."""
        return (self.fields["end"] - self.fields["start"]) // (self.fields["row_words"] * self.groups_per_word)

    @property
    def held(self) -> int:
        return self.arrived - self.released

    def begin(self, data: bytes) -> int:
        """A frame comes, its rows one after the other where there is room; how many they are.

        Raises ``EmulationError`` for anything but a whole frame.
        """
        f, size = self.fields, self.row_bytes
        if not data or len(data) % size:
            raise EmulationError(f"a frame of {len(data)} bytes is not whole rows of {size} bytes")
        if len(data) != f["rows"] * size:
            raise EmulationError(f"a frame of {len(data) // size} rows, the program takes {f['rows']}")
        self._pending = iter(np.frombuffer(data, np.int8).reshape(-1, f["columns"], f["channels"]))
        self.guaranteed = self.first_of_frame = self.released
        return f["rows"]

    def wait_for(self, rows: int) -> None:
        self._receive()
        self.require(rows <= self.held, f"waits for {rows} frame rows, {self.held} can be there")
        self.guaranteed = max(self.guaranteed, self.released + rows)

    def release(self, rows: int, has_landed: Callable[[int, int], bool]) -> None:
        """Give rows back; ``has_landed`` says whether all that ROWs have written to a range of groups is there."""
        self.require(rows <= self.guaranteed - self.released, f"releases {rows} frame rows before they arrived")
        self.released += rows
        if rows:
            if self.covered:
                landed = has_landed(self.fields["start"], self.fields["end"])
                self.require(landed, "releases frame rows whose place is being written")
                self.covered = False
            self._receive()

    def check_read(self, first: int, words: int) -> None:
        """Refuse to read a stored row whose window may not have arrived, or has been released."""
        f, groups = self.fields, self.groups_per_word
        start, stored = f["start"] // groups, f["row_words"]
        if self.covered or not start <= first < f["end"] // groups:
            return
        frame = self.first_of_frame // f["rows"]
        ready, released = self.guaranteed - self.first_of_frame, self.released - self.first_of_frame
        for place in range((first - start) // stored, (first + words - 1 - start) // stored + 1):
            row = (place - frame * f["stored_rows"]) % self.stored_rows
            while row < f["stored_rows"] and self.geometry.first_row(row) < released:
                row += self.stored_rows
            self.require(row < f["stored_rows"], "reads a frame row that is another frame's or has been released")
            last = self.geometry.last_row(row)
            self.require(last < ready, f"reads frame row {last} of the {ready} that it has waited for")

    def check_write(self, low: int, high: int) -> None:
        """Refuse to write groups ``low`` .. ``high`` while the link may write there too."""
        start, end = self.fields["start"], self.fields["end"]
        if not (high <= start or end <= low):
            is_full = self.guaranteed - self.released >= self.fields["held_rows"]
            is_last = self.guaranteed == self.first_of_frame + self.fields["rows"]
            self.require(is_full and is_last, f"writes groups {low}..{high} into the frame ring")
            self.covered = True

    def _receive(self) -> None:
        """Store rows while there is room: as early as the hardware could, so that reading a released row shows."""
        while self.held < self.fields["held_rows"]:
            row = next(self._pending, None)
            if row is None:
                return
            self._store(row)
            self.arrived += 1

    def _store(self, row: FrameRow) -> None:
        """Write the next row of the link to every stored row that has it in its window."""
        f = self.fields
        frame, number = divmod(self.arrived, f["rows"])
        reach = (f["stored_columns"] - 1) * f["column_stride"] + f["kernel_columns"]
        behind = max(0, reach - f["pad_columns"] - f["columns"])
        padded = np.pad(row, ((f["pad_columns"], behind), (0, 0)), constant_values=f["zero"])
        columns = np.arange(f["stored_columns"])[:, None] * f["column_stride"] + np.arange(f["kernel_columns"])
        windows = padded[columns].reshape(f["stored_columns"], -1)
        for stored, kernel_row, inside in self.geometry.parts(number):
            place = (frame * f["stored_rows"] + stored) % self.stored_rows
            first = f["start"] // self.groups_per_word + place * f["row_words"]
            pixels = self.activations[first : first + f["row_words"]].reshape(f["stored_columns"], -1)
            at = kernel_row * f["kernel_row_bytes"]
            pixels[:, at : at + f["kernel_row_bytes"]] = f["zero"] if inside < 0 else windows
