"""What the protocol needs of a byte stream."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """A byte stream to a board, without packets, retries or meaning.

    Errors of the stream itself (unplugged, simulator died) are raised as an `emberline.errors.EmberlineError`.
    """

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""

    def read(self, count: int, timeout_s: float) -> bytes:
        """At most ``count`` bytes: as soon as there are so many, or what has come when the time is over."""

    def close(self) -> None:
        """Give the stream up. Idempotent."""
