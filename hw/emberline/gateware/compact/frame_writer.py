"""Frame input of the compact accelerator: pixel by pixel, every byte straight into the memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from emberline.arch.architecture import Architecture
from emberline.gateware.frame_writer import ROW_COUNT_WIDTH, frame_members


class CompactFrameWriter(wiring.Component):
    """Stores a frame as it comes: a stored pixel is a pixel (`emberline.arch.listing` refuses any other FRAME).

    Rows lie one behind the other without a gap, so an address that counts up is all that is kept of them; the one where
    the rows since the last commit begin is kept too, to come back to.

    Members:
        settings, i_configure: the FRAME instruction; empties the ring, in as many cycles as a pixel has bytes.
        i_bytes: pixels, ``channels`` bytes each, row by row. Not ready while the byte before it is to be stored, while
            the ring is full, or not configured.
        i_commit: the rows since the last commit become ready to be read, as soon as their last byte is stored. No byte
            comes with it, and none is taken before that.
        i_abort: forget them and a partial row. No byte comes with it; behind a commit it has nothing to forget.
        i_release, i_release_count: rows that the program has read.
        o_free_rows: rows that can still be taken in, counting only committed ones as taken; none while a commit waits.
        o_row_bytes: bytes of a row; 0 before the first FRAME.
        o_committed, o_committed_count: rows that became ready, for the sequencer's count.
        o_valid, o_address, o_enable, o_byte, i_ready: write requests to the memory, one byte each. An abort takes a
            request back.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(frame_members(architecture) | {"o_byte": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings = self.settings
        group_bits = self._architecture.groups_per_word.bit_length() - 1
        start, end = (Signal(len(self.o_address) + 1, name=name, reset_less=True) for name in ("start", "end"))
        channels, bytes_left = (Signal.like(settings.channels, name=n, reset_less=True) for n in ("channels", "bytes"))
        columns, columns_left = (Signal.like(settings.columns, name=n, reset_less=True) for n in ("columns", "pixels"))
        address, good = (Signal.like(self.o_address, name=name, reset_less=True) for name in ("address", "good"))
        lane = Signal(range(self._architecture.lanes_in), reset_less=True)
        free, pending = Signal(ROW_COUNT_WIDTH), Signal(ROW_COUNT_WIDTH)  # rows not committed; written of them
        room, sizing = Signal(), Signal()
        waits, commit_waits = Signal(), Signal()  # a byte, a commit
        stored = waits & self.i_ready
        pixel_ends = bytes_left == 1
        row_ends = stored & pixel_ends & (columns_left == 1)
        hold = self.i_commit | commit_waits
        commit = hold & ~waits
        m.d.comb += [
            self.i_bytes.ready.eq(room & ~waits & ~commit_waits),
            self.o_valid.eq(waits),
            self.o_address.eq(address),
            self.o_enable.eq(1 << lane),
            self.o_free_rows.eq(Mux(sizing | commit_waits, 0, free)),
            self.o_committed.eq(commit),
            self.o_committed_count.eq(pending),
        ]
        m.d.sync += [
            room.eq((pending != free) & ~row_ends & ~sizing),
            free.eq(free + Mux(self.i_release, self.i_release_count, 0) - Mux(commit, pending, 0)),
            commit_waits.eq(hold & waits),
        ]
        with m.If(self.i_bytes.valid & self.i_bytes.ready):
            m.d.sync += [self.o_byte.eq(self.i_bytes.payload), waits.eq(1)]
        with m.If(stored):
            m.d.sync += [waits.eq(0), bytes_left.eq(bytes_left - 1), lane.eq(lane + 1)]
            with m.If(pixel_ends):
                m.d.sync += [bytes_left.eq(channels), columns_left.eq(columns_left - 1), lane.eq(0)]
            with m.If(pixel_ends | lane.all()):
                m.d.sync += address.eq(Mux(address + 1 == end, start, address + 1))
        with m.If(row_ends):
            m.d.sync += [columns_left.eq(columns), pending.eq(pending + 1)]
        with m.If(commit):
            m.d.sync += [good.eq(address), pending.eq(0)]
        with m.If((self.i_abort & ~hold) | sizing):
            m.d.sync += [
                waits.eq(0),
                address.eq(good),
                bytes_left.eq(channels),
                columns_left.eq(columns),
                lane.eq(0),
                pending.eq(0),
            ]
        # Bytes of a row: columns * channels, one addition a cycle
        with m.If(sizing):
            m.d.sync += [
                self.o_row_bytes.eq(self.o_row_bytes + columns),
                bytes_left.eq(Mux(pixel_ends, channels, bytes_left - 1)),
                sizing.eq(~pixel_ends),
            ]
        with m.If(self.i_configure):
            m.d.sync += [
                start.eq(settings.start >> group_bits),
                good.eq(settings.start >> group_bits),
                end.eq(settings.end >> group_bits),
                channels.eq(settings.channels),
                bytes_left.eq(settings.channels),
                columns.eq(settings.columns),
                free.eq(settings.held_rows),
                room.eq(0),
                sizing.eq(1),
                self.o_row_bytes.eq(0),
            ]
        return m
