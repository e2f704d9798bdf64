"""A transport that treats a good one badly."""

from __future__ import annotations

import random

from emberline.driver.transport import Transport


class LossyTransport:
    """Loses, flips, repeats, inserts and delays bytes in both directions.

    Parameters: ``transport`` underneath; ``seed``; ``rate``, how often something happens to a write or a read;
    ``kinds``, what may happen.
    """

    KINDS = ("drop", "flip", "cut", "repeat", "insert", "delay", "lose")

    def __init__(self, transport: Transport, seed: int, rate: float, kinds: tuple[str, ...] = KINDS) -> None:
        self.transport = transport
        self.rate = rate
        self.kinds = kinds
        self.accidents = 0
        self._random = random.Random(seed)
        self._delayed = bytearray()
        self._incoming = bytearray()

    def write(self, data: bytes) -> None:
        data = bytes(self._delayed) + self._spoil(data)
        self._delayed.clear()
        self.transport.write(data)

    def read(self, count: int, timeout_s: float) -> bytes:
        if not self._incoming:
            self._incoming += self._spoil(self.transport.read(count, timeout_s))
        data = bytes(self._incoming[:count])
        del self._incoming[:count]
        return data

    def close(self) -> None:
        self.transport.close()

    def _spoil(self, data: bytes) -> bytes:
        rng = self._random
        if not data or not self.kinds or rng.random() >= self.rate:
            return data
        self.accidents += 1
        at = rng.randrange(len(data))
        match rng.choice(self.kinds):
            case "drop":
                return data[:at] + data[at + 1 :]
            case "flip":
                return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
            case "cut":
                return data[:at]
            case "repeat":
                return data * 2
            case "insert":
                return data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]
            case "delay":
                self._delayed += data[at:]
                return data[:at]
            case _:
                return b""
