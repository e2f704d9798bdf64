"""Packets to bytes and back: the receiver here and the one in the gateware follow the same rule."""

from __future__ import annotations

import enum
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from emberline.arch.layout import Layout
from emberline.arch.packets import (
    HEADER_BYTES,
    HEADER_CRC,
    PAYLOAD_CHECK_BYTES,
    PAYLOAD_LIMIT,
    PREFIX_BYTES,
    PROTOCOL_VERSION,
    REQUEST,
    REQUEST_SYNC,
    RESPONSE,
    RESPONSE_SYNC,
    SYNC_BYTES,
    RequestType,
    from_bytes,
    to_bytes,
)


class PacketEnd(enum.IntEnum):
    """How a packet whose header was good ended."""

    GOOD = 0
    DAMAGED = 1
    TRUNCATED = 2
    OVERSIZE = 3
    """Announced more than the receiver takes; nothing was received."""


@dataclass(frozen=True)
class Packet:
    """A packet with a good header. ``payload`` is to be trusted only if ``end`` is ``GOOD``."""

    header: dict[str, int]
    payload: bytes
    end: PacketEnd


def encode(sync: bytes, layout: Layout, header: Mapping[str, int], payload: bytes) -> bytes:
    """A packet's bytes; the header's ``length`` is filled in."""
    packed = to_bytes(layout, {**header, "length": len(payload)})
    check = HEADER_CRC.compute(packed).to_bytes(2, "little")
    if not payload:
        return sync + packed + check
    return sync + packed + check + payload + zlib.crc32(payload).to_bytes(PAYLOAD_CHECK_BYTES, "little")


def encode_request(request: RequestType, sequence: int, argument: int = 0, payload: bytes = b"") -> bytes:
    """A request's bytes. ``ValueError`` if the payload is larger than a board takes."""
    if len(payload) > PAYLOAD_LIMIT:
        raise ValueError(f"a request's payload has at most {PAYLOAD_LIMIT} bytes, not {len(payload)}")
    header = {"type": request, "version": PROTOCOL_VERSION, "sequence": sequence, "argument": argument}
    return encode(REQUEST_SYNC, REQUEST, header, payload)


def encode_response(header: Mapping[str, int], payload: bytes = b"") -> bytes:
    """A response's bytes."""
    return encode(RESPONSE_SYNC, RESPONSE, header, payload)


class PacketReader:
    """Finds packets in a byte stream.

    A header counts wherever sync and check fit; until then bytes are skipped one by one. After a good header the
    announced payload and its check follow, whatever they contain, until they are complete or `expire` is called.

    Parameters: ``sync`` and ``layout`` of the packets; ``payload_limit``, the longest announcement that is believed.

    ``header_errors`` counts sync words that had no valid header behind them, ``skipped`` the bytes between packets.
    """

    def __init__(self, sync: bytes, layout: Layout, payload_limit: int) -> None:
        self._sync = sync
        self._layout = layout
        self._payload_limit = payload_limit
        self._buffer = bytearray()
        self._header: dict[str, int] | None = None
        self.header_errors = 0
        self.skipped = 0

    @classmethod
    def of_requests(cls) -> PacketReader:
        return cls(REQUEST_SYNC, REQUEST, PAYLOAD_LIMIT)

    @classmethod
    def of_responses(cls) -> PacketReader:
        return cls(RESPONSE_SYNC, RESPONSE, 1 << 20)

    @property
    def missing(self) -> int:
        """Bytes without which no packet can be complete: how many to wait for next, at least 1."""
        if self._header is not None:
            return self._header["length"] + PAYLOAD_CHECK_BYTES - len(self._buffer)
        return max(1, PREFIX_BYTES - len(self._buffer))

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that end within ``data``."""
        self._buffer += data
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def expire(self) -> Packet | None:
        """The line has been silent for too long: give up the packet that has begun, which is returned."""
        header, self._header = self._header, None
        payload = bytes(self._buffer)
        if header is None:
            return None
        self._buffer.clear()
        return Packet(header, payload, PacketEnd.TRUNCATED)

    def reset(self) -> None:
        """Forget everything received so far."""
        self._header = None
        self._buffer.clear()

    def _next(self) -> Packet | None:
        if self._header is None:
            self._header = self._hunt()
        if self._header is None:
            return None
        length = self._header["length"]
        if length > self._payload_limit:
            return self._finish(b"", PacketEnd.OVERSIZE)
        if length == 0:
            return self._finish(b"", PacketEnd.GOOD)
        if len(self._buffer) < length + PAYLOAD_CHECK_BYTES:
            return None
        payload = bytes(self._buffer[:length])
        check = int.from_bytes(self._buffer[length : length + PAYLOAD_CHECK_BYTES], "little")
        del self._buffer[: length + PAYLOAD_CHECK_BYTES]
        return self._finish(payload, PacketEnd.GOOD if zlib.crc32(payload) == check else PacketEnd.DAMAGED)

    def _finish(self, payload: bytes, end: PacketEnd) -> Packet:
        assert self._header is not None
        packet = Packet(self._header, payload, end)
        self._header = None
        return packet

    def _hunt(self) -> dict[str, int] | None:
        """The next good header, taken out of the buffer; what cannot be part of one is dropped."""
        buffer = self._buffer
        while True:
            start = buffer.find(self._sync)
            if start < 0:
                keep = len(buffer) - (1 if buffer[-1:] == self._sync[:1] else 0)
                self._skip(keep)
                return None
            self._skip(start)
            if len(buffer) < PREFIX_BYTES:
                return None
            header = bytes(buffer[SYNC_BYTES : SYNC_BYTES + HEADER_BYTES])
            check = int.from_bytes(buffer[SYNC_BYTES + HEADER_BYTES : PREFIX_BYTES], "little")
            if HEADER_CRC.compute(header) == check:
                del buffer[:PREFIX_BYTES]
                return from_bytes(self._layout, header)
            self.header_errors += 1
            self._skip(1)

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]
