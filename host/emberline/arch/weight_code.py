"""The code in which weights are stored: blocks of 32-bit words, canonical Huffman codes with runs of zeros.

A block gives ``4 * chunks`` bytes of the weight image, in the order in which the lanes are written. It is::

    HEADER            3 words
    [values' table]   if new_values:  3 words of counts, then the symbols
    [runs' table]     if new_runs:    the same
    payload           words
    check             CRC-32 of the header's words and the decoded bytes

**Tables.** The counts are bytes, least significant first: how many codes have 1, 2, … `MAX_LENGTH` bits. The symbols
follow, a byte each, shortest code first, filled up with zeros to whole words. Codes of one length are consecutive
numbers, and the first of them follows the last of the length before (with zeros appended): a canonical Huffman code.
The code is complete, so that any bits mean something. A table stays until a block brings a new one.

**Tokens.** The payload holds ``2 * pairs`` tokens. In a dense block each of them is a value, a byte of the image. In
a sparse block they alternate: a run, how many zeros come next; then a value, which may be zero too. There are as many
pairs as it takes; the bytes are exactly as many as announced.

**Two bit streams.** Tokens with even numbers are in one bit stream, those with odd numbers in another, most
significant bit first, so that a decoder has two cycles from one token of a stream to its next. Both are cut into
words, which are stored in the order in which this decoder asks for them::

    take a word for each stream;
    for token in range(2 * pairs):
        stream = streams[token % len(streams)]
        if stream.bits_left < REFILL_BITS: take a word for it
        decode the token

**Four bit streams.** A *wide* block is a dense one whose tokens take turns in four bit streams, so that a decoder that
has two readers decodes two tokens in each cycle.

**Prediction.** If ``distance`` is not 0, a decoded chunk is the exclusive or with the one ``distance`` chunks before it
in this block; the first ones have zeros before them. Parameters are stored so: those of neighbouring lanes have most
bytes in common.
"""

from __future__ import annotations

import enum

from emberline.arch.layout import Field, Layout

IDENTIFIER = 0xE8
"""First byte of a block; another format has another."""

WIDE_IDENTIFIER = IDENTIFIER | 1
"""First byte of a wide block: its lowest bit says so."""

NARROW_STREAMS, WIDE_STREAMS = 2, 4
"""Bit streams of a block and of a wide one."""

CHUNK_BYTES = 4
"""Bytes written to a lane's weight memory at once."""

MAX_LENGTH = 12
"""Bits of the longest code."""

MAX_SYMBOLS = 256
"""Symbols of a table: bytes."""

REFILL_BITS = 2 * MAX_LENGTH
"""A stream with fewer bits takes a word before a token; then it always has enough for two."""

COUNT_WORDS = MAX_LENGTH // 4
"""Words in which a table states its counts."""

MAX_CHUNKS = (1 << 16) - 1
MAX_DISTANCE = 31

HEADER = Layout(
    "HEADER",
    (
        Field("identifier", 8, doc="0xE8, 0xE9 for a wide block"),
        Field("distance", 5, doc="chunks back to the prediction, 0 for none"),
        Field("sparse", 1, doc="tokens alternate between runs and values"),
        Field("new_values", 1, doc="a table of values follows"),
        Field("new_runs", 1, doc="a table of runs follows"),
        Field("chunks", 16, doc="decoded chunks of four bytes, at least 1"),
        Field("pairs", 17, doc="pairs of tokens, at least 1"),
        Field("reserved_1", 15, doc="zero"),
        Field("words", 17, doc="words of the payload"),
        Field("reserved_2", 15, doc="zero"),
    ),
)


class StreamFault(enum.IntEnum):
    """Why a decoder stopped."""

    NONE = 0
    HEADER = 1
    """No block begins here, or one that this decoder cannot decode."""
    TABLE = 2
    """A table is not a complete code of at most 256 symbols, or the one to be kept was never there."""
    OVERRUN = 3
    """The tokens do not give just the announced bytes, or do not take just the announced words."""
    CHECK = 4
    """The decoded bytes do not match their check."""
    TRUNCATED = 5
    """The words ended within a block."""
