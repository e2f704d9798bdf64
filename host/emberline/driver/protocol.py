"""Requests and responses over a transport that may lose, damage, repeat or invent bytes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from emberline.arch.framing import Packet, PacketEnd, PacketReader, encode_request
from emberline.arch.layout import WORD_BYTES, Layout
from emberline.arch.packets import (
    CODES,
    IDENTITY,
    PREFIX_BYTES,
    PROTOCOL_VERSION,
    RESULT,
    ROWS,
    STATUS,
    RequestType,
    ResponseCode,
    from_bytes,
)
from emberline.driver.transport import Transport
from emberline.errors import DeviceError

ROW_COUNT_MASK = 0xFFFF
POSITION_MASK = 0xFFFF_FFFF
RETRIED = (ResponseCode.DAMAGED, ResponseCode.TRUNCATED)


class RequestRefused(DeviceError):
    """The board answered a request with something else than OK. ``code`` says why."""

    def __init__(self, message: str, code: ResponseCode) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class LinkSettings:
    """How patient a link is.

    Parameters:
        timeout_s: silence after which a request is sent again; longer than the board's own patience with a packet
            that is cut off.
        byte_s: time that one byte takes on the line; added for every byte that must travel.
        attempts: how often a request is sent before the board is given up.
        payload_bytes: payload of one request, at most; less is lost with a damaged one.
        noise_bytes: bytes without meaning, beside an answer, after which a board is not waited for any longer.
        poll_s: pause before a board that has neither room nor a result is asked again; by default a part of the time
            that its frames are predicted to take.
    """

    timeout_s: float = 0.25
    byte_s: float = 0.0
    attempts: int = 8
    payload_bytes: int = 4096
    noise_bytes: int = 1 << 16
    poll_s: float | None = None


@dataclass
class BoardState:
    """What the last response said about the board."""

    running: bool = False
    faulted: bool = False
    result_valid: bool = False
    free_rows: int = 0
    frames_done: int = 0
    weight_room: bool = False


def _packet_bytes(payload: int) -> int:
    """Of a packet with a payload of so many bytes."""
    return PREFIX_BYTES + payload + WORD_BYTES


class Link:
    """The host's end of the packet protocol (`docs/protocol.md`): one request at a time, sent until it is answered.

    Every method returns once the board has confirmed, or raises: `RequestRefused` when the board refused,
    ``DeviceError`` when it did not answer understandably. None waits longer than ``attempts`` times the time limit
    and the time its bytes take; none has its effect twice.

    Parameters: ``transport``; ``name`` of the board for messages; ``settings``.

    ``state`` is what the last response reported; ``retries`` counts requests that were sent again.
    """

    def __init__(self, transport: Transport, name: str = "board", settings: LinkSettings | None = None) -> None:
        self.name = name
        self.settings = settings or LinkSettings()
        self.state = BoardState()
        self.retries = 0
        self._transport = transport
        self._reader = PacketReader.of_responses()
        self._sequence = secrets.randbelow(256)

    def identity(self) -> dict[str, int]:
        """The board's `IDENTITY`; ``DeviceError`` if it speaks another version of the protocol."""
        try:
            record = self._record(RequestType.IDENTITY, IDENTITY)
        except RequestRefused as error:
            if error.code is ResponseCode.BAD_VERSION:
                raise DeviceError(f"{self.name}: the board's protocol is not version {PROTOCOL_VERSION}") from None
            raise
        if record["version"] != PROTOCOL_VERSION:
            raise DeviceError(
                f"{self.name}: the board speaks version {record['version']} of the protocol, not {PROTOCOL_VERSION}"
            )
        return record

    def status(self) -> dict[str, int]:
        """The board's `STATUS`."""
        return self._record(RequestType.STATUS, STATUS)

    def write_program(self, words: tuple[int, ...] | list[int], address: int = 0) -> None:
        """Write instruction memory from word ``address``."""
        data = b"".join(word.to_bytes(WORD_BYTES, "little") for word in words)
        self._write(RequestType.WRITE_PROGRAM, address, data)

    def write_weights(self, data: bytes, offset: int = 0) -> None:
        """Write the weight image from byte ``offset``, a multiple of 4; ``data`` is filled with zeros to one."""
        if offset % WORD_BYTES:
            raise ValueError(f"offset must be a multiple of {WORD_BYTES}, not {offset}")
        self._write(RequestType.WRITE_WEIGHTS, offset // WORD_BYTES, data + bytes(-len(data) % WORD_BYTES))

    def start(self, program_id: int) -> None:
        """Run the program from word 0 under this identity."""
        self.request(RequestType.START, program_id)

    def frame_rows(self, first_row: int, rows: int, data: bytes) -> None:
        """Enter rows; ``first_row`` counts rows since the start, modulo 65536."""
        argument = ROWS.pack({"first_row": first_row & ROW_COUNT_MASK, "rows": rows})[0]
        self.request(RequestType.FRAME_ROWS, argument, data)

    def weight_stream(self, first_word: int, data: bytes) -> None:
        """Enter weights that LOADs will take; ``first_word`` counts words of them since the start, modulo 2^32."""
        self.request(RequestType.WEIGHT_STREAM, first_word & POSITION_MASK, data)

    def read_result(self, frame: int, result_bytes: int) -> tuple[dict[str, int], bytes]:
        """The `RESULT` record and the bytes of frame ``frame`` (modulo 65536)."""
        payload = self.request(
            RequestType.READ_RESULT, frame, answer_bytes=RESULT.word_count * WORD_BYTES + result_bytes
        )
        record, data = from_bytes(RESULT, payload), payload[RESULT.word_count * WORD_BYTES :]
        return record, data

    def release_result(self, frame: int) -> None:
        """Let the board overwrite that frame's result."""
        self.request(RequestType.RELEASE_RESULT, frame)

    def reset(self) -> None:
        """Stop the machine; memories keep their contents."""
        self.request(RequestType.RESET)

    def wait(self, seconds: float) -> None:
        """Let time pass, on the board's clock where that is not the host's."""
        self._reader.feed(self._transport.read(1, seconds))

    def close(self) -> None:
        self._transport.close()

    def request(
        self, request: RequestType, argument: int = 0, payload: bytes = b"", *, answer_bytes: int | None = None
    ) -> bytes:
        """Send a request until it is answered; the response's payload.

        Parameters: ``answer_bytes``, the payload's size, if it must have this one (without, it must be empty).
        """
        settings = self.settings
        self._sequence = (self._sequence + 1) & 0xFF
        data = encode_request(request, self._sequence, argument, payload)
        expected = answer_bytes or 0
        limit_s = settings.timeout_s + settings.byte_s * (len(data) + _packet_bytes(expected))
        problem = "no answer"
        for attempt in range(settings.attempts):
            self.retries += attempt > 0
            self._reader.reset()
            self._transport.write(data)
            answer, problem = self._await(request, limit_s, expected)
            if answer is None:
                continue
            code = ResponseCode(answer.header["code"])
            if code is ResponseCode.OK:
                return answer.payload
            if code not in RETRIED:
                raise RequestRefused(f"{self.name}: {request.name} was refused: {CODES[code]}", code)
            problem = f"every attempt was refused: {CODES[code]}"
        raise DeviceError(f"{self.name}: {request.name} failed after {settings.attempts} attempts: {problem}")

    def _await(self, request: RequestType, limit_s: float, expected: int) -> tuple[Packet | None, str]:
        """The response to the request just sent, or ``None`` and what came instead."""
        noise = self.settings.noise_bytes + _packet_bytes(expected)
        received = 0
        problem = "no answer"
        while noise > received:
            data = self._transport.read(min(self._reader.missing, noise), limit_s)
            if not data:
                return None, problem
            received += len(data)
            for packet in self._reader.feed(data):
                header = packet.header
                if header["sequence"] != self._sequence or header["type"] != request:
                    problem = "answers to something else"
                elif packet.end is not PacketEnd.GOOD:
                    return None, "the answer was damaged"
                elif header["code"] == ResponseCode.OK and header["length"] != expected:
                    return None, f"an answer of {header['length']} bytes instead of {expected}"
                elif header["code"] not in CODES:
                    return None, f"an answer with the unknown code {header['code']}"
                else:
                    self._note(header)
                    return packet, ""
            if problem == "no answer":
                problem = "bytes that are no answer"
        return None, f"{received} bytes that are no answer"

    def _note(self, header: dict[str, int]) -> None:
        self.state = BoardState(
            bool(header["running"]),
            bool(header["faulted"]),
            bool(header["result_valid"]),
            header["free_rows"],
            header["frames_done"],
            bool(header["weight_room"]),
        )

    def _record(self, request: RequestType, layout: Layout) -> dict[str, int]:
        return from_bytes(layout, self.request(request, answer_bytes=layout.word_count * WORD_BYTES))

    def _write(self, request: RequestType, address: int, data: bytes) -> None:
        size = self.settings.payload_bytes // WORD_BYTES * WORD_BYTES
        for start in range(0, len(data), size):
            self.request(request, address + start // WORD_BYTES, data[start : start + size])
