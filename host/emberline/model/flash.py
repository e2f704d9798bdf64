"""The flash as LOADs see it: what its blocks decode to, weights or pages of the program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import xor

import numpy as np

from emberline.arch.isa import Opcode
from emberline.arch.listing import decode_page
from emberline.arch.weight_code import StreamFault
from emberline.errors import ProgramError, WeightStreamError
from emberline.model.row_arithmetic import Fields
from emberline.model.weight_decoder import WeightDecoder


class Flash:
    """``data`` from byte ``offset`` on. What has been decoded once is kept, as every frame fetches it again."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data, self._offset = data, offset
        self._decoded: dict[tuple[int, int, int], bytes] = {}

    def fetch(self, load: Fields) -> bytes:
        """The bytes of a LOAD's blocks.

        Raises ``WeightStreamError`` where the flash has no, malformed or another program's blocks.
        """
        key = (load["source"], load["length"], load["check"])
        if key not in self._decoded:
            self._decoded[key] = self._fetch(*key)
        return self._decoded[key]

    def _fetch(self, source: int, length: int, check: int) -> bytes:
        where = f"of {length} bytes from byte {source} of the flash on"
        first = source - self._offset
        data = self._data[max(first, 0) : first + length]
        if first < 0 or len(data) < length:
            raise WeightStreamError(f"{where}: there is nothing", StreamFault.TRUNCATED)
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        decoder = WeightDecoder()
        try:
            blocks = decoder.decode(words)
        except WeightStreamError as error:
            raise WeightStreamError(f"{where}: {error}", error.cause) from None
        if reduce(xor, decoder.checks) != check:
            raise WeightStreamError(f"{where}: the blocks are another program's", StreamFault.CHECK)
        return b"".join(blocks)


def page_words(data: bytes) -> list[int]:
    """The instruction words of a page's LOAD."""
    words: list[int] = np.frombuffer(data, "<u4").tolist()
    return words


def read_pages(words: Sequence[int], flash: Flash) -> list[int]:
    """The whole program whose first page is at the beginning of ``words``, the others in the flash.

    Raises ``ProgramError`` where a page is no program or nothing leads to the next one, ``WeightStreamError`` where
    the flash does not hold it.
    """
    program: list[int] = []
    while True:
        page = decode_page(words)
        program += words[: page[-1].address + page[-1].word_count]
        if page[-1].opcode is Opcode.END:
            return program
        loads = [each for each in page if each.opcode is Opcode.LOAD and each.fields["page"]]
        if len(loads) != 1:
            raise ProgramError(f"word {len(program) - 1}: JUMP follows {len(loads)} LOADs of a page instead of one")
        words = page_words(flash.fetch(loads[0].fields))
