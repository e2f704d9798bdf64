"""Where a request's payload goes: into the memories, or into the frame."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

WORD_BYTES = 4


class WordWriter(wiring.Component):
    """Assembles bytes, least significant first, into 32-bit words and writes them to rising addresses.

    Parameters: ``address_width``.

    Members:
        start: strobe: the next byte begins the word at ``address``.
        address: first address, in words.
        i: bytes; always ready.
        o_enable, o_address, o_data: the write, one cycle after a word's last byte.
    """

    def __init__(self, address_width: int) -> None:
        super().__init__(
            {
                "start": In(1),
                "address": In(address_width),
                "i": In(stream.Signature(8, always_ready=True)),
                "o_enable": Out(1),
                "o_address": Out(address_width),
                "o_data": Out(8 * WORD_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        index = Signal(range(WORD_BYTES))
        m.d.sync += self.o_enable.eq(0)
        with m.If(self.i.valid):
            m.d.sync += [
                self.o_data.eq(Cat(self.o_data[8:], self.i.payload)),
                index.eq(index + 1),
                self.o_enable.eq(index == WORD_BYTES - 1),
            ]
        with m.If(self.o_enable):
            m.d.sync += self.o_address.eq(self.o_address + 1)
        with m.If(self.start):
            m.d.sync += [self.o_address.eq(self.address), index.eq(0)]
        return m


class RowWriter(wiring.Component):
    """Passes a payload on as frame rows, counts them and never passes on more than there is room for.

    Members:
        start: strobe: a payload begins; takes ``free_rows`` and ``row_bytes`` at this moment.
        running: 0 makes it drop what it holds and everything that comes, so that a stopped machine cannot block it.
        free_rows: rows that may be passed on. row_bytes: bytes of a row.
        i: payload bytes.
        o: row bytes; registered; at most ``free_rows`` rows.
        rows: whole rows passed on. partial: the last one is not complete.
        overflow: bytes were dropped because there was no room.
        busy: a byte waits on ``o``.

    Throughput one byte in two cycles; honours back-pressure.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "running": In(1),
                "free_rows": In(12),
                "row_bytes": In(20),
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "rows": Out(16),
                "partial": Out(1),
                "overflow": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Counters whose sign says that they have come to their end
        room = Signal(signed(len(self.free_rows) + 1))  # less one
        left = Signal(signed(len(self.row_bytes) + 1))  # less two
        accepted = Signal()
        m.d.comb += [
            self.i.ready.eq(~self.o.valid),
            accepted.eq(self.i.valid & self.i.ready),
            self.busy.eq(self.o.valid),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(accepted):
            m.d.sync += self.o.payload.eq(self.i.payload)
            with m.If(room[-1]):
                m.d.sync += self.overflow.eq(1)
            with m.Else():
                m.d.sync += [self.o.valid.eq(1), left.eq(left - 1), self.partial.eq(1)]
                with m.If(left[-1]):
                    m.d.sync += [
                        left.eq(self.row_bytes - 2),
                        room.eq(room - 1),
                        self.rows.eq(self.rows + 1),
                        self.partial.eq(0),
                    ]
        with m.If(~self.running):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.start):
            m.d.sync += [
                room.eq(self.free_rows - 1),
                left.eq(self.row_bytes - 2),
                self.rows.eq(0),
                self.partial.eq(0),
                self.overflow.eq(0),
            ]
        return m
