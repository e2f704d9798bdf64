"""What the passes hand to each other: where maps lie, and the row operations in their order of execution.

A *storage* is a rectangle of pixels in the activation buffer. A *placement* says which bytes of a storage's pixels
are the channels of a feature map; several maps may share a storage (the parts of a concatenation, a sum in the place
of its operand). A *row operation* is a ``ROW`` instruction whose addresses are still symbolic: rows of storages.
The list of row operations is the schedule; nothing behind it depends on how they were ordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from emberline.arch.frame_rows import FrameRows


class Role(Enum):
    """What a storage is for."""

    FRAME = "frame"
    MAP = "map"
    RESULT = "result"


@dataclass(eq=False)
class Storage:
    """Rows of pixels in the activation buffer; all lengths but ``start`` are known before allocation.

    Parameters:
        name: of the first map that it holds.
        height: rows of the map, or stored rows of a frame, of which ``ring_rows`` may be more or fewer.
        width, pixel_words: pixels of a row, words of a pixel.
        ring_rows: rows that are kept; row ``y`` lies at ``y % ring_rows``.
        start: first group, word aligned; set by the allocator.
        link: which rows of the link a frame's rows are made of; of other storages none.
    """

    name: str
    role: Role
    height: int
    width: int
    pixel_words: int
    ring_rows: int
    start: int = -1
    link: FrameRows | None = None

    @property
    def frame_rows(self) -> FrameRows:
        """A frame's ``link``."""
        assert self.link is not None, f"'{self.name}' is no frame"
        return self.link

    @property
    def row_words(self) -> int:
        return self.width * self.pixel_words

    @property
    def words(self) -> int:
        return self.ring_rows * self.row_words


@dataclass(frozen=True)
class Layout:
    """Which bytes of ``groups`` consecutive groups are a map's channels, in the channels' order."""

    positions: tuple[int, ...]
    groups: int

    @staticmethod
    def dense(channels: int, lanes_out: int) -> Layout:
        return Layout(tuple(range(channels)), -(-channels // lanes_out))


@dataclass(frozen=True, eq=False)
class Placement:
    """A map's place: ``layout`` starting ``group_offset`` groups into each pixel of ``storage``."""

    storage: Storage
    group_offset: int
    layout: Layout

    def bytes_in_pixel(self, lanes_out: int) -> tuple[int, ...]:
        """The byte of each channel within a pixel of the storage."""
        return tuple(self.group_offset * lanes_out + position for position in self.layout.positions)


@dataclass(frozen=True, eq=False)
class Access:
    """A row of a storage, ``words`` words and ``groups`` groups into it."""

    storage: Storage
    row: int
    words: int = 0
    groups: int = 0


@dataclass(frozen=True)
class Addition:
    """The ``ADD`` fields that are numbers: zero points, clamp, multipliers and shifts."""

    residual_zero: int
    sum_zero: int
    sum_min: int
    sum_max: int
    result_multiplier: int
    result_shift: int
    residual_multiplier: int
    residual_shift: int
    sum_multiplier: int
    sum_shift: int


@dataclass(frozen=True)
class Pooling:
    """The ``POOL`` fields that are numbers: a maximum along the row takes the place of the results."""

    pool_window: int
    pool_stride: int
    pool_first: int
    pool_columns: int
    combine: int
    copy: int


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of consecutive groups as the lanes read them: int8 ``[groups, taps, lanes_out, lanes_in]``.

    With ``hold`` there is one tap, which serves all taps of the kernel; one group serves all groups. Equal contents
    share their memory.
    """

    words: NDArray[np.int8]
    hold: bool = False


@dataclass(frozen=True, eq=False)
class Parameters:
    """Requantisation of ``groups * lanes_out`` output channels: int64 arrays in the ranges of ``isa.PARAMETERS``."""

    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    left_shift: NDArray[np.int64]
    right_shift: NDArray[np.int64]


@dataclass(eq=False)
class RowOperation:
    """One ``ROW``: see ``emberline.arch.isa`` for the fields, ``emit`` for what becomes of the accesses.

    Parameters:
        layer: the name that messages and tables show.
        step: which step of the schedule it belongs to; its pointers are shared by the operations of one step.
        source: first kernel row, at the first word that is read.
        source_rows: map rows from one kernel row to the next.
        first_tap: index of the first executed tap in each group of ``weights``.
        depthwise: in the lanes' depthwise mode; ``groups`` counts words, ``lead`` columns before the first one.
        target_pixels: pixels of the target from one that is written to the next.
        rows: of the map, one behind the other as one long row of ``columns`` pixels: ``long_rows``.
        residual, addition: both or none; likewise ``copy``, ``pooling``, which exclude them.
    """

    layer: str
    step: int
    source: Access
    source_rows: int
    row_words: int
    pad_words: int
    pixel_step: int
    tap_step: int
    kernel_rows: int
    kernel_columns: int
    channel_words: int
    source_zero: int
    target: Access
    columns: int
    groups: int
    target_zero: int
    clamp_min: int
    clamp_max: int
    weights: Weights
    first_tap: int
    parameters: Parameters
    residual: Access | None = None
    addition: Addition | None = None
    copy: Access | None = None
    pooling: Pooling | None = None
    depthwise: bool = False
    lead: int = 0
    target_pixels: int = 1
    rows: int = 1
    wait_rows: int = 0
    release_rows: int = 0
    fence: bool = False
    hold_result: bool = False

    @property
    def accesses(self) -> list[tuple[str, Access]]:
        """The rows that pointers point to, by their roles; the copy's only where something is copied by some row."""
        roles = (("source", self.source), ("target", self.target), ("residual", self.residual), ("copy", self.copy))
        return [(role, access) for role, access in roles if access is not None]

    @property
    def taps(self) -> int:
        return self.kernel_rows * self.kernel_columns * self.channel_words

    @property
    def computes_pair(self) -> bool:
        """In depthwise mode, two rows at once: the second one is the copy's."""
        return self.depthwise and self.pooling is not None and bool(self.pooling.copy)

    @property
    def stored_columns(self) -> int:
        """Pixels that are written."""
        return self.columns if self.pooling is None else self.pooling.pool_columns

    @property
    def words_read(self) -> int:
        """Words of each source pixel that are read."""
        return self.groups if self.depthwise else self.channel_words

    def groups_written(self, groups_per_word: int) -> int:
        """Groups of each target pixel that are written."""
        return self.groups * groups_per_word if self.depthwise else self.groups

    @property
    def is_padding_only(self) -> bool:
        """Whether the window lies outside its map, so that nothing is read."""
        return self.row_words == 0


@dataclass(frozen=True, eq=False)
class StepRows:
    """The computed rows of a step, from the top, each with its row operations.

    Parameters:
        step, name: which step it is, and what messages call it.
        rows: the operations of every computed row: they follow each other in any schedule.
        source_pitch: source rows from one target row to the next.
        rows_per_target: computed rows for each target row.
        pairs: another way to compute the same, in fewer cycles: most depthwise ROWs of two target rows each.
    """

    step: int
    name: str
    rows: tuple[tuple[RowOperation, ...], ...]
    source_pitch: int | Fraction
    rows_per_target: int | Fraction
    pairs: StepRows | None = None

    @property
    def operations(self) -> Iterator[RowOperation]:
        return (operation for row in self.rows for operation in row)

    @property
    def all_operations(self) -> Iterator[RowOperation]:
        """Of both ways; they share their weights and parameters."""
        yield from self.operations
        if self.pairs is not None:
            yield from self.pairs.operations


@dataclass(frozen=True)
class Stage:
    """Consecutive steps ``first`` to ``end`` of a schedule, whose rows are interleaved.

    Parameters:
        operations: where they begin and end in the schedule.
        how: in words, in which order.
        decides: the layer during which most activation memory is in use.
        activation_words: in use meanwhile, with the frame's rows and without the result.
        cycles, waiting: in all, and those in which rows wait for each other; both before addresses are known.
        weight_bytes: that must be there at once, from the stage's beginning; of a stage in turns, of two steps.
        fetched_bytes: that one frame fetches if the network's weights do not stay in the memory.
        kept: of a stage in turns, the steps whose weights stay for all of it; None of other stages.
    """

    first: int
    end: int
    operations: tuple[int, int]
    how: str
    decides: str
    activation_words: int
    cycles: int
    waiting: int
    weight_bytes: int
    fetched_bytes: int
    kept: frozenset[int] | None = None


@dataclass
class Schedule:
    """Row operations in execution order, the storages that they use, and the stages that the order consists of.

    Parameters:
        frame_until: the operation before which the frame's last rows are not released, as maps lie in its ring when
            it has been read; 0: they are released when they have been read.
    """

    operations: list[RowOperation]
    frame: Storage
    storages: list[Storage] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    frame_until: int = 0

    def turns(self) -> list[int]:
        """A number for every operation: those of one step with the same number share their pointers, and their weights
        but for those that a stage keeps. It is the turn in a stage in turns, and 0 elsewhere."""
        numbers = [0] * len(self.operations)
        for stage in self.stages:
            begin, end = stage.operations
            for index in range(begin + 1, end) if stage.kept is not None else ():
                ends = self.operations[index].step != self.operations[index - 1].step
                numbers[index] = numbers[index - 1] + ends
        return numbers
