"""Frame input: every pixel from the link goes to all places in the frame ring that have it in their window."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.isa import FRAME
from emberline.gateware.frame_places import COUNT_WIDTH, FramePlaces, State
from emberline.gateware.pixel_pieces import PIECE, PIECE_BYTES, PixelPieces
from emberline.gateware.structures import structure

ROW_COUNT_WIDTH = 12
ROW_BYTES_WIDTH = 20

SETTINGS = structure(FRAME, skip=("opcode",))


class Region(enum.Enum):
    """Where in a row the next pixel lies."""

    LEFT = 0
    FRAME = 1
    RIGHT = 2


def frame_members(architecture: Architecture) -> dict[str, wiring.Member]:
    """The ports that every frame writer has; what it writes is its own."""
    return {
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
        "o_enable": Out(architecture.lanes_in),
        "i_ready": In(1),
    }


class FrameWriter(FramePlaces):
    """Stores a frame as windows of ``kernel_rows`` x ``kernel_columns`` pixels (`emberline.arch.isa`, FRAME).

    Pixels come in pieces (`PixelPieces`). A piece is written to every stored pixel whose window holds it, one place a
    cycle; the zero point around the frame comes with its first row, its last row, and the ends of each row. Nothing is
    kept of the rows before: the ring is the only memory, and a row that is sent again overwrites what it wrote.

    Members:
        settings, i_configure: the FRAME instruction; empties the ring.
        i_bytes: pixels, ``channels`` bytes each, row by row. Not ready while a commit waits, while the ring is full but
            for a few bytes, or not configured.
        i_commit: the rows since the last commit become ready to be read, as soon as the last of them is stored. No byte
            comes with it.
        i_abort: forget them and a partial row.
        i_release, i_release_count: rows that the program has read.
        o_free_rows: rows that can still be taken in, counting only committed ones as taken; none while a commit waits
            for the rows before it to be stored.
        o_row_bytes: bytes of a row; 0 before the first FRAME.
        o_committed, o_committed_count: rows that became ready, for the sequencer's count.
        o_valid, o_address, o_enable, o_bytes, i_ready: write requests to the activation buffer: bytes of a word, byte
            ``i`` of it in byte ``i % PIECE_BYTES`` of ``o_bytes``.

    A piece takes three cycles, or two and one for each place, and up to a second one for a place in two words; two more
    for each stored row beyond the first with it; and not less than a cycle for each of its bytes, and one.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        # Places in the ring, in bytes: what is added is taken modulo the buffer's.
        self._offset_width = (architecture.activation_depth_words * architecture.lanes_in - 1).bit_length()
        super().__init__(frame_members(architecture) | {"o_bytes": Out(PIECE)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word_bits = len(self.o_address)
        self._config = Signal(SETTINGS, reset_less=True)
        self._derive(m)

        # What a row begins with, kept at the last commit to come back to after an abort.
        place = data.StructLayout(
            {
                "row": COUNT_WIDTH,  # of the frame, on the link
                "rows_after": signed(COUNT_WIDTH + 1),  # behind the oldest stored row that is not complete, less one
                "complete": 1,  # all are
                "word": word_bits,  # where that one begins
                "kernel_row": signed(10),  # which row of its window the next row is; negative: none yet
                "offset": self._offset_width,  # bytes to that row's first in a stored pixel
            }
        )
        self._place, self._good = Signal(place), Signal(place)
        self._is = {state: Signal(name=f"is_{state.name.lower()}") for state in State}
        self._row_bytes = Signal(ROW_BYTES_WIDTH)
        self._commit, self._commit_waits = Signal(), Signal()
        self._hold = Signal()  # a commit comes before the next row
        self._pending = Signal(ROW_COUNT_WIDTH)  # rows written and not committed
        m.submodules.pieces = self._pieces = PixelPieces(len(self._config.channels))
        self._build_writes(m)
        self._build_rows(m)
        self._build_line(m)
        self._build_walk(m)
        self._build_control(m)
        self._count_rows(m)
        return m

    @property
    def _group_bits(self) -> int:
        return self._architecture.groups_per_word.bit_length() - 1

    def _derive(self, m: Module) -> None:
        """What is compared with and added, computed when the settings have come."""
        config = self._config
        lane_bits = (self._architecture.lanes_in - 1).bit_length()

        def register(value: Value, shape: ShapeLike, name: str) -> Signal:
            return self._register(m, value, name, shape)

        # Counters run down to -1
        count = signed(COUNT_WIDTH + 1)
        pieces = (config.channels + PIECE_BYTES - 1) >> (PIECE_BYTES.bit_length() - 1)
        self._pieces_after = register(pieces - 2, count, "pieces_after")
        self._last_size = Signal(range(PIECE_BYTES + 1), init=1, reset_less=True)
        m.d.sync += self._last_size.eq((config.channels - 1) % PIECE_BYTES + 1)
        self._rows_after = register(config.stored_rows - 2, count, "rows_after")
        self._columns_after = register(config.stored_columns - 2, count, "columns_after")
        self._columns = register(config.columns - 2, count, "columns")
        self._has_pad = register(config.pad_columns != 0, 1, "has_pad")
        self._pad_columns = register(config.pad_columns - 2, count, "pad_columns")
        self._last_row = register(config.rows - 1, COUNT_WIDTH, "last_row")
        self._last_kernel_row = register(config.kernel_rows - 1, signed(10), "last_kernel_row")
        self._last_kernel_column = register(config.kernel_columns - 1, signed(10), "last_kernel_column")
        # The first kernel row and column of the next stored pixel, as this one's last is passed.
        self._next_kernel_row = register(config.kernel_rows - config.row_stride, signed(10), "next_kernel_row")
        self._next_kernel_column = register(
            config.kernel_columns - config.column_stride, signed(10), "next_kernel_column"
        )
        # From a pixel's place in a stored pixel to its place in the one right of it; how much lower in the one below.
        right = (config.pixel_words << lane_bits) - config.column_stride_bytes
        self._right = register(right, self._offset_width, "right")
        self._right_and_on = register(self._right + self._last_size, self._offset_width, "right_and_on")
        self._passed = register(config.kernel_row_bytes - config.row_stride_bytes, self._offset_width, "passed")
        self._end = register(config.end >> self._group_bits, len(self.o_address) + 1, "end")
        self._start = register(config.start >> self._group_bits, len(self.o_address), "start")

    def _build_control(self, m: Module) -> None:
        """From state to state. Whatever decides has been a register since the cycle before, at least."""
        now = self._is
        configured = Signal()
        abort = Signal()
        # Behind a commit nothing has been taken that an abort could mean
        m.d.sync += abort.eq(self.i_abort & configured & ~self._hold)
        piece = self._pieces.o
        m.d.comb += [
            self._pieces.channels.eq(self._config.channels),
            self._pieces.clear.eq(~configured | (self.i_abort & ~self._hold)),
            self._pieces.i.payload.eq(self.i_bytes.payload),
            self._pieces.i.valid.eq(self.i_bytes.valid & ~self._commit_waits & configured),
            self.i_bytes.ready.eq(self._pieces.i.ready & ~self._commit_waits & configured),
            piece.ready.eq(now[State.PIECE] & ~self._zero & ~self._row_passed),
        ]
        go = now[State.PIECE] & ~self._row_passed & (self._zero | piece.valid)
        starts = now[State.ROW] & self._has_room & piece.valid
        walked = now[State.WALK] & self._room & self._walk_ends
        m.d.sync += self._went.eq(go & ~abort)
        following = {
            State.SIZE: now[State.START] | (now[State.SIZE] & ~self._size_ends),
            State.RESTORE: now[State.SIZE] & self._size_ends,
            State.PAUSE: now[State.RESTORE] | self._commit | (now[State.NEXT] & self._row_done),
            State.REST: now[State.PAUSE],
            State.ROW: now[State.REST] | (now[State.ROW] & ~starts & ~self._commit),
            State.LINE: starts | (now[State.NEXT] & ~self._row_done),
            State.TAKEN: go & ~self._inside,
            State.SETTLE: now[State.LINE] | now[State.TAKEN] | (walked & self._walk_last),
            State.PIECE: now[State.SETTLE] | (now[State.PIECE] & ~self._row_passed & ~go),
            State.WALK: (go & self._inside) | (now[State.WALK] & ~walked) | now[State.STEP],
            State.FOLLOW: walked & ~self._walk_last,
            State.STEP: now[State.FOLLOW],
            State.ADVANCE: now[State.PIECE] & self._row_passed,
            State.PASS: now[State.ADVANCE],
            State.NEXT: now[State.PASS],
        }
        for state, comes in following.items():
            m.d.sync += now[state].eq(comes & ~abort & ~self.i_configure)
        with m.If(abort & ~self.i_configure):
            m.d.sync += now[State.RESTORE].eq(1)
        m.d.sync += now[State.START].eq(self.i_configure)
        with m.If(self.i_configure):
            m.d.sync += [self._config.eq(self.settings), configured.eq(0)]
        with m.Elif(now[State.RESTORE]):
            m.d.sync += configured.eq(1)

    def _count_rows(self, m: Module) -> None:
        """Rows that are free, written, and committed."""
        now, pending, commit = self._is, self._pending, self._commit
        free = Signal(ROW_COUNT_WIDTH)  # rows neither committed nor in use
        change = Signal(signed(ROW_COUNT_WIDTH + 2))  # of them
        counted = Signal(2)  # a commit, on its way into ``free``
        free_rows = Signal.like(self.o_free_rows)
        m.d.sync += [counted.eq(Cat(commit, counted)), free_rows.eq(Mux(self._hold | counted.any(), 0, free))]
        m.d.comb += [
            self._hold.eq(self._commit_waits | self.i_commit),
            self.o_free_rows.eq(free_rows),
            self.o_row_bytes.eq(self._row_bytes),
            self.o_committed.eq(commit),
            self.o_committed_count.eq(pending),
        ]
        m.d.sync += [
            commit.eq(self._hold & now[State.ROW] & ~self._writing & ~self._pieces.any & ~commit),
            self._commit_waits.eq(self._hold & ~commit & ~now[State.START]),
            change.eq(Mux(self.i_release, self.i_release_count, 0) - Mux(commit, pending, 0)),
            free.eq(free + change),
        ]
        with m.If(now[State.START]):
            m.d.sync += free.eq(0)
        with m.Elif(now[State.SIZE]):
            m.d.sync += free.eq(Mux(self._size_ends, self._config.held_rows, 0))
        with m.If(commit | now[State.RESTORE]):
            m.d.sync += pending.eq(0)
        with m.Elif(now[State.NEXT] & self._row_done):
            m.d.sync += pending.eq(pending + 1)
        with m.If(commit):
            m.d.sync += self._good.eq(self._place)
        with m.Elif(now[State.SIZE]):
            m.d.sync += [
                self._good.eq(0),
                self._good.rows_after.eq(self._rows_after),
                self._good.word.eq(self._start),
            ]
        m.d.comb += self._has_room.eq(self._register(m, pending != free, "has_room"))
        # columns * channels, one addition per cycle
        size_left = Signal(signed(COUNT_WIDTH + 1), reset_less=True)
        m.d.comb += self._size_ends.eq(size_left[-1])
        with m.If(now[State.START]):
            m.d.sync += [self._row_bytes.eq(0), size_left.eq(self._config.channels - 1)]
        with m.Elif(now[State.SIZE] & ~size_left[-1]):
            m.d.sync += [self._row_bytes.eq(self._row_bytes + self._config.columns), size_left.eq(size_left - 1)]

    def _build_rows(self, m: Module) -> None:
        """Rows, and rows of zeros around them."""
        config, place, now = self._config, self._place, self._is
        self._has_room, self._size_ends, self._row_done = Signal(), Signal(), Signal()
        above = Signal(8, reset_less=True)  # rows of zeros before the next row of the frame
        below = Signal(reset_less=True)  # the frame's last row has passed
        self._whole = Signal(reset_less=True)  # the row is one of the frame
        first = self._register(m, place.row == 0, "first")
        last = self._register(m, place.row == self._last_row, "last")
        zeros = self._register(m, (above != 0) | below, "zeros")
        with m.If(now[State.REST]):
            m.d.sync += [above.eq(Mux(first, config.pad_rows, 0)), below.eq(0)]
        with m.If(now[State.LINE]):
            m.d.sync += self._whole.eq(~zeros)
        following = Signal(len(self._end), reset_less=True)
        with m.If(now[State.ADVANCE]):
            m.d.sync += following.eq(place.word + config.row_words)
            with m.If(self._whole):
                m.d.sync += [place.row.eq(place.row + 1), below.eq(last)]
            with m.Elif(~below):
                m.d.sync += above.eq(above - 1)
        wraps = self._register(m, following == self._end, "wraps")
        passes = (place.kernel_row == self._last_kernel_row) & ~place.complete
        passes = self._register(m, passes, "passes")  # the oldest stored row has all of its rows
        complete = Signal()
        m.d.comb += [
            complete.eq(place.complete | (passes & place.rows_after[-1])),
            self._row_done.eq(self._register(m, Mux(below, complete, self._whole), "row_done")),
        ]
        frame_done = self._register(m, below & complete, "frame_done")
        with m.If(now[State.NEXT]):
            with m.If(passes):
                m.d.sync += [
                    place.kernel_row.eq(self._next_kernel_row),
                    place.rows_after.eq(place.rows_after - 1),
                    place.complete.eq(complete),
                    place.word.eq(Mux(wraps, self._start, following)),
                ]
            with m.Elif(~place.complete):
                m.d.sync += place.kernel_row.eq(place.kernel_row + 1)
            with m.If(~place.complete):
                m.d.sync += place.offset.eq(place.offset + Mux(passes, self._passed, config.kernel_row_bytes))
            with m.If(frame_done):
                m.d.sync += [
                    place.row.eq(0),
                    place.rows_after.eq(self._rows_after),
                    place.complete.eq(0),
                    place.kernel_row.eq(0),
                    place.offset.eq(0),
                ]
        with m.If(now[State.RESTORE]):
            m.d.sync += place.eq(self._good)

    def _build_line(self, m: Module) -> None:
        """One row, of the frame or of zeros: its pieces."""
        place, now = self._place, self._is
        region = Signal(Region, reset_less=True)
        count = signed(COUNT_WIDTH + 1)
        left, pieces_after, columns_after = (
            Signal(count, name=name, reset_less=True) for name in ("left", "pieces_left", "columns_left")
        )
        kernel_column = Signal(signed(10), reset_less=True)
        offset = Signal(self._offset_width, reset_less=True)
        complete = Signal(reset_less=True)  # every stored pixel of the row has its last column
        self._went = Signal()  # a piece has been taken
        self._size = Signal.like(self._last_size)
        m.d.comb += self._size.eq(Mux(pieces_after[-1], self._last_size, PIECE_BYTES))
        self._zero = self._register(m, ~self._whole | (region != Region.FRAME), "zero")
        self._row_passed = self._register(m, (region == Region.RIGHT) & complete, "row_passed")
        self._inside = self._register(
            m, ~place.complete & ~complete & (place.kernel_row >= 0) & (kernel_column >= 0), "inside_window"
        )
        window_ends = self._register(m, kernel_column == self._last_kernel_column, "window_ends")
        next_offset = self._register(m, offset + self._size, "next_offset", self._offset_width)
        far_offset = self._register(m, offset + self._right_and_on, "far_offset", self._offset_width)
        with m.If(now[State.LINE]):
            m.d.sync += [
                columns_after.eq(self._columns_after),
                kernel_column.eq(0),
                offset.eq(0),
                complete.eq(0),
                pieces_after.eq(self._pieces_after),
                region.eq(Mux(self._has_pad, Region.LEFT, Region.FRAME)),
                left.eq(Mux(self._has_pad, self._pad_columns, self._columns)),
            ]
        with m.If(self._went):
            m.d.sync += [offset.eq(next_offset), pieces_after.eq(pieces_after - 1)]
            with m.If(pieces_after[-1]):
                m.d.sync += [
                    pieces_after.eq(self._pieces_after),
                    kernel_column.eq(kernel_column + 1),
                    left.eq(left - 1),
                ]
                with m.If(left[-1]):
                    m.d.sync += left.eq(self._columns)
                    m.d.sync += region.eq(Mux(region == Region.LEFT, Region.FRAME, Region.RIGHT))
                with m.If(window_ends):
                    m.d.sync += [
                        kernel_column.eq(self._next_kernel_column),
                        offset.eq(far_offset),
                        columns_after.eq(columns_after - 1),
                        complete.eq(complete | columns_after[-1]),
                    ]
        self._begin_walk(m, columns_after, kernel_column, offset)
