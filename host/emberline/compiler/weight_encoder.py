"""Weights as blocks of `emberline.arch.weight_code`, as small as its choices allow.

For every block: dense or sparse, new tables or those of the block before, and how long the runs are. A sparse block
takes two tokens for each weight that is not zero, so it is chosen only where it decodes at least as fast as a dense
one: a decoder of one token in each cycle gives at least one weight in each cycle of every payload, and one that
decodes two tokens of wide blocks at least two.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emberline.arch.weight_code import (
    CHUNK_BYTES,
    HEADER,
    IDENTIFIER,
    MAX_CHUNKS,
    MAX_DISTANCE,
    MAX_LENGTH,
    MAX_SYMBOLS,
    NARROW_STREAMS,
    REFILL_BITS,
    WIDE_IDENTIFIER,
    WIDE_STREAMS,
)

_LONGEST_RUNS = (7, 15, 31, 63, 127)

Tokens = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Code:
    """A canonical Huffman code.

    Parameters: ``lengths`` of all 256 symbols, 0 for those without a code.
    """

    lengths: NDArray[np.int64]

    @staticmethod
    def of(counts: NDArray[np.int64]) -> Code:
        """The best code of at most ``MAX_LENGTH`` bits for symbols that occur so often."""
        lengths = limited_lengths(counts, MAX_LENGTH)
        if np.count_nonzero(lengths == 8) == MAX_SYMBOLS:
            # A count is a byte; 256 equally long codes do not fit.
            lengths[:3] = (7, 9, 9)
        return Code(lengths)

    @property
    def symbols(self) -> NDArray[np.int64]:
        """In the order of their codes."""
        used = np.flatnonzero(self.lengths)
        return used[np.argsort(self.lengths[used], kind="stable")]

    @property
    def table(self) -> NDArray[np.uint32]:
        """Counts and symbols, as a block has them."""
        counts = np.bincount(self.lengths, minlength=MAX_LENGTH + 1)[1:].astype(np.uint8)
        symbols = self.symbols.astype(np.uint8).tobytes()
        data = counts.tobytes() + symbols.ljust(-(-len(symbols) // 4) * 4, b"\0")
        return np.frombuffer(data, "<u4").astype(np.uint32)

    @property
    def codes(self) -> NDArray[np.int64]:
        """The code of every symbol, right aligned."""
        codes = np.zeros(MAX_SYMBOLS, np.int64)
        code, length = 0, 0
        for symbol in self.symbols:
            code <<= int(self.lengths[symbol]) - length
            length = int(self.lengths[symbol])
            codes[symbol] = code
            code += 1
        return codes

    def bits(self, counts: NDArray[np.int64]) -> int | None:
        """Bits of so many symbols; None if one of them has no code."""
        return None if np.any((counts > 0) & (self.lengths == 0)) else int(counts @ self.lengths)


def limited_lengths(counts: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Lengths of an optimal prefix code, none longer than ``limit``; at least two symbols get one.

    Package-merge: Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", 1990.
    """
    counts = counts.astype(np.int64).copy()
    used = np.flatnonzero(counts)
    for symbol in range(2 - len(used)):
        # A lone symbol needs a companion, so that the code is complete.
        counts[symbol if counts[symbol] == 0 else symbol + 1] = 1
    used = np.flatnonzero(counts)
    lengths = _unlimited_lengths(counts, used)
    if lengths.max() <= limit:
        return lengths
    leaves: list[tuple[int, tuple[int, ...]]] = sorted((int(counts[symbol]), (int(symbol),)) for symbol in used)
    row = leaves
    for _ in range(limit - 1):
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(row[::2], row[1::2], strict=False)]
        row = list(heapq.merge(leaves, packages))
    lengths = np.zeros(len(counts), np.int64)
    for _, members in row[: 2 * (len(used) - 1)]:
        np.add.at(lengths, list(members), 1)
    return lengths


def _unlimited_lengths(counts: NDArray[np.int64], used: NDArray[np.intp]) -> NDArray[np.int64]:
    """Huffman's lengths of the symbols in use."""
    heap: list[tuple[int, list[int]]] = [(int(counts[symbol]), [int(symbol)]) for symbol in used]
    heapq.heapify(heap)
    lengths = np.zeros(len(counts), np.int64)
    while len(heap) > 1:
        (first, some), (second, others) = heapq.heappop(heap), heapq.heappop(heap)
        members = some + others
        lengths[members] += 1
        heapq.heappush(heap, (first + second, members))
    return lengths


@dataclass(frozen=True, eq=False)
class Block:
    """An encoded block.

    Parameters:
        words: all of it.
        wide, sparse, new_tables: what was chosen.
        pairs: of tokens; a decoder of a token in each cycle takes twice as many cycles.
        table_words: of ``words``.
        taken: in which cycle a decoder takes each word of the payload, counted from the first token, at the latest, if
            all words are there and it gives one token, or the last of a run's chunks, in each cycle; of a wide block
            two tokens, but for two cycles more where it takes two words at once: int64, not falling.
        payload_cycles: when the last one has been given.
    """

    words: NDArray[np.uint32]
    wide: bool
    sparse: bool
    new_tables: int
    pairs: int
    table_words: int
    taken: NDArray[np.int64]
    payload_cycles: int

    @property
    def check(self) -> int:
        """The last word."""
        return int(self.words[-1])

    @property
    def size(self) -> int:
        """Bytes."""
        return 4 * len(self.words)


@dataclass
class WeightEncoder:
    """Encodes blocks one after the other; a decoder must take them in the same order.

    Parameters:
        max_chunks: of a block; longer data become several.
        wide: dense blocks are wide, for a decoder with two readers.
    """

    max_chunks: int = MAX_CHUNKS
    wide: bool = False
    values: Code | None = field(default=None, init=False)
    runs: Code | None = field(default=None, init=False)

    def encode(self, data: bytes, *, distance: int = 0) -> list[Block]:
        """The blocks of some bytes of the weight image, at least four and whole chunks; all with the same tables.

        Parameters: ``distance`` in chunks to the prediction, 0 for none.
        """
        if not data or len(data) % CHUNK_BYTES:
            raise ValueError(f"{len(data)} bytes are not whole chunks of {CHUNK_BYTES}")
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"distance must be in 0..{MAX_DISTANCE}, not {distance}")
        chunks = np.frombuffer(data, "<u4")
        parts = [chunks[start : start + self.max_chunks] for start in range(0, len(chunks), self.max_chunks)]
        choice = self._choose([_predicted(part, distance) for part in parts])
        values, new_values = _better(self.values, choice.values)
        runs, new_runs = _better(self.runs, choice.runs) if choice.sparse else (values, False)
        self.values = values
        if choice.sparse:
            self.runs = runs
        new = (new_values, new_runs)
        blocks = []
        for part, streams in zip(parts, choice.streams, strict=True):
            blocks.append(_encode_block(part, streams, (values, runs), new, sparse=choice.sparse, distance=distance))
            new = (False, False)
        return blocks

    def _choose(self, parts: Sequence[Tokens]) -> _Choice:
        """The tokens that take the fewest bits, tables included."""
        count = WIDE_STREAMS if self.wide else NARROW_STREAMS
        best = _Choice([tuple(part[first::count] for first in range(count)) for part in parts], sparse=False)
        fewest = _cost(self.values, best.values)
        for longest in _LONGEST_RUNS:
            choice = _Choice([split_runs(part, longest) for part in parts], sparse=True)
            bits = _cost(self.runs, choice.runs) + _cost(self.values, choice.values)
            if bits < fewest and choice.is_as_fast(parts, count // NARROW_STREAMS):
                best, fewest = choice, bits
        return best


@dataclass(frozen=True)
class _Choice:
    """The tokens of each bit stream, for every block."""

    streams: list[tuple[Tokens, ...]]
    sparse: bool

    @property
    def values(self) -> NDArray[np.int64]:
        """How often each value is coded."""
        return sum(_histogram(each) for tokens in self.streams for each in tokens[self.sparse :])  # type: ignore[return-value]

    @property
    def runs(self) -> NDArray[np.int64]:
        """The same of runs, of sparse blocks."""
        return sum(_histogram(tokens[0]) for tokens in self.streams)  # type: ignore[return-value]

    def is_as_fast(self, parts: Sequence[Tokens], weights: int) -> bool:
        """Whether each sparse block has at most a token for so many weights."""
        return all(2 * weights * len(even) <= len(part) for (even, _), part in zip(self.streams, parts, strict=True))


def _predicted(chunks: NDArray[np.uint32], distance: int) -> Tokens:
    """What is coded of some chunks, byte by byte."""
    coded = chunks.astype("<u4")
    if distance:
        coded[distance:] ^= chunks[:-distance]
    return coded.view(np.uint8)


def _encode_block(
    chunks: NDArray[np.uint32],
    streams: tuple[Tokens, ...],
    codes: tuple[Code, Code],
    new: tuple[bool, bool],
    *,
    sparse: bool,
    distance: int,
) -> Block:
    """Parameters: ``codes`` of values and of runs, and which of them are ``new``."""
    values, runs = codes
    wide = len(streams) == WIDE_STREAMS
    pairs = sum(len(tokens) for tokens in streams) // 2
    tables = [code.table for code, is_new in zip(codes, new, strict=True) if is_new]
    packed = [_pack(tokens, runs if sparse and not index else values) for index, tokens in enumerate(streams)]
    payload, demanded = _interleave(packed)
    demanded = np.maximum(demanded, 0)
    if wide:
        taken, payload_cycles = _wide_cycles(demanded, pairs)
    else:
        done = np.concatenate([[0], _token_ends(streams[0], sparse=sparse, pairs=pairs)])
        taken, payload_cycles = done[demanded], int(done[-1])
    header = HEADER.pack(
        {
            "identifier": WIDE_IDENTIFIER if wide else IDENTIFIER,
            "distance": distance,
            "sparse": sparse,
            "new_values": new[0],
            "new_runs": new[1],
            "chunks": len(chunks),
            "pairs": pairs,
            "reserved_1": 0,
            "words": len(payload),
            "reserved_2": 0,
        }
    )
    start = np.array(header, np.uint32)
    check = zlib.crc32(start.astype("<u4").tobytes() + chunks.astype("<u4").tobytes())
    words = np.concatenate([start, *tables, payload, np.array([check], np.uint32)])
    table_words = sum(len(table) for table in tables)
    return Block(words, wide, sparse, len(tables), pairs, table_words, taken, payload_cycles)


def _wide_cycles(demanded: NDArray[np.int64], pairs: int) -> tuple[NDArray[np.int64], int]:
    """When two readers take each word at the latest, and how long they take in all.

    One word comes in a cycle and two wait: two that are taken at once may be waited for, take a cycle to part, and the
    next one behind them may be waited for, too.
    """
    steps = demanded // 2
    at_once = np.concatenate([[0], np.cumsum(np.diff(steps) == 0)])
    return steps + 3 * at_once, pairs + 3 * int(at_once[-1])


def _token_ends(even: Tokens, *, sparse: bool, pairs: int) -> NDArray[np.int64]:
    """The cycle in which each token has been given: one each, and one for each chunk that ends in a run of zeros."""
    cycles = np.ones(2 * pairs, np.int64)
    if sparse:
        runs = even.astype(np.int64)
        before = np.cumsum(runs + 1) - runs - 1
        cycles[1::2] += (before + runs) // CHUNK_BYTES - before // CHUNK_BYTES
    return np.cumsum(cycles)


def split_runs(weights: Tokens, longest: int) -> tuple[Tokens, Tokens]:
    """Runs of at most ``longest`` zeros and the values behind them, some of which are zero."""
    places = np.flatnonzero(weights)
    if not len(places) or places[-1] != len(weights) - 1:
        places = np.append(places, len(weights) - 1)
    gaps = np.diff(places, prepend=-1) - 1
    # Every longest + 1 zeros are a token pair of their own.
    extra = gaps // (longest + 1)
    runs = np.full(len(places) + int(extra.sum()), longest, np.int64)
    values = np.zeros(len(runs), np.uint8)
    last = np.cumsum(extra + 1) - 1
    runs[last] = gaps % (longest + 1)
    values[last] = weights[places]
    return runs.astype(np.uint8), values


def _histogram(tokens: Tokens) -> NDArray[np.int64]:
    return np.bincount(tokens, minlength=MAX_SYMBOLS)


def _better(known: Code | None, counts: NDArray[np.int64]) -> tuple[Code, bool]:
    """The known code or a new one, whichever takes fewer bits with its table; and whether it is new."""
    new = Code.of(counts)
    old_bits = None if known is None else known.bits(counts)
    new_bits = new.bits(counts)
    assert new_bits is not None
    if known is not None and old_bits is not None and old_bits <= new_bits + 32 * len(new.table):
        return known, False
    return new, True


def _cost(known: Code | None, counts: NDArray[np.int64]) -> int:
    """Bits of so many symbols by the better code, with its table if that is new."""
    code, new = _better(known, counts)
    bits = code.bits(counts)
    assert bits is not None
    return bits + (32 * len(code.table) if new else 0)


@dataclass(frozen=True, eq=False)
class _BitStream:
    """The words of one stream, and the token before which each of them is taken; a negative one: at the start."""

    words: NDArray[np.uint32]
    demanded: NDArray[np.int64]


def _pack(tokens: Tokens, code: Code) -> _BitStream:
    lengths, codes = code.lengths[tokens], code.codes[tokens]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # Word w is taken before the first token that finds fewer than REFILL_BITS of the words before it.
    most = int(starts[-1] + REFILL_BITS - 1) // 32
    demanded = np.searchsorted(starts, 32 * np.arange(1, most + 1) - REFILL_BITS, side="right")
    words = len(demanded) + 1
    bits = np.zeros(max(32 * words, int(ends[-1])), np.uint8)
    for bit in range(MAX_LENGTH):
        longer = lengths > bit
        bits[starts[longer] + bit] = codes[longer] >> (lengths[longer] - 1 - bit) & 1
    packed = np.packbits(bits[: 32 * words]).view(">u4").astype(np.uint32)
    return _BitStream(packed, np.concatenate([[-1], demanded]))


def _interleave(streams: Sequence[_BitStream]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The words of all streams in the order in which they are taken, and the token before which each is."""
    order = np.concatenate([len(streams) * stream.demanded + index for index, stream in enumerate(streams)])
    words = np.concatenate([stream.words for stream in streams])
    places = np.argsort(order, kind="stable")
    return words[places], order[places]
