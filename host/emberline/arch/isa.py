"""The instruction set: layouts of the instructions and of the requantisation parameters.

A program is a list of 32-bit words in the instruction memory. It runs from word 0: a prologue that is executed once
(``FRAME``, ``RESULT``, ``SET``), then ``BEGIN`` … ``END``, executed once per frame. Instructions have one to
twenty words; the opcode is in the low four bits of the first.

**Addresses** of the activation buffer count *groups* (``lanes_out`` bytes); a *word* (``lanes_in`` bytes) is
``groups_per_word`` groups. Source addresses are word aligned. Steps along the source row count words, steps along a
target or residual row count groups.

**Pointers**: sixteen registers, each an address in groups. A ``ROW`` takes a row's address from a pointer and leaves
the pointer ``step`` further, wrapped into the ring ``[start, end)``: ``p = p + step; if p >= end: p -= end - start``.
A feature map in a ring buffer therefore needs no address arithmetic in the program, and a loop body stays the same
from row to row. Pointers keep their value from frame to frame.

**ROW** computes one row of output pixels (`docs/isa.md` has the pseudo-code)::

    for group in range(groups):
        load requantisation parameters from weights[parameter_address + group * parameter_words ...]
        for column in range(columns):
            sums[lanes_out] = 0; w = weight_address + group * weight_step
            for ky in range(kernel_rows):          # source row: source + ky * row_step, wrapped into the source ring
                for kx in range(kernel_columns):
                    for c in range(channel_words):
                        offset = column * pixel_step + kx * tap_step + c - pad_words
                        word = activation[row + offset] if 0 <= offset < row_words else source_zero in every lane
                        sums += weights[w] @ word;  w += 0 if hold_weight else 1
            result = clamp(requantise(sums + bias) + target_zero)
            if add: result = residual addition with activation[residual + group + column * residual_pixel_step]
            if not pool: activation[target + group + column * target_pixel_step] = result
        if pool:                                   # maxima along the row take its place
            for p in range(pool_columns):
                last = min(pool_first + p * pool_stride, columns - 1)
                peak = max(results of columns max(0, pool_first + p * pool_stride - pool_window + 1) .. last)
                if copy: activation[copy_pointer's row + group + p * target_pixel_step] = peak
                if combine: peak = max(peak, activation[target + group + p * target_pixel_step])
                activation[target + group + p * target_pixel_step] = peak

A **depthwise** ROW (``depthwise`` is 1, ``kernel_columns`` and ``channel_words`` are 1, ``groups`` counts words)
multiplies channel by channel. The columns of the row pass along the first ``depthwise_columns`` lanes of the
architecture: while lane 0 has one, lane ``j`` has the one ``j`` columns before it. A kernel is as wide as its last lane
whose weights are not zero; lane ``j`` holds its column ``kernel width - 1 - j``, channel ``i`` in byte ``i``::

    the padding passes along the lanes as `lead` columns, and gives no result
    for word in range(groups):
        load the requantisation parameters of groups_per_word groups
            from weights[parameter_address + word * groups_per_word * parameter_words ...]
        for column in range(columns):
            sums[lanes_in] = 0; w = weight_address + word * weight_step
            for ky in range(kernel_rows):          # source row as above
                for j in range(depthwise_columns): # columns before -lead are not defined
                    offset = (column - j) * pixel_step + word - pad_words
                    sums += weights[w + ky][lane j] * (activation[row + offset] or the padding, as above)
            result = clamp(requantise(sums + bias) + target_zero)           # groups_per_word groups
            activation[target + word * groups_per_word + column * target_pixel_step ...] = result

With ``copy``, on a machine that ``pairs_rows``, a depthwise ROW computes two rows: lane ``depthwise_columns + j`` has
the column that lane ``j`` has and adds to a second result, requantised as the first, that goes to the copy pointer's
row. ``kernel_rows`` then are the source rows of both, up to ``MAX_PAIR_ROWS``; weights are zero where a row of results
does not need one.

So every column that enters gives a result; ``pool`` with ``pool_window`` 1 stores those of whole windows:
``pool_first`` is the kernel width less 1, ``pool_stride`` the convolution's stride. Two things are saved from word to
word: the last ``lead`` columns of each word lie behind the row, so that they are the padding left of the next one; and
the parameters of each word but the first are loaded during its first taps, whose results are therefore not stored:
``pool_first * kernel_rows`` is at least ``parameter_words * groups_per_word``, if there are several words.

**FRAME** says how the frame is stored: a *stored pixel* is a window of ``kernel_rows`` x ``kernel_columns`` pixels of
the link in ``pixel_words`` words, so that a first convolution with few channels finds its taps side by side::

    for s in range(stored_rows):
        for j in range(stored_columns):
            for ky in range(kernel_rows):
                for kx in range(kernel_columns):
                    y = s * row_stride + ky - pad_rows;  x = j * column_stride + kx - pad_columns
                    pixel = frame[y][x] if inside the frame else [zero] * channels
                    bytes (ky * kernel_columns + kx) * channels ... of stored pixel [s][j] = pixel

``wait_rows`` and ``release_rows`` count rows of the link: a stored row can be read when the last of its rows has been
waited for, until the first of them is released (`emberline.arch.frame_rows`).

**LOAD** fetches compressed weights (`emberline.arch.weight_code`; its first block brings its own tables) while rows are
computed. The sequencer does not wait for it: it goes into a queue of ``LOAD_QUEUE``, and only a full one is waited for.
A LOAD *starts* when the LOAD before it is complete and every ROW before it in program order has been walked, so that
it may overwrite what those read. It is *complete* ``cycles`` after its start, or when its blocks have been decoded,
whichever is later; the cycles beyond ``cycles`` are stalls, as those are in which the link is waited for. A ROW starts
when at most ``loads`` of the LOADs of weights before it are not complete.

**Pages.** A program that is longer than the instruction memory is cut into pages. The first one is there from the start
and stays; it ends with a ``JUMP``, as every page but the last. The others come from where weights come from, by LOADs
with ``page``, whose words are instructions. JUMP waits until every such LOAD before it is complete, and goes on at a
word of the instruction memory: the first one of the page that has come. A *program* is the list of its pages' words,
one page behind the other, so that a JUMP goes on with the word behind it.

Three rows of a 3x3 pool with stride 2: the first stores its maxima, the second combines with them, the third combines
and copies, which begins the next pooled row.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from emberline.arch.layout import Field, Layout

POINTER_COUNT = 16
LOOP_DEPTH = 2
LOAD_QUEUE = 4
"""LOADs that may wait for their start, the one that is under way included."""
NO_WAIT = 15
"""``loads`` of a ROW that waits for no LOAD."""
MAX_POOL_WINDOW = 3
"""Columns of the widest maximum that is taken on the way into the buffer."""
MAX_DEPTHWISE_ROWS = 3
"""Kernel rows of a depthwise ROW."""
MAX_PAIR_ROWS = 5
"""Source rows of a depthwise ROW that computes two rows: those of a 3x3 kernel with stride 2."""
ADDRESS_WIDTH = 20
"""Bits of an activation address in groups."""


class Opcode(enum.IntEnum):
    """The low four bits of an instruction's first word."""

    END = 0
    SET = 1
    LOOP = 2
    NEXT = 3
    BEGIN = 4
    FRAME = 5
    RESULT = 6
    ROW = 7
    LOAD = 8
    JUMP = 9


_OPCODE = Field("opcode", 4)


def _address(name: str, doc: str) -> Field:
    return Field(name, ADDRESS_WIDTH, doc=doc)


END = Layout("END", (_OPCODE,))
SET = Layout("SET", (_OPCODE, Field("pointer", 4, doc="which pointer"), _address("value", "its new value")))
LOOP = Layout("LOOP", (_OPCODE, Field("count", 16, doc="how often the body runs, at least 1")))
NEXT = Layout("NEXT", (_OPCODE,))
BEGIN = Layout("BEGIN", (_OPCODE, Field("wait_rows", 12, doc="rows of the link that must have arrived")))
FRAME = Layout(
    "FRAME",
    (
        _OPCODE,
        Field("channels", 12, doc="bytes of one pixel on the link"),
        Field("columns", 12, doc="pixels of one row on the link"),
        Field("rows", 12, doc="rows of one frame on the link"),
        Field("held_rows", 12, doc="rows of the link that the ring has room for"),
        Field("zero", 8, signed=True, doc="what lies around the frame: its zero point"),
        Field("pad_rows", 8, doc="rows of it above the frame"),
        Field("pad_columns", 8, doc="columns of it left of the frame"),
        Field("kernel_rows", 8, doc="rows of a stored pixel's window"),
        Field("kernel_columns", 8, doc="columns of a stored pixel's window"),
        Field("row_stride", 8, doc="rows from one stored row's window to the next"),
        Field("column_stride", 8, doc="columns from one stored pixel's window to the next"),
        Field("stored_rows", 12, doc="stored rows of one frame"),
        Field("stored_columns", 12, doc="stored pixels of one row"),
        Field("pixel_words", 12, doc="words of a stored pixel: enough for its window"),
        Field("kernel_row_bytes", 16, doc="kernel_columns * channels"),
        Field("column_stride_bytes", 16, doc="column_stride * channels"),
        Field("row_stride_bytes", 16, doc="row_stride * kernel_row_bytes"),
        Field("row_words", 16, doc="stored_columns * pixel_words"),
        _address("start", "first group of the frame ring"),
        _address("end", "first group behind it: whole stored rows later"),
    ),
)
RESULT = Layout(
    "RESULT",
    (_OPCODE, _address("start", "first group of the result, word aligned"), Field("words", 16, doc="words to send")),
)
ROW = Layout(
    "ROW",
    (
        _OPCODE,
        Field("add", 1, doc="a residual addition follows the requantisation; the instruction has the ADD fields"),
        Field("pool", 1, doc="maxima are stored instead of the results; the instruction has the POOL fields"),
        Field("fence", 1, doc="wait until every earlier ROW has written its last group"),
        Field("hold_result", 1, doc="wait until the previous frame's result has been released"),
        Field("hold_weight", 1, doc="every tap uses the group's first weight word (pooling)"),
        Field("depthwise", 1, doc="channel by channel: each lane multiplies another column of the kernel"),
        Field("wait_rows", 12, doc="rows of the link that must have arrived and not been released"),
        Field("release_rows", 8, doc="rows of the link that are no longer needed once this ROW has read"),
        Field("source_pointer", 4, doc="pointer to the first source row"),
        _address("source_step", "how far that pointer moves"),
        _address("source_start", "first group of the source ring"),
        _address("source_end", "first group behind the source ring"),
        _address("row_step", "groups from one kernel row to the next"),
        Field("row_words", 16, doc="words of the source row, counted from the pointer; padding lies outside"),
        Field("pad_words", 12, doc="words of padding left of the row"),
        Field("pixel_step", 12, doc="words from one output column's window to the next"),
        Field("tap_step", 12, doc="words from one kernel column to the next"),
        Field("kernel_rows", 8, doc="at least 1"),
        Field("kernel_columns", 8, doc="at least 1"),
        Field("channel_words", 12, doc="words of one pixel that are multiplied, at least 1"),
        Field("source_zero", 8, signed=True, doc="value of the padding"),
        Field("target_pointer", 4, doc="pointer to the target row"),
        _address("target_step", "how far that pointer moves"),
        _address("target_start", "first group of the target ring"),
        _address("target_end", "first group behind the target ring"),
        Field("target_pixel_step", 12, doc="groups from one target pixel to the next"),
        Field("columns", 12, doc="target pixels, at least 1"),
        Field("groups", 12, doc="groups of each target pixel that are computed, words if depthwise; at least 1"),
        Field("target_zero", 8, signed=True, doc="output zero point of the requantisation"),
        Field("clamp_min", 8, signed=True, doc="smallest requantised value"),
        Field("clamp_max", 8, signed=True, doc="largest requantised value"),
        Field("weight_address", 16, doc="first weight word of group 0"),
        Field("weight_step", 16, doc="weight words from one group to the next"),
        Field("parameter_address", 16, doc="first parameter word of group 0"),
        Field("idle", 16, doc="cycles without a tap before each target pixel: at least `latency.minimum_idle`"),
        Field("lead", 4, doc="columns of padding before the first word of a depthwise ROW, less than `columns`"),
        Field("loads", 4, doc="start when at most so many LOADs of weights before it are not complete; 15: at once"),
    ),
)
LOAD = Layout(
    "LOAD",
    (
        _OPCODE,
        Field(
            "source",
            24,
            doc="byte address of the first block in the flash, a multiple of 4; over the link the order decides",
        ),
        Field("length", 24, doc="bytes of all blocks, a multiple of 4"),
        Field("address", 16, doc="first word that is written, of the weight memory or the instruction memory"),
        Field("words", 16, doc="words that are written, at least 1"),
        Field(
            "cycles",
            24,
            doc="how long it takes, at least: what the compiler announces for the known rate of the source",
        ),
        Field("check", 32, doc="the check words of all blocks, combined by exclusive or"),
        Field("page", 1, doc="the words are instructions, not weights"),
    ),
)
JUMP = Layout("JUMP", (_OPCODE, Field("address", 16, doc="word of the instruction memory that is executed next")))
ADD = Layout(
    "ADD",
    (
        Field("residual_pointer", 4, doc="pointer to the residual row"),
        _address("residual_step", "how far that pointer moves"),
        _address("residual_start", "first group of the residual ring"),
        _address("residual_end", "first group behind the residual ring"),
        Field("residual_pixel_step", 12, doc="groups from one residual pixel to the next"),
        Field("residual_zero", 8, signed=True, doc="zero point of the residual"),
        Field("sum_zero", 8, signed=True, doc="zero point of the sum"),
        Field("sum_min", 8, signed=True, doc="smallest sum"),
        Field("sum_max", 8, signed=True, doc="largest sum"),
        Field("result_multiplier", 31, doc="scales the requantised result (its zero point is target_zero)"),
        Field("result_shift", 5, doc="right shift after it"),
        Field("residual_multiplier", 31, doc="scales the residual"),
        Field("residual_shift", 5, doc="right shift after it"),
        Field("sum_multiplier", 31, doc="scales the sum"),
        Field("sum_shift", 5, doc="right shift after it"),
    ),
)
"""The words that follow a ROW whose ``add`` is 1."""

POOL = Layout(
    "POOL",
    (
        Field("copy_pointer", 4, doc="pointer to the row that the copy goes to; not the target's"),
        _address("copy_step", "how far that pointer moves"),
        _address("copy_start", "first group of the copy's ring"),
        _address("copy_end", "first group behind the copy's ring"),
        Field("pool_window", 4, doc="columns of a maximum, 1 to MAX_POOL_WINDOW"),
        Field("pool_stride", 4, doc="columns from one maximum to the next, at least 1"),
        Field("pool_first", 4, doc="columns before the last of the first window: window - 1 - left padding"),
        Field("pool_columns", 12, doc="maxima of a row; only the last may reach beyond it"),
        Field("combine", 1, doc="the maximum with what the target holds is stored"),
        Field("copy", 1, doc="the row's own maximum, or a depthwise ROW's second row, goes to the copy pointer's row"),
    ),
)
"""The words that follow a ROW whose ``pool`` is 1; ``add`` and ``pool`` exclude each other. The pointer fields lie
where ADD has its own. The copy pointer is moved even if ``copy`` is 0."""

LAYOUTS: dict[Opcode, Layout] = {
    Opcode.END: END,
    Opcode.SET: SET,
    Opcode.LOOP: LOOP,
    Opcode.NEXT: NEXT,
    Opcode.BEGIN: BEGIN,
    Opcode.FRAME: FRAME,
    Opcode.RESULT: RESULT,
    Opcode.ROW: ROW,
    Opcode.LOAD: LOAD,
    Opcode.JUMP: JUMP,
}


def row_word_count(row: Mapping[str, int]) -> int:
    """Words of a ROW instruction, from its own fields."""
    return ROW.word_count + (ADD.word_count if row["add"] else POOL.word_count if row["pool"] else 0)


PARAMETERS = Layout(
    "PARAMETERS",
    (
        Field("bias", 32, signed=True, doc="int32 bias, input zero point folded in"),
        Field("multiplier", 31, doc="requantisation multiplier, Q0.31"),
        Field("reserved", 1, doc="zero"),
        Field("left_shift", 8, doc="left shift before the multiplication, 0 to 31"),
        Field("right_shift", 8, doc="rounding right shift after it, 0 to 31"),
    ),
)
"""Requantisation parameters of one output channel, in its lane's weight memory: the first 10 bytes, little endian,
of ``parameter_words`` weight words; the other bytes are zero."""


class Fault(enum.IntEnum):
    """Why a machine stopped by itself."""

    NONE = 0
    OPCODE = 1
    """An instruction word with an unknown opcode."""
    LOOP = 2
    """``LOOP`` nested deeper than ``LOOP_DEPTH``, or ``NEXT`` without ``LOOP``."""
    ADDRESS = 3
    """The program ran past the end of the instruction memory."""
    FLASH_ABSENT = 4
    """A LOAD, and the flash answers with zeros or ones only."""
    FLASH_UNKNOWN = 5
    """A LOAD, and it is not known how to read this flash with four lines."""
    FLASH_QUAD = 6
    """A LOAD, and the flash does not keep the bit that allows four lines."""
    WEIGHTS = 7
    """A LOAD's blocks are malformed, do not match their checks, or are more or fewer words than it names."""
    WEIGHTS_CHECK = 8
    """A LOAD's blocks are whole, but not those of this program."""
    FLASH_RATE = 9
    """A LOAD at double rate, and this flash is not known to have that."""
    FLASH_TIMING = 10
    """A LOAD, and at no time after the flash's clock its data are those of a slow read."""
