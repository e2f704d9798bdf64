"""Frame input: bytes from the link become words in the frame ring, the first convolution's taps side by side."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH, FRAME
from emberline.gateware.structures import structure

ROW_COUNT_WIDTH = 12
ROW_BYTES_WIDTH = 20


class State(enum.Enum):
    """What the writer does with the current row."""

    STOPPED = 0
    SIZE = 1
    ROW = 2
    SHIFT = 3
    STORE = 4
    NEXT = 5


SETTINGS = structure(FRAME, skip=("opcode",))


class FrameWriter(wiring.Component):
    """Stores rows of pixels as words, each the last ``window`` pixels, every ``stride`` pixels.

    The bytes of a row are shifted through a register of ``lanes_in`` bytes from its top lane downwards; at the start of
    a row all lanes hold ``zero``. After the first ``skip + 1`` pixels, and then every ``stride`` pixels, the register
    is stored as a word, until ``stored_columns`` words are stored; what is missing right of the row is ``zero``.

    Members:
        settings, i_configure: the FRAME instruction; empties the ring.
        i_bytes: pixels, ``channels`` bytes each, row by row. Not ready while the ring is full or not configured.
        i_commit: the rows since the last commit become ready to be read, as soon as the last of them is stored.
        i_abort: forget them and a partial row.
        i_release, i_release_count: rows that the program has read.
        o_free_rows: rows that can still be taken in, counting only committed ones as taken.
        o_row_bytes: bytes of a row; 0 before the first FRAME.
        o_committed, o_committed_count: rows that became ready, for the sequencer's count.
        o_valid, o_address, o_word, i_ready: write requests to the activation buffer.

    One byte per cycle; each word takes one more. A word is accepted by the buffer before the next byte is.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "settings": In(SETTINGS),
                "i_configure": In(1),
                "i_bytes": In(stream.Signature(8)),
                "i_commit": In(1),
                "i_abort": In(1),
                "i_release": In(1),
                "i_release_count": In(8),
                "o_free_rows": Out(ROW_COUNT_WIDTH),
                "o_row_bytes": Out(ROW_BYTES_WIDTH),
                "o_committed": Out(1),
                "o_committed_count": Out(ROW_COUNT_WIDTH),
                "o_valid": Out(1),
                "o_address": Out(range(architecture.activation_depth_words)),
                "o_word": Out(8 * architecture.lanes_in),
                "i_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        group_bits = architecture.groups_per_word.bit_length() - 1
        config = Signal(SETTINGS, reset_less=True)
        start_words = Signal(ADDRESS_WIDTH)
        m.d.comb += start_words.eq(config.start >> group_bits)

        # Comparisons are with the last of each, computed when the settings have come.
        last_channel, last_column, last_stored = (
            Signal(width, name=name, reset_less=True)
            for name, width in (("last_channel", 8), ("last_column", 12), ("last_stored", 12))
        )
        last_row = Signal(ROW_COUNT_WIDTH)
        m.d.sync += [
            last_channel.eq(config.channels - 1),
            last_column.eq(config.columns - 1),
            last_stored.eq(config.stored_columns - 1),
            last_row.eq(config.ring_rows - 1),
        ]

        # The ring: where rows are being written, where the next good row begins, how many rows there are.
        address = Signal(ADDRESS_WIDTH)
        row = Signal(ROW_COUNT_WIDTH)  # row of the ring that is being written
        good_address = Signal(ADDRESS_WIDTH)
        good_row = Signal(ROW_COUNT_WIDTH)
        pending = Signal(ROW_COUNT_WIDTH)  # rows written and not committed
        free = Signal(ROW_COUNT_WIDTH)  # rows neither committed nor in use
        row_bytes = Signal(ROW_BYTES_WIDTH)

        register = Signal(8 * architecture.lanes_in, reset_less=True)
        channel = Signal(8)
        column = Signal(12)
        skip = Signal(8)
        stored = Signal(12)
        m.d.comb += [
            self.o_free_rows.eq(free),
            self.o_row_bytes.eq(row_bytes),
            self.o_address.eq(address),
            self.o_word.eq(register),
        ]

        state = Signal(State)
        fresh = Signal()  # no byte of the row has come yet
        commit_waits = Signal()
        commit = Signal()
        byte = Signal(8)
        padding = Signal()  # the row's bytes are in, words are still missing: zeros come from the right
        pixel_done = Signal()
        m.d.comb += pixel_done.eq(channel == last_channel)

        with m.Switch(state):
            with m.Case(State.SIZE):
                # columns * channels, one addition per cycle
                with m.If(channel != config.channels):
                    m.d.sync += [row_bytes.eq(row_bytes + config.columns), channel.eq(channel + 1)]
                with m.Else():
                    m.d.sync += [free.eq(config.ring_rows), state.eq(State.ROW)]
            with m.Case(State.ROW):
                m.d.comb += fresh.eq(1)
                m.d.sync += [
                    register.eq(config.zero.as_unsigned().replicate(architecture.lanes_in)),
                    channel.eq(0),
                    column.eq(0),
                    stored.eq(0),
                    skip.eq(config.skip),
                ]
                with m.If((pending != free) & ~commit):
                    m.d.sync += state.eq(State.SHIFT)
            with m.Case(State.SHIFT):
                m.d.comb += [
                    fresh.eq((column == 0) & (channel == 0)),
                    padding.eq(column == config.columns),
                    byte.eq(Mux(padding, config.zero.as_unsigned(), self.i_bytes.payload)),
                    self.i_bytes.ready.eq(~padding),
                ]
                with m.If(padding | self.i_bytes.valid):
                    m.d.sync += [register.eq(Cat(register[8:], byte)), channel.eq(channel + 1)]
                    with m.If(pixel_done):
                        m.d.sync += [channel.eq(0), skip.eq(skip - 1), column.eq(column + ~padding)]
                        with m.If((skip == 0) & (stored != config.stored_columns)):
                            m.d.sync += state.eq(State.STORE)
                        with m.Elif((column == last_column) & (stored == config.stored_columns)):
                            m.d.sync += state.eq(State.NEXT)
            with m.Case(State.STORE):
                m.d.comb += self.o_valid.eq(1)
                with m.If(self.i_ready):
                    m.d.sync += [address.eq(address + 1), stored.eq(stored + 1), skip.eq(config.stride - 1)]
                    m.d.sync += state.eq(State.SHIFT)
                    with m.If((column == config.columns) & (stored == last_stored)):
                        m.d.sync += state.eq(State.NEXT)
            with m.Case(State.NEXT):
                m.d.sync += [row.eq(row + 1), pending.eq(pending + 1), state.eq(State.ROW)]
                with m.If(row == last_row):
                    m.d.sync += [row.eq(0), address.eq(start_words)]

        released = Signal(8)
        m.d.comb += [
            released.eq(Mux(self.i_release, self.i_release_count, 0)),
            commit.eq((self.i_commit | commit_waits) & fresh),
            self.o_committed.eq(commit),
            self.o_committed_count.eq(pending),
        ]
        with m.If(self.i_release):
            m.d.sync += free.eq(free + released)
        with m.If(self.i_commit):
            m.d.sync += commit_waits.eq(1)
        with m.If(commit):
            m.d.sync += [
                good_address.eq(address),
                good_row.eq(row),
                free.eq(free + released - pending),
                pending.eq(0),
                commit_waits.eq(0),
            ]
        with m.If(self.i_abort):
            m.d.sync += [address.eq(good_address), row.eq(good_row), pending.eq(0), commit_waits.eq(0)]
            with m.If(state != State.STOPPED):
                m.d.sync += state.eq(State.ROW)
        with m.If(self.i_configure):
            ring = self.settings.start >> group_bits
            m.d.sync += [
                config.eq(self.settings),
                row_bytes.eq(0),
                channel.eq(0),
                free.eq(0),
                pending.eq(0),
                commit_waits.eq(0),
                row.eq(0),
                good_row.eq(0),
                address.eq(ring),
                good_address.eq(ring),
                state.eq(State.SIZE),
            ]
        return m
