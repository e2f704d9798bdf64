"""The host link's packets: layouts, codes and checksums, defined once for gateware, driver and documents.

A packet in either direction is::

    sync (2 bytes)  header (8)  header check (2)  [ payload (length)  payload check (4) ]

Multi-byte values are little endian. The header check is CRC-16/DNP over the header: it detects every error of up to
five bits there. The payload check is CRC-32 as in zlib, over the payload; a packet without payload has none.

The host sends a request and waits for its response before it sends the next. A receiver recognises a header wherever
sync and check fit, so neither garbage nor a damaged header hides the packet that follows. `docs/protocol.md` tells
the whole story.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from emberline.arch.architecture import PROGRAM_FIELDS, WEIGHT_SOURCES, Architecture
from emberline.arch.layout import WORD_BYTES, Field, Layout

PROTOCOL_VERSION = 1
"""Changes whenever an older host or board would misunderstand; every request carries it."""

PAYLOAD_LIMIT = 16384
"""Most payload bytes of a request. A longer announcement is refused at once, so it cannot swallow what follows."""

REQUEST_SYNC = bytes((0xE7, 0x4D))
RESPONSE_SYNC = bytes((0xE7, 0xB2))

NAME_BYTES = 16

SUPPLY_WORDS = 1024
"""Words of four bytes that a board keeps of weights that have come over the link and that no LOAD has taken."""

SUPPLY_PIECE_WORDS = 256
"""Every response says whether there is room for so many more; at most so many are worth sending at once."""


class RequestType(enum.IntEnum):
    """What the host can ask for."""

    IDENTITY = 1
    STATUS = 2
    WRITE_PROGRAM = 3
    WRITE_WEIGHTS = 4
    START = 5
    FRAME_ROWS = 6
    READ_RESULT = 7
    RELEASE_RESULT = 8
    RESET = 9
    WEIGHT_STREAM = 10


class ResponseCode(enum.IntEnum):
    """How a request ended. Only ``OK`` has an effect on the board."""

    OK = 0
    DAMAGED = 1
    TRUNCATED = 2
    BAD_VERSION = 3
    UNKNOWN_TYPE = 4
    BAD_LENGTH = 5
    BAD_ADDRESS = 6
    RUNNING = 7
    NOT_RUNNING = 8
    FAULTED = 9
    NO_ROOM = 10
    BAD_ROWS = 11
    OUT_OF_STEP = 12
    NO_RESULT = 13


@dataclass(frozen=True)
class RequestDescription:
    """What a request's argument and payload mean, and what comes back."""

    argument: str
    payload: str
    response: str
    action: str


REQUESTS: dict[RequestType, RequestDescription] = {
    RequestType.IDENTITY: RequestDescription("0", "", "IDENTITY", "Says what the board is."),
    RequestType.STATUS: RequestDescription("0", "", "STATUS", "Says what the board is doing."),
    RequestType.WRITE_PROGRAM: RequestDescription(
        "first word's address", "32-bit words", "", "Writes instruction memory. Only while stopped."
    ),
    RequestType.WRITE_WEIGHTS: RequestDescription(
        "byte offset in the weight image / 4", "bytes, a multiple of 4", "", "Writes weight memory. Only while stopped."
    ),
    RequestType.START: RequestDescription(
        "program identity (CRC-32)", "", "", "Runs the program from word 0 and remembers its identity."
    ),
    RequestType.FRAME_ROWS: RequestDescription(
        "ROWS", "whole rows", "", "Enters rows of a frame, all of them or none. Only while running."
    ),
    RequestType.READ_RESULT: RequestDescription(
        "frame number", "", "RESULT and the result's bytes", "Sends a frame's result; it stays until it is released."
    ),
    RequestType.RELEASE_RESULT: RequestDescription(
        "frame number", "", "", "Lets the board overwrite a frame's result."
    ),
    RequestType.RESET: RequestDescription(
        "0", "", "", "Stops the machine and forgets frames and results; memories keep their contents."
    ),
    RequestType.WEIGHT_STREAM: RequestDescription(
        "words of weights entered since START, modulo 2^32, before these",
        "32-bit words",
        "",
        "Enters the next weights that LOADs will take, all of them or none. Only while running, and only on a board "
        "that gets them over the link.",
    ),
}

CODES: dict[ResponseCode, str] = {
    ResponseCode.OK: "done",
    ResponseCode.DAMAGED: "the payload does not match its check",
    ResponseCode.TRUNCATED: "the line fell silent before the payload was complete",
    ResponseCode.BAD_VERSION: "the request has another protocol version",
    ResponseCode.UNKNOWN_TYPE: "no request has this type",
    ResponseCode.BAD_LENGTH: "the payload is missing, superfluous, too long or not whole words",
    ResponseCode.BAD_ADDRESS: "the payload would end outside the memory",
    ResponseCode.RUNNING: "not while the machine runs",
    ResponseCode.NOT_RUNNING: "the machine does not run",
    ResponseCode.FAULTED: "the machine has stopped with a fault and must be reset",
    ResponseCode.NO_ROOM: "more rows, or more weights, than the board has room for now",
    ResponseCode.BAD_ROWS: "the payload is not the announced number of rows",
    ResponseCode.OUT_OF_STEP: "the first row, or word of weights, is not the next one the board expects",
    ResponseCode.NO_RESULT: "this frame's result is not there",
}

REQUEST = Layout(
    "REQUEST",
    (
        Field("type", 4, doc="what is asked for"),
        Field("version", 4, doc="protocol version"),
        Field("sequence", 8, doc="chosen by the host; a retry keeps it, a new request has another than the one before"),
        Field("argument", 32, doc="depends on the type"),
        Field("length", 16, doc="payload bytes, at most 16384"),
    ),
)

RESPONSE = Layout(
    "RESPONSE",
    (
        Field("type", 4, doc="of the request"),
        Field("code", 4, doc="how it ended"),
        Field("sequence", 8, doc="of the request"),
        Field("running", 1, doc="a program runs"),
        Field("faulted", 1, doc="the machine has stopped with a fault"),
        Field("result_valid", 1, doc="a result is waiting to be read and released"),
        Field("weight_room", 1, doc=f"there is room for {SUPPLY_PIECE_WORDS} words of weights"),
        Field("free_rows", 8, doc="frame rows that there is room for; 255 also stands for more"),
        Field("frames_done", 16, doc="frames finished since START, modulo 65536"),
        Field("length", 20, doc="payload bytes"),
    ),
)

ROWS = Layout(
    "ROWS",
    (
        Field("first_row", 16, doc="rows entered since START, modulo 65536, before these"),
        Field("rows", 16, doc="rows in the payload"),
    ),
)

_NUMBERED = {
    "weight_source": "of the architecture: "
    + ", ".join(f"{number} {source}" for number, source in enumerate(WEIGHT_SOURCES))
}

IDENTITY = Layout(
    "IDENTITY",
    (
        Field("fingerprint", 32, doc="of the architecture: programs for another one do not run here"),
        Field("version", 32, doc="protocol version"),
        *[Field(name, 32, doc=_NUMBERED.get(name, "of the architecture")) for name in PROGRAM_FIELDS],
        Field("clock_hz", 32),
        Field("uart_baud", 32, doc="symbol rate of the serial link, were there one"),
        Field("name", 8 * NAME_BYTES, doc="the architecture's name, ASCII, cut or filled with zeros to 16 bytes"),
    ),
)

STATUS = Layout(
    "STATUS",
    (
        Field("running", 1, doc="a program runs"),
        Field("result_valid", 1, doc="a result is waiting"),
        Field("weights_awaited", 1, doc="a LOAD waits for weights from the link"),
        Field("reserved_0", 5, doc="zero"),
        Field("fault", 8, doc="why the machine stopped; 0: it did not"),
        Field("frames_done", 16, doc="frames finished since START, modulo 65536"),
        Field("free_rows", 12, doc="frame rows that there is room for"),
        Field("reserved_1", 4, doc="zero"),
        Field("rows_entered", 16, doc="rows entered since START, modulo 65536"),
        Field("row_bytes", 20, doc="bytes of one frame row; 0 before the program has said so"),
        Field("free_weight_words", 12, doc="words of weights from the link that there is room for"),
        Field("result_bytes", 20, doc="bytes of a result"),
        Field("reserved_2", 12, doc="zero"),
        Field("program_id", 32, doc="argument of the last START; 0 after power-up, RESET and writes to the memories"),
        Field("cycles", 32, doc="cycles of the last finished frame"),
        Field("stall_cycles", 32, doc="of those, cycles spent waiting for frame rows, weights or a release"),
        Field("header_errors", 16, doc="sync words without a valid header behind them, modulo 65536"),
        Field("payload_errors", 16, doc="damaged payloads, modulo 65536"),
        Field("truncations", 16, doc="payloads cut off by silence, modulo 65536"),
        Field("line_errors", 16, doc="bytes lost on the line (framing errors, overruns), modulo 65536"),
    ),
)

RESULT = Layout(
    "RESULT",
    (
        Field("cycles", 32, doc="cycles of this frame"),
        Field("stall_cycles", 32, doc="of those, cycles spent waiting for frame rows, weights or a release"),
    ),
)
"""What precedes the bytes of a result."""

LAYOUTS: tuple[Layout, ...] = (REQUEST, RESPONSE, ROWS, IDENTITY, STATUS, RESULT)

SYNC_BYTES = 2
HEADER_BYTES = 8
HEADER_CHECK_BYTES = 2
PAYLOAD_CHECK_BYTES = 4
PREFIX_BYTES = SYNC_BYTES + HEADER_BYTES + HEADER_CHECK_BYTES
"""Bytes before the payload."""


@dataclass(frozen=True)
class Crc:
    """A reflected cyclic redundancy check that takes bytes, least significant bit first."""

    name: str
    width: int
    polynomial: int
    """In the usual notation: highest power first, its leading 1 left out."""
    initial: int
    final_xor: int

    @property
    def reflected_polynomial(self) -> int:
        return int(f"{self.polynomial:0{self.width}b}"[::-1], 2)

    def step(self, state: int, byte: int) -> int:
        """The register after one byte; linear over GF(2) in (state, byte), which the gateware builds on."""
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (self.reflected_polynomial if state & 1 else 0)
        return state

    def compute(self, data: bytes) -> int:
        state = self.initial
        for byte in data:
            state = self.step(state, byte)
        return state ^ self.final_xor

    @property
    def residue(self) -> int:
        """The register, before ``final_xor``, after any data followed by its own check."""
        check = self.compute(b"").to_bytes(self.width // 8, "little")
        state = self.initial
        for byte in check:
            state = self.step(state, byte)
        return state


HEADER_CRC = Crc("CRC-16/DNP", 16, 0x3D65, 0, 0xFFFF)
"""Koopman's 0x9EB2: Hamming distance 6 up to 135 data bits."""

PAYLOAD_CRC = Crc("CRC-32", 32, 0x04C11DB7, 0xFFFF_FFFF, 0xFFFF_FFFF)
"""The one of zlib, Ethernet and PNG: `zlib.crc32` computes it."""


def to_bytes(layout: Layout, values: Mapping[str, int]) -> bytes:
    """A packed record as it travels."""
    words = layout.pack(values)
    return struct.pack(f"<{len(words)}I", *words)


def from_bytes(layout: Layout, data: bytes) -> dict[str, int]:
    """The record at the start of ``data``; ``ValueError`` if it is shorter than that."""
    size = layout.word_count * WORD_BYTES
    if len(data) < size:
        raise ValueError(f"{layout.name} needs {size} bytes, not {len(data)}")
    return layout.unpack(list(struct.unpack_from(f"<{layout.word_count}I", data)))


def identity(architecture: Architecture) -> dict[str, int]:
    """The `IDENTITY` record of a board with this architecture."""
    values = {
        field.name: getattr(architecture, field.name)
        for field in IDENTITY.fields
        if field.name not in ("version", "name", "weight_source")
    }
    values["weight_source"] = WEIGHT_SOURCES.index(architecture.weight_source)
    name = architecture.name.encode("ascii", "replace")[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
    return {**values, "version": PROTOCOL_VERSION, "name": int.from_bytes(name, "little")}


def identity_name(record: Mapping[str, int]) -> str:
    """The architecture's name in an `IDENTITY` record."""
    return record["name"].to_bytes(NAME_BYTES, "little").rstrip(b"\0").decode("ascii", "replace")


def identity_fields(record: Mapping[str, int]) -> dict[str, int | str]:
    """What an `IDENTITY` record says of the architecture but its name; ``ValueError`` for what no architecture has."""
    values: dict[str, int | str] = {name: record[name] for name in (*PROGRAM_FIELDS, "clock_hz", "uart_baud")}
    number = record["weight_source"]
    if number >= len(WEIGHT_SOURCES):
        raise ValueError(f"weight_source {number} is unknown")
    return values | {"weight_source": WEIGHT_SOURCES[number]}
