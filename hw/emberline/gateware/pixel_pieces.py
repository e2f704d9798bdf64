"""Bytes of pixels, gathered so that several of them are stored at once."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

PIECE_BYTES = 4
"""A pixel is stored in pieces of so many bytes, the last one may be shorter."""
PIECE = data.ArrayLayout(8, PIECE_BYTES)
"""Its first byte in front; what lies behind its last byte means nothing."""


class PixelPieces(wiring.Component):
    """Gathers the bytes of pixels into pieces, none of which has bytes of two pixels.

    Parameters:
        count_width: bits of ``channels``.

    Members:
        channels: bytes of a pixel, at least 1; constant from two cycles before the end of ``clear`` on.
        i: bytes. o: pieces. clear: forgets what has been gathered, and a byte that is taken just now.
        any: bytes have been taken that have not left.

    A piece takes a cycle for each byte and one to be handed over; one more waits for ``o`` meanwhile.
    """

    def __init__(self, count_width: int) -> None:
        super().__init__(
            {
                "channels": In(count_width),
                "clear": In(1),
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(PIECE)),
                "any": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        piece = Signal(PIECE, reset_less=True)
        byte = Signal(range(PIECE_BYTES))
        # Bytes of the pixel that are left behind the next one, less one: negative at the last one
        left, most = (Signal(signed(len(self.channels) + 1), name=name, reset_less=True) for name in ("left", "most"))
        full = Signal()
        last = left[-1]
        m.d.sync += most.eq(self.channels - 2)
        m.d.comb += [
            self.i.ready.eq(~full),
            self.any.eq(full | self.o.valid | (byte != 0)),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(full & (self.o.ready | ~self.o.valid)):
            m.d.sync += [self.o.payload.eq(piece), self.o.valid.eq(1), full.eq(0)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                piece[byte].eq(self.i.payload),
                byte.eq(byte + 1),
                left.eq(left - 1),
                full.eq(last | (byte == PIECE_BYTES - 1)),
            ]
            with m.If(last):
                m.d.sync += [byte.eq(0), left.eq(most)]
        with m.If(self.clear):
            m.d.sync += [byte.eq(0), left.eq(most), full.eq(0), self.o.valid.eq(0)]
        return m
