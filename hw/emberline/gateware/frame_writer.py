"""Frame input: every byte from the link goes to all places in the frame ring that have it in their window."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.isa import FRAME
from emberline.gateware.structures import structure

ROW_COUNT_WIDTH = 12
ROW_BYTES_WIDTH = 20
COUNT_WIDTH = 12

SETTINGS = structure(FRAME, skip=("opcode",))


class State(enum.Enum):
    """What the writer does."""

    STOPPED = 0
    SIZE = 1
    ROW = 2
    LINE = 3
    BYTE = 4
    WALK = 5
    FOLLOW = 6
    STEP = 7
    ADVANCE = 8
    NEXT = 9


class Region(enum.Enum):
    """Where in a row the next pixel lies."""

    LEFT = 0
    FRAME = 1
    RIGHT = 2


class FrameWriter(wiring.Component):
    """Stores a frame as windows of ``kernel_rows`` x ``kernel_columns`` pixels (`emberline.arch.isa`, FRAME).

    A byte is written to every stored pixel whose window holds it, one place a cycle; the zero point around the frame
    comes with its first row, its last row, and the ends of each row. Nothing is kept of the rows before: the ring is
    the only memory, and a row that is sent again overwrites what it wrote.

    Members:
        settings, i_configure: the FRAME instruction; empties the ring.
        i_bytes: pixels, ``channels`` bytes each, row by row. Not ready while the ring is full or not configured.
        i_commit: the rows since the last commit become ready to be read, as soon as the last of them is stored.
        i_abort: forget them and a partial row.
        i_release, i_release_count: rows that the program has read.
        o_free_rows: rows that can still be taken in, counting only committed ones as taken.
        o_row_bytes: bytes of a row; 0 before the first FRAME.
        o_committed, o_committed_count: rows that became ready, for the sequencer's count.
        o_valid, o_address, o_lane, o_byte, i_ready: write requests to the activation buffer, byte ``o_lane`` of a word.

    A byte takes a cycle, and one for each place; two more for each stored row beyond the first that has it.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        # Places in the ring, in bytes: what is added is taken modulo the buffer's.
        self._offset_width = (architecture.activation_depth_words * architecture.lanes_in - 1).bit_length()
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
                "o_lane": Out(range(architecture.lanes_in)),
                "o_byte": Out(8),
                "i_ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word_bits = len(self.o_address)
        self._config = config = Signal(SETTINGS, reset_less=True)
        self._derive(m)

        # What a row begins with, kept at the last commit to come back to after an abort.
        place = data.StructLayout(
            {
                "row": COUNT_WIDTH,  # of the frame, on the link
                "stored": COUNT_WIDTH,  # the oldest stored row that is not complete; past the last one: `complete`
                "complete": 1,
                "word": word_bits,  # where that one begins
                "kernel_row": signed(10),  # which row of its window the next row is; negative: none yet
                "offset": self._offset_width,  # bytes to that row's first in a stored pixel
            }
        )
        self._place, self._good = Signal(place), Signal(place)
        self._state = state = Signal(State)
        self._pending = Signal(ROW_COUNT_WIDTH)  # rows written and not committed
        self._free = Signal(ROW_COUNT_WIDTH)  # rows neither committed nor in use
        self._row_bytes = Signal(ROW_BYTES_WIDTH)
        self._channel = Signal(COUNT_WIDTH)
        commit_waits, commit = Signal(), Signal()
        self._hold = Signal()  # a commit comes before the next row
        m.d.comb += [self._hold.eq(commit_waits | self.i_commit), self.o_free_rows.eq(self._free)]
        m.d.comb += self.o_row_bytes.eq(self._row_bytes)

        self._build_writes(m)
        self._build_control(m)

        released = Mux(self.i_release, self.i_release_count, 0)
        m.d.comb += [
            commit.eq(self._hold & (state == State.ROW) & ~self._writing),
            self.o_committed.eq(commit),
            self.o_committed_count.eq(self._pending),
        ]
        with m.If(self.i_release):
            m.d.sync += self._free.eq(self._free + released)
        with m.If(self.i_commit):
            m.d.sync += commit_waits.eq(1)
        with m.If(commit):
            m.d.sync += [
                self._good.eq(self._place),
                self._free.eq(self._free + released - self._pending),
                self._pending.eq(0),
                commit_waits.eq(0),
            ]
        with m.If(self.i_abort):
            m.d.sync += [self._place.eq(self._good), self._pending.eq(0), commit_waits.eq(0)]
            with m.If((state != State.STOPPED) & (state != State.SIZE)):
                m.d.sync += state.eq(State.ROW)
        with m.If(self.i_configure):
            first = self.settings.start >> self._group_bits
            m.d.sync += [
                config.eq(self.settings),
                self._row_bytes.eq(0),
                self._channel.eq(0),
                self._free.eq(0),
                self._pending.eq(0),
                commit_waits.eq(0),
                self._place.eq(0),
                self._place.word.eq(first),
                self._good.eq(0),
                self._good.word.eq(first),
                state.eq(State.SIZE),
            ]
        return m

    @property
    def _group_bits(self) -> int:
        return self._architecture.groups_per_word.bit_length() - 1

    def _derive(self, m: Module) -> None:
        """What is compared with and added, computed when the settings have come."""
        config = self._config
        lane_bits = (self._architecture.lanes_in - 1).bit_length()

        def register(value: Value, shape: ShapeLike, name: str) -> Signal:
            result = Signal(shape, name=name, reset_less=True)
            m.d.sync += result.eq(value)
            return result

        self._last_channel = register(config.channels - 1, COUNT_WIDTH, "last_channel")
        self._last_row = register(config.rows - 1, COUNT_WIDTH, "last_row")
        self._last_stored_row = register(config.stored_rows - 1, COUNT_WIDTH, "last_stored_row")
        self._last_stored_column = register(config.stored_columns - 1, COUNT_WIDTH, "last_stored_column")
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
        self._passed = register(config.kernel_row_bytes - config.row_stride_bytes, self._offset_width, "passed")
        self._end = register(config.end >> self._group_bits, len(self.o_address) + 1, "end")
        self._start = register(config.start >> self._group_bits, len(self.o_address), "start")

    def _build_control(self, m: Module) -> None:
        """Rows, and rows of zeros around them."""
        config, place, state = self._config, self._place, self._state
        above = Signal(8)  # rows of zeros before the next row of the frame
        below = Signal()  # the frame's last row has passed
        following = Signal(len(self._end), reset_less=True)
        zeros = Signal()
        m.d.comb += zeros.eq((above != 0) | below)
        with m.Switch(state):
            with m.Case(State.SIZE):
                # columns * channels, one addition per cycle
                with m.If(self._channel != config.channels):
                    m.d.sync += [
                        self._row_bytes.eq(self._row_bytes + config.columns),
                        self._channel.eq(self._channel + 1),
                    ]
                with m.Else():
                    m.d.sync += [self._free.eq(config.held_rows), state.eq(State.ROW)]
            with m.Case(State.ROW):
                m.d.sync += [above.eq(Mux(place.row == 0, config.pad_rows, 0)), below.eq(0)]
                with m.If((self._pending != self._free) & self.i_bytes.valid & ~self._hold):
                    m.d.sync += state.eq(State.LINE)
            with m.Case(State.LINE, State.BYTE, State.WALK, State.FOLLOW, State.STEP):
                self._build_line(m, zeros)
            with m.Case(State.ADVANCE):
                m.d.sync += [following.eq(place.word + config.row_words), state.eq(State.NEXT)]
                with m.If(~zeros):
                    m.d.sync += place.row.eq(place.row + 1)
                    m.d.sync += below.eq(place.row == self._last_row)
                with m.Elif(~below):
                    m.d.sync += above.eq(above - 1)
            with m.Case(State.NEXT):
                complete = Signal()
                done = Signal()
                m.d.comb += complete.eq(place.complete)
                with m.If((place.kernel_row == self._last_kernel_row) & ~place.complete):
                    m.d.comb += complete.eq(place.stored == self._last_stored_row)
                    m.d.sync += [
                        place.kernel_row.eq(self._next_kernel_row),
                        place.offset.eq(place.offset + self._passed),
                        place.stored.eq(place.stored + 1),
                        place.complete.eq(complete),
                        place.word.eq(Mux(following == self._end, self._start, following)),
                    ]
                with m.Elif(~place.complete):
                    m.d.sync += [
                        place.kernel_row.eq(place.kernel_row + 1),
                        place.offset.eq(place.offset + config.kernel_row_bytes),
                    ]
                m.d.comb += done.eq(Mux(below, complete, self._whole))
                with m.If(done):
                    m.d.sync += [self._pending.eq(self._pending + 1), state.eq(State.ROW)]
                    with m.If(below):
                        m.d.sync += [
                            place.row.eq(0),
                            place.stored.eq(0),
                            place.complete.eq(0),
                            place.kernel_row.eq(0),
                            place.offset.eq(0),
                        ]
                with m.Else():
                    m.d.sync += state.eq(State.LINE)

    def _build_line(self, m: Module, zeros: Signal) -> None:
        """One row, of the frame or of zeros: its bytes, and for each the places where it is stored."""
        config, place, state = self._config, self._place, self._state
        region, left = Signal(Region), Signal(COUNT_WIDTH)
        column, kernel_column, offset = Signal(COUNT_WIDTH), Signal(signed(10)), Signal(self._offset_width)
        complete = Signal()  # every stored pixel of the row has its last column
        walk = self._walk
        self._whole = Signal()  # the row was one of the frame
        with m.Switch(state):
            with m.Case(State.LINE):
                m.d.sync += [
                    self._whole.eq(~zeros),
                    column.eq(0),
                    kernel_column.eq(0),
                    offset.eq(0),
                    complete.eq(0),
                    self._channel.eq(0),
                    state.eq(State.BYTE),
                    region.eq(Mux(config.pad_columns == 0, Region.FRAME, Region.LEFT)),
                    left.eq(Mux(config.pad_columns == 0, config.columns, config.pad_columns)),
                ]
            with m.Case(State.BYTE):
                zero, passed = Signal(), Signal()
                m.d.comb += [
                    zero.eq(~self._whole | (region != Region.FRAME)),
                    passed.eq((region == Region.RIGHT) & complete),
                    self.i_bytes.ready.eq(~zero),
                ]
                m.d.sync += [
                    walk.byte.eq(Mux(zero, config.zero.as_unsigned(), self.i_bytes.payload)),
                    walk.row.eq(place.stored),
                    walk.word.eq(place.word),
                    walk.kernel_row.eq(place.kernel_row),
                    walk.row_offset.eq(place.offset),
                    walk.column.eq(column),
                    walk.kernel_column.eq(kernel_column),
                    walk.offset.eq(offset),
                ]
                with m.If(passed):
                    m.d.sync += state.eq(State.ADVANCE)
                with m.Elif(zero | self.i_bytes.valid):
                    with m.If(~place.complete & ~complete & (place.kernel_row >= 0) & (kernel_column >= 0)):
                        m.d.sync += state.eq(State.WALK)
                    m.d.sync += [offset.eq(offset + 1), self._channel.eq(self._channel + 1)]
                    with m.If(self._channel == self._last_channel):
                        m.d.sync += [self._channel.eq(0), kernel_column.eq(kernel_column + 1), left.eq(left - 1)]
                        with m.If(left == 1):
                            m.d.sync += left.eq(config.columns)
                            m.d.sync += region.eq(Mux(region == Region.LEFT, Region.FRAME, Region.RIGHT))
                        with m.If(kernel_column == self._last_kernel_column):
                            m.d.sync += [
                                kernel_column.eq(self._next_kernel_column),
                                offset.eq(offset + 1 + self._right),
                                column.eq(column + 1),
                                complete.eq(complete | (column == self._last_stored_column)),
                            ]
            with m.Case(State.WALK):
                with m.If(self._room):
                    m.d.sync += [
                        walk.column.eq(walk.column + 1),
                        walk.kernel_column.eq(walk.kernel_column - config.column_stride),
                        walk.offset.eq(walk.offset + self._right),
                    ]
                    with m.If((walk.column == self._last_stored_column) | (walk.kernel_column < config.column_stride)):
                        last = (walk.row == self._last_stored_row) | (walk.kernel_row < config.row_stride)
                        m.d.sync += state.eq(Mux(last, State.BYTE, State.FOLLOW))
            with m.Case(State.FOLLOW):
                m.d.sync += [walk.following.eq(walk.word + config.row_words), state.eq(State.STEP)]
            with m.Case(State.STEP):
                m.d.sync += [
                    walk.word.eq(Mux(walk.following == self._end, self._start, walk.following)),
                    walk.row.eq(walk.row + 1),
                    walk.kernel_row.eq(walk.kernel_row - config.row_stride),
                    walk.row_offset.eq(walk.row_offset - config.row_stride_bytes),
                    walk.column.eq(walk.first_column),
                    walk.kernel_column.eq(walk.first_kernel_column),
                    walk.offset.eq(walk.first_offset),
                    state.eq(State.WALK),
                ]
        with m.If(state == State.BYTE):
            m.d.sync += [
                walk.first_column.eq(column),
                walk.first_kernel_column.eq(kernel_column),
                walk.first_offset.eq(offset),
            ]

    def _build_writes(self, m: Module) -> None:
        """The place of a byte, two additions in as many cycles, and a queue of two in front of the buffer."""
        word_bits, lane_bits = len(self.o_address), len(self.o_lane)
        self._walk = walk = Signal(
            data.StructLayout(
                {
                    "byte": 8,
                    "row": COUNT_WIDTH,
                    "word": word_bits,
                    "following": word_bits + 1,
                    "kernel_row": signed(10),
                    "row_offset": self._offset_width,
                    "column": COUNT_WIDTH,
                    "kernel_column": signed(10),
                    "offset": self._offset_width,
                    "first_column": COUNT_WIDTH,
                    "first_kernel_column": signed(10),
                    "first_offset": self._offset_width,
                }
            ),
            reset_less=True,
        )
        write = data.StructLayout({"lane": lane_bits, "address": word_bits, "byte": 8})
        inside, first, second = (Signal(write, reset_less=True) for _ in range(3))
        base = Signal(word_bits + lane_bits, reset_less=True)
        offset = Signal(word_bits + lane_bits, reset_less=True)
        byte = Signal(8, reset_less=True)
        started, valid, waits = Signal(), Signal(), Signal()
        self._room, self._writing = Signal(), Signal()
        m.d.comb += [
            self._room.eq(~waits),
            self._writing.eq(started | valid | waits),
            inside.eq(Cat(base + offset)[: word_bits + lane_bits]),
            inside.byte.eq(byte),
            self.o_valid.eq(valid),
            self.o_address.eq(first.address),
            self.o_lane.eq(first.lane),
            self.o_byte.eq(first.byte),
        ]
        with m.If(self._room):
            m.d.sync += [
                started.eq(self._state == State.WALK),
                base.eq(Cat(walk.row_offset[:lane_bits], walk.word + walk.row_offset[lane_bits:])),
                offset.eq(walk.offset),
                byte.eq(walk.byte),
            ]
        with m.If(~valid | self.i_ready):
            m.d.sync += [valid.eq(waits | started), first.eq(Mux(waits, second, inside)), waits.eq(0)]
        with m.Elif(self._room):
            m.d.sync += [second.eq(inside), waits.eq(started)]
