"""The reference decoder of `emberline.arch.weight_code`: what the gateware's decoder must give, bit for bit."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emberline.arch.weight_code import (
    CHUNK_BYTES,
    COUNT_WORDS,
    HEADER,
    IDENTIFIER,
    MAX_LENGTH,
    MAX_SYMBOLS,
    REFILL_BITS,
    WIDE_IDENTIFIER,
    WIDE_STREAMS,
    StreamFault,
)
from emberline.errors import WeightStreamError

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Table:
    """A canonical code, as a decoder looks it up: symbol and length for any ``MAX_LENGTH`` bits that may come."""

    symbols: list[int]
    lengths: list[int]

    @staticmethod
    def from_counts(counts: Sequence[int], symbols: Sequence[int]) -> Table:
        """Raises ``ValueError`` unless the codes are complete and every one has a symbol."""
        if len(symbols) != sum(counts) or not 0 < len(symbols) <= MAX_SYMBOLS:
            raise ValueError(f"{sum(counts)} codes for {len(symbols)} symbols, of which there may be {MAX_SYMBOLS}")
        shares = [1 << (MAX_LENGTH - length) for length in range(1, MAX_LENGTH + 1) for _ in range(counts[length - 1])]
        if sum(shares) != 1 << MAX_LENGTH:
            raise ValueError("the code is not complete")
        lengths = [MAX_LENGTH + 1 - share.bit_length() for share in shares]
        return Table(np.repeat(symbols, shares).tolist(), np.repeat(lengths, shares).tolist())


@dataclass
class WeightDecoder:
    """Decodes blocks one after the other; keeps tables from block to block.

    Parameters:
        distance: the only prediction that is known, as a decoder in gateware has it; None for any.
        wide: wide blocks are known, as to a decoder in gateware with two readers.
    Attributes: ``checks``, the check words of the blocks of the last stream.
    """

    distance: int | None = None
    wide: bool = True
    values: Table | None = field(default=None, init=False)
    runs: Table | None = field(default=None, init=False)
    checks: list[int] = field(default_factory=list, init=False)
    _words: Words = field(default_factory=lambda: np.zeros(0, np.uint32), init=False)
    _position: int = field(default=0, init=False)
    _block: int = field(default=0, init=False)

    def decode(self, words: Words) -> list[bytes]:
        """The bytes of each block of a stream.

        Raises ``WeightStreamError``, naming block and cause, for a malformed one; the tables are then forgotten.
        """
        self._words, self._position, self._block = words, 0, 0
        self.checks = []
        blocks = []
        while self._position < len(words):
            try:
                blocks.append(self._decode_block())
            except WeightStreamError:
                self.values = self.runs = None
                raise
            self._block += 1
        return blocks

    def _fault(self, fault: StreamFault, text: str) -> WeightStreamError:
        return WeightStreamError(f"weight block {self._block}: {text}", fault)

    def _take(self, count: int) -> list[int]:
        if self._position + count > len(self._words):
            raise self._fault(StreamFault.TRUNCATED, f"the words end within the block, at word {len(self._words)}")
        self._position += count
        taken: list[int] = self._words[self._position - count : self._position].tolist()
        return taken

    def _decode_block(self) -> bytes:
        start = self._position
        header = HEADER.unpack([*self._take(1), 0, 0])
        wide = header["identifier"] == WIDE_IDENTIFIER
        if header["identifier"] != IDENTIFIER and not (wide and self.wide):
            raise self._fault(StreamFault.HEADER, f"identifier {header['identifier']:#x} instead of {IDENTIFIER:#x}")
        self._position = start
        header = HEADER.unpack(self._take(HEADER.word_count))
        if wide and header["sparse"]:
            raise self._fault(StreamFault.HEADER, f"a wide block cannot be sparse: {header}")
        if 0 in (header["chunks"], header["pairs"], header["words"]) or header["reserved_1"] or header["reserved_2"]:
            raise self._fault(StreamFault.HEADER, f"impossible header {header}")
        if self.distance is not None and header["distance"] not in (0, self.distance):
            raise self._fault(StreamFault.HEADER, f"distance {header['distance']} instead of {self.distance}")
        if header["new_values"]:
            self.values = self._read_table()
        if header["new_runs"]:
            self.runs = self._read_table()
        values, runs = self.values, self.runs if header["sparse"] else self.values
        if values is None or runs is None:
            raise self._fault(StreamFault.TABLE, "a table is missing that an earlier block should have brought")
        streams = [values] * WIDE_STREAMS if wide else [runs, values]
        tokens = self._read_tokens(2 * header["pairs"], header["words"], streams)
        chunks = self._expand(np.array(tokens, np.uint8), header)
        for later in range(header["distance"], len(chunks) if header["distance"] else 0):
            chunks[later] ^= chunks[later - header["distance"]]
        data = chunks.tobytes()
        (check,) = self._take(1)
        if zlib.crc32(self._words[start : start + HEADER.word_count].astype("<u4").tobytes() + data) != check:
            raise self._fault(StreamFault.CHECK, "the decoded weights do not match their check")
        self.checks.append(check)
        return data

    def _read_table(self) -> Table:
        counts = _bytes(self._take(COUNT_WORDS))
        total = sum(counts)
        if total > MAX_SYMBOLS:
            raise self._fault(StreamFault.TABLE, f"{total} codes in a table")
        symbols = _bytes(self._take(-(-total // 4)))[:total]
        try:
            return Table.from_counts(list(counts), list(symbols))
        except ValueError as error:
            raise self._fault(StreamFault.TABLE, str(error)) from None

    def _read_tokens(self, count: int, words: int, streams: Sequence[Table]) -> list[int]:
        """The tokens of a payload of exactly so many words, in as many bit streams as there are tables for them."""
        end = self._position + words
        if end > len(self._words):
            payload = self._words[self._position :].tolist()
        else:
            payload = self._words[self._position : end].tolist()
        taken = min(len(streams), len(payload))
        # The bits that a stream has not used yet, and how many they are.
        bits, left = [*payload[:taken], *[0] * WIDE_STREAMS][: len(streams)], [32] * len(streams)
        tables = [(table.symbols, table.lengths) for table in streams]
        tokens = []
        for token in range(count):
            stream = token % len(streams)
            buffer, have = bits[stream], left[stream]
            if have < REFILL_BITS:
                if taken == len(payload):
                    break
                buffer, have = buffer << 32 | payload[taken], have + 32
                taken += 1
            symbols, lengths = tables[stream]
            code = buffer >> (have - MAX_LENGTH)
            have -= lengths[code]
            bits[stream], left[stream] = buffer & ((1 << have) - 1), have
            tokens.append(symbols[code])
        if end > len(self._words) and (len(tokens) < count or taken < words):
            raise self._fault(StreamFault.TRUNCATED, f"the words end within the block, at word {len(self._words)}")
        if len(tokens) < count or taken != words:
            raise self._fault(StreamFault.OVERRUN, f"{count} tokens do not take just {words} words")
        self._position = end
        return tokens

    def _expand(self, tokens: NDArray[np.uint8], header: dict[str, int]) -> NDArray[np.uint32]:
        """The chunks as the tokens say."""
        size = CHUNK_BYTES * header["chunks"]
        if header["sparse"]:
            ends = np.cumsum(tokens[::2].astype(np.int64) + 1)
        else:
            ends = np.arange(1, len(tokens) + 1)
        if ends[-1] != size:
            raise self._fault(StreamFault.OVERRUN, f"the tokens give {ends[-1]} bytes instead of {size}")
        data = np.zeros(size, np.uint8)
        data[ends - 1] = tokens[1::2] if header["sparse"] else tokens
        return data.view("<u4").astype(np.uint32)


def _bytes(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)
