"""Messages between a simulated board's two processes: a JSON header and raw bytes over a local socket."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTHS = struct.Struct("<II")


class Channel:
    """One end of a connected stream socket. Messages arrive whole and in order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send one message; raise ``OSError`` when the other end is gone."""
        text = json.dumps(header).encode()
        self._connection.sendall(_LENGTHS.pack(len(text), len(payload)) + text + payload)

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], bytes] | None:
        """The next message; ``None`` when the other end has closed. Raise ``TimeoutError`` after the time limit."""
        self._connection.settimeout(timeout_s)
        try:
            lengths = self._read(_LENGTHS.size)
            if lengths is None:
                return None
            text_bytes, payload_bytes = _LENGTHS.unpack(lengths)
            text, payload = self._read(text_bytes), self._read(payload_bytes)
        except ConnectionError:
            return None
        finally:
            self._connection.settimeout(None)
        return None if text is None or payload is None else (json.loads(text), payload)

    def close(self) -> None:
        self._connection.close()

    def _read(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            piece = self._connection.recv(min(count - len(data), 1 << 20))
            if not piece:
                return None
            data += piece
        return bytes(data)
