"""Where the frame writer stores a piece of a pixel: in every stored pixel whose window holds it."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, enum, wiring

from emberline.gateware.pixel_pieces import PIECE, PIECE_BYTES

COUNT_WIDTH = 12


class State(enum.Enum):
    """What the writer does; a register for each. None of them: it has not been configured."""

    START = "a FRAME has come"
    SIZE = "bytes of a row"
    RESTORE = "back to the last commit"
    PAUSE = "counts settle"
    REST = "counts have settled"
    ROW = "waits for a row, or commits"
    LINE = "a row of the frame or of zeros begins"
    TAKEN = "a piece that is stored nowhere has been taken"
    SETTLE = "what the next piece is"
    PIECE = "waits for a piece"
    WALK = "its places in a stored row"
    FOLLOW = "whether the stored row below is the ring's first"
    STEP = "it is the next to be walked"
    ADVANCE = "the row has passed"
    PASS = "which stored row follows"
    NEXT = "whether rows of zeros follow"


class FramePlaces(wiring.Component):
    """The part of `FrameWriter` that walks over a piece's places and writes it there."""

    def _register(self, m: Module, value: Value, name: str, shape: ShapeLike | None = None) -> Signal:
        """``value`` of the cycle before, for what has not changed since."""
        result = Signal(value.shape() if shape is None else shape, name=name, reset_less=True)
        m.d.sync += result.eq(value)
        return result

    def _begin_walk(self, m: Module, columns_after: Signal, kernel_column: Signal, offset: Signal) -> None:
        """State PIECE: the piece, and the place of its first copy."""
        config, place, walk, now = self._config, self._place, self._walk, self._is
        zeros = config.zero.as_unsigned().replicate(PIECE_BYTES)
        row_after = self._register(m, place.kernel_row - config.row_stride, "kernel_row_after", signed(11))
        column_after = self._register(m, kernel_column - config.column_stride, "kernel_column_after", signed(11))
        with m.If(now[State.PIECE]):
            m.d.sync += [
                walk.piece.eq(Mux(self._zero, zeros, self._pieces.o.payload)),
                walk.size.eq(self._size),
                walk.rows_after.eq(place.rows_after),
                walk.word.eq(place.word),
                walk.kernel_row_after.eq(row_after),
                walk.row_offset.eq(place.offset),
                *[
                    walk[f"{prefix}{name}"].eq(value)
                    for prefix in ("", "first_")
                    for name, value in (
                        ("columns_after", columns_after),
                        ("kernel_column_after", column_after),
                        ("offset", offset),
                    )
                ],
            ]

    def _build_walk(self, m: Module) -> None:
        """The places where a piece is stored, stored row by stored row."""
        config, walk, now = self._config, self._walk, self._is
        self._walk_ends, self._walk_last = Signal(), Signal()
        m.d.comb += [
            self._walk_ends.eq(walk.columns_after[-1] | walk.kernel_column_after[-1]),
            self._walk_last.eq(walk.rows_after[-1] | walk.kernel_row_after[-1]),
        ]
        with m.If(now[State.WALK] & self._room):
            m.d.sync += [
                walk.columns_after.eq(walk.columns_after - 1),
                walk.kernel_column_after.eq(walk.kernel_column_after - config.column_stride),
                walk.offset.eq(walk.offset + self._right),
            ]
        # A step comes three cycles after the one before, at the earliest
        following = self._register(m, walk.word + config.row_words, "walk_following", len(self._end))
        wraps = self._register(m, following == self._end, "walk_wraps")
        with m.If(now[State.STEP]):
            m.d.sync += [
                walk.word.eq(Mux(wraps, self._start, following)),
                walk.rows_after.eq(walk.rows_after - 1),
                walk.kernel_row_after.eq(walk.kernel_row_after - config.row_stride),
                walk.row_offset.eq(walk.row_offset - config.row_stride_bytes),
                *[walk[name].eq(walk[f"first_{name}"]) for name in ("columns_after", "kernel_column_after", "offset")],
            ]

    def _build_writes(self, m: Module) -> None:
        """The place of a piece, two additions in as many cycles, and a queue of two in front of the buffer."""
        word_bits, lanes = len(self.o_address), len(self.o_enable)
        lane_bits = (lanes - 1).bit_length()
        sizes = range(PIECE_BYTES + 1)
        self._walk = walk = Signal(
            data.StructLayout(
                {
                    "piece": PIECE,
                    "size": sizes,
                    "rows_after": signed(COUNT_WIDTH + 1),
                    "word": word_bits,
                    "kernel_row_after": signed(11),  # less the stride
                    "row_offset": self._offset_width,
                    **{
                        f"{prefix}{name}": shape
                        for prefix in ("", "first_")
                        for name, shape in (
                            ("columns_after", signed(COUNT_WIDTH + 1)),
                            ("kernel_column_after", signed(11)),
                            ("offset", self._offset_width),
                        )
                    },
                }
            ),
            reset_less=True,
            init={"size": 1},
        )
        write = data.StructLayout({"lane": lane_bits, "address": word_bits, "piece": PIECE, "size": sizes})
        inside, first, second = (Signal(write, reset_less=True, init={"size": 1}) for _ in range(3))
        base = Signal(word_bits + lane_bits, reset_less=True)
        offset = Signal(word_bits + lane_bits, reset_less=True)
        piece, size = Signal(PIECE, reset_less=True), Signal(sizes, reset_less=True, init=1)
        started, valid, waits = Signal(), Signal(), Signal()
        rest = Signal()  # what is left of the first piece lies in the word behind
        done = Signal()
        # The lanes of its bytes: those in its word, behind them those in the next one
        spread = Cat(first.size > index for index in range(PIECE_BYTES)) << first.lane
        turned = [first.piece.as_value().rotate_left(8 * turn) for turn in range(PIECE_BYTES)]
        turn = first.lane[: PIECE_BYTES.bit_length() - 1]
        self._room, self._writing = Signal(), Signal()
        m.d.comb += [
            self._room.eq(~waits),
            self._writing.eq(started | valid | waits),
            inside.eq(Cat(base + offset)[: word_bits + lane_bits]),
            inside.piece.eq(piece),
            inside.size.eq(size),
            done.eq(self.i_ready & (rest | (first.lane + first.size <= lanes))),
            self.o_valid.eq(valid),
            self.o_address.eq(first.address),
            self.o_enable.eq(Mux(rest, spread[lanes : 2 * lanes], spread[:lanes])),
            self.o_bytes.eq(Array(turned)[turn]),
        ]
        with m.If(self._room):
            m.d.sync += [
                started.eq(self._is[State.WALK]),
                base.eq(Cat(walk.row_offset[:lane_bits], walk.word + walk.row_offset[lane_bits:])),
                offset.eq(walk.offset),
                piece.eq(walk.piece),
                size.eq(walk.size),
            ]
        with m.If(~valid | done):
            m.d.sync += [valid.eq(waits | started), first.eq(Mux(waits, second, inside)), waits.eq(0), rest.eq(0)]
        with m.Else():
            with m.If(self._room):
                m.d.sync += [second.eq(inside), waits.eq(started)]
            with m.If(self.i_ready):
                m.d.sync += [rest.eq(1), first.address.eq(first.address + 1)]
