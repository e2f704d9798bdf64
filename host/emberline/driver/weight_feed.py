"""Weights that a machine gets over the link while it computes."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.arch.layout import WORD_BYTES
from emberline.arch.packets import SUPPLY_PIECE_WORDS, ResponseCode
from emberline.arch.program import Program
from emberline.driver.protocol import Link, RequestRefused

ROWS_BYTES = 2 * WORD_BYTES * SUPPLY_PIECE_WORDS
"""Rows that are sent at once at most, so that weights never wait long for the link."""


PIECES_IN_TURN = 2
"""One behind the other, before rows and results, if there are any, have the link."""


class WeightFeed:
    """What a started program's LOADs take, one frame's after the other's without end, as all frames take the same.

    Nothing of it depends on which frames are sent: as much as there is room for may always be sent ahead.

    Parameters: ``link``; ``program``, started and with weights that it fetches.
    """

    def __init__(self, link: Link, program: Program) -> None:
        self._link = link
        self._data = program.fetched_stream
        self._sent = 0
        self._turns = 0
        piece_cycles = SUPPLY_PIECE_WORDS * program.architecture.weight_word_cycles
        self.pause_s = piece_cycles / program.architecture.clock_hz
        """Until there may be room for another piece."""

    def send(self, others_wait: bool) -> bool:
        """Enter a piece if there is room for it, whether one was entered; every third turn is for others that wait."""
        self._turns += 1
        if (others_wait and self._turns > PIECES_IN_TURN) or not self._link.state.weight_room:
            self._turns = 0
            return False
        size = SUPPLY_PIECE_WORDS * WORD_BYTES
        first = self._sent % len(self._data)
        piece = self._data[first : first + size]
        while len(piece) < size:
            piece += self._data[: size - len(piece)]
        try:
            self._link.weight_stream(self._sent // WORD_BYTES, piece)
        except RequestRefused as error:
            if error.code is not ResponseCode.NO_ROOM:
                raise
            self._link.status()
            return False
        self._sent += size
        return True


def is_fed(program: Program, architecture: Architecture) -> bool:
    """Whether a program's weights come over the link."""
    return architecture.fetches_from_link and bool(program.stream)
