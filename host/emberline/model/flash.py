"""Where LOADs get their blocks, the flash or what the link has brought, and what they decode to: weights or pages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import xor
from typing import Protocol

import numpy as np

from emberline.arch.isa import Opcode
from emberline.arch.listing import decode_page
from emberline.arch.weight_code import StreamFault
from emberline.errors import ForeignWeightsError, ProgramError, WeightStreamError
from emberline.model.row_arithmetic import Fields
from emberline.model.weight_decoder import WeightDecoder


class WeightSource(Protocol):
    """What executes LOADs."""

    def fetch(self, load: Fields) -> bytes:
        """The bytes of a LOAD's blocks; ``WeightStreamError`` where there are none, malformed or another program's."""


class Flash:
    """``data`` from byte ``offset`` on. What has been decoded once is kept, as every frame fetches it again."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data, self._offset = data, offset
        self._decoded: dict[tuple[int, int, int], bytes] = {}

    def fetch(self, load: Fields) -> bytes:
        key = (load["source"], load["length"], load["check"])
        if key not in self._decoded:
            source, length, check = key
            where = f"of {length} bytes from byte {source} of the flash on"
            first = source - self._offset
            data = self._data[max(first, 0) : first + length]
            if first < 0:
                data = b""
            self._decoded[key] = decode_load(data, length, check, where)
        return self._decoded[key]


class SentWeights:
    """The bytes that have come over the link: LOADs take them in their order, wherever in the stream they want them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._decoded: dict[tuple[bytes, int], bytes] = {}

    def append(self, data: bytes) -> None:
        self._data += data

    def fetch(self, load: Fields) -> bytes:
        length = load["length"]
        data = bytes(self._data[:length])
        del self._data[:length]
        key = data, load["check"]
        if key not in self._decoded:
            self._decoded[key] = decode_load(data, length, load["check"], f"of {length} bytes from the link")
        return self._decoded[key]


def decode_load(data: bytes, length: int, check: int, where: str) -> bytes:
    """What the blocks in ``data`` decode to, if they are ``length`` bytes and match ``check``."""
    if len(data) < length:
        raise WeightStreamError(f"{where}: there is nothing", StreamFault.TRUNCATED)
    decoder = WeightDecoder()
    try:
        blocks = decoder.decode(np.frombuffer(data, "<u4").astype(np.uint32))
    except WeightStreamError as error:
        raise WeightStreamError(f"{where}: {error}", error.cause) from None
    if reduce(xor, decoder.checks) != check:
        raise ForeignWeightsError(f"{where}: the blocks are another program's", StreamFault.CHECK)
    return b"".join(blocks)


def page_words(data: bytes) -> list[int]:
    """The instruction words of a page's LOAD."""
    words: list[int] = np.frombuffer(data, "<u4").tolist()
    return words


def read_pages(words: Sequence[int], flash: WeightSource) -> list[int]:
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
