"""Pass: which depthwise convolutions run in the lanes' depthwise mode, and as what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emberline.arch.architecture import Architecture
from emberline.arch.isa import MAX_DEPTHWISE_ROWS, MAX_PAIR_ROWS
from emberline.arch.latency import minimum_idle
from emberline.compiler.rows import Access, Placement, Pooling, RowOperation, Weights
from emberline.compiler.weights import Run

if TYPE_CHECKING:
    from emberline.compiler.lower import Window

_MAX_SKIPPED = 15
"""Columns before the first result of a word that the instruction can skip."""


def plan_depthwise(
    window: Window, placements: Iterable[Placement], architecture: Architecture, *, pairs: bool = True
) -> Run | None:
    """The run of a convolution in depthwise mode; ``None`` where the mode cannot have it, or would be slower.

    Parameters:
        placements: of all maps: whole words are written, so nobody else may have what fills the last one.
        pairs: its weights serve ROWs that compute two rows too, where those are faster.
    """
    channels, rows, columns, depth = window.kernel.values.shape
    if depth != 1 or window.kernel.groups != channels or rows > MAX_DEPTHWISE_ROWS:
        return None
    if columns > architecture.depthwise_columns or window.dilation[1] != 1 or window.stride[1] > 15:
        return None
    per_word, target = architecture.groups_per_word, window.target
    words = -(-target.layout.groups // per_word)
    if words > 1 and per_word * architecture.parameter_words > _MAX_SKIPPED:
        return None
    first = _first_word(window, architecture)
    if first is None or first + words > window.source.storage.pixel_words:
        return None
    filling = range(target.group_offset + target.layout.groups, target.group_offset + words * per_word)
    if any(each.storage is target.storage and _meets(each, filling) for each in placements):
        return None
    ordinary = window.columns * target.layout.groups * max(rows * columns, _pace(architecture.lanes_out, architecture))
    if plan_walk(window, rows, words, architecture).cycles > ordinary:
        return None
    taps = pair_taps(window, words, architecture) if pairs else rows
    return Run(0, words * per_word, first, words, _spread(window, words, taps, architecture), depthwise=True)


def pair_taps(window: Window, words: int, architecture: Architecture) -> int:
    """Source rows that two neighbouring rows of results need, or those of one where two at once are not faster."""
    rows, stride = window.kernel.values.shape[1], window.stride[0]
    taps = rows + stride
    if not architecture.pairs_rows or window.dilation[0] != 1 or taps > MAX_PAIR_ROWS:
        return rows
    pair = plan_walk(window, taps, words, architecture, pair=True)
    return taps if pair.cycles < 2 * plan_walk(window, rows, words, architecture).cycles else rows


def entering_columns(window: Window) -> int:
    """Columns of a row that pass along the lanes, padding included."""
    return (window.columns - 1) * window.stride[1] + window.kernel.values.shape[2]


@dataclass(frozen=True)
class Walk:
    """How the columns of a row pass along the lanes.

    Parameters:
        lead: columns of padding that pass once before the first word, not before each.
        before: columns of padding more than the kernel needs before each word, while its parameters are loaded.
        columns: columns of each word. ``cycles``: of them all.
    """

    lead: int
    before: int
    columns: int
    cycles: int


def plan_walk(window: Window, rows: int, words: int, architecture: Architecture, *, pair: bool = False) -> Walk:
    """The fastest walk of ``words`` words in a row with ``rows`` source rows, which give one row or a pair."""
    width, entering = window.kernel.values.shape[2], entering_columns(window)
    left = window.padding.left
    right = entering - left - window.width
    loading = -(-architecture.groups_per_word * architecture.parameter_words // rows) if words > 1 else 0
    walks = []
    for lead in range(max(0, min(left, right)) + 1 if words > 1 else 1):
        before = max(0, loading - (width - 1 - lead))
        if before and lead:
            break
        columns = entering - lead + before
        pace = rows + minimum_idle(architecture, rows, columns, add=False, copy=pair, depthwise=True)
        walks.append(Walk(lead, before, columns, (words * columns + lead) * pace))
    return min(walks, key=lambda walk: walk.cycles)


def as_depthwise(
    operation: RowOperation, window: Window, architecture: Architecture, *, pair: bool = False
) -> RowOperation:
    """The row operation of a depthwise run, made from the one that has its kernel columns as taps.

    Parameters:
        pair: it computes the next row too; ``kernel_rows`` are those of both.
    """
    kernel_columns, words = window.kernel.values.shape[2], operation.channel_words
    walk = plan_walk(window, operation.kernel_rows, words, architecture, pair=pair)
    target = operation.target
    moved = walk.before - walk.lead
    return replace(
        operation,
        depthwise=True,
        pixel_step=operation.tap_step,
        kernel_columns=1,
        channel_words=1,
        groups=words,
        columns=walk.columns,
        pad_words=operation.pad_words + moved * operation.tap_step,
        lead=walk.lead,
        first_tap=operation.first_tap // (kernel_columns * words),
        copy=Access(target.storage, target.row + 1, target.words, target.groups),
        pooling=Pooling(1, window.stride[1], kernel_columns - 1 + moved, operation.columns, combine=0, copy=int(pair)),
    )


def pair_rows(
    operations: Sequence[RowOperation], window: Window, architecture: Architecture
) -> list[tuple[int, RowOperation]]:
    """Operations for two rows each, with the index of the first one: of neighbours that have all their kernel rows.

    Parameters:
        operations: of all rows of a depthwise run from the top, as `as_depthwise` takes them.
    """
    rows = window.kernel.values.shape[1]
    taps = operations[0].weights.words.shape[1]
    whole = [index for index, each in enumerate(operations) if each.kernel_rows == rows] if taps > rows else []
    return [
        (index, as_depthwise(replace(operations[index], kernel_rows=taps), window, architecture, pair=True))
        for index in whole[: len(whole) // 2 * 2 : 2]
    ]


def _pace(lanes: int, architecture: Architecture) -> int:
    """Cycles in which the requantisers take this many results."""
    return lanes // architecture.requantisers


def _first_word(window: Window, architecture: Architecture) -> int | None:
    """The word of the source pixel that becomes the target's first, if all channels keep their bytes."""
    positions = zip(window.kernel.positions, window.target.layout.positions, strict=True)
    word, rest = divmod(min(source - target for source, target in positions), architecture.lanes_in)
    moved = (word * architecture.lanes_in + position for position in window.target.layout.positions)
    aligned = window.target.group_offset % architecture.groups_per_word == 0
    return word if aligned and rest == 0 and word >= 0 and list(moved) == list(window.kernel.positions) else None


def _meets(placement: Placement, groups: range) -> bool:
    first = placement.group_offset
    return bool(groups) and first < groups.stop and groups.start < first + placement.layout.groups


def _spread(window: Window, words: int, taps: int, architecture: Architecture) -> Weights:
    """Weight words ``[words, taps, lanes_out, lanes_in]``: lane ``j`` has the kernel's ``j``-th last column.

    With more taps than the kernel has rows, the lanes behind have it too, for the next row of results: ``stride`` taps
    later. A ROW that computes one row uses the first taps, and what those lanes have is not looked at.
    Words that are all alike, as those of an average, are one.
    """
    values = window.kernel.values
    rows, columns = values.shape[1:3]
    image = np.zeros((words, taps, architecture.lanes_out, architecture.lanes_in), np.int8)
    for channel, position in enumerate(window.target.layout.positions):
        word, byte = divmod(position, architecture.lanes_in)
        kernel = values[channel, :, ::-1, 0]
        image[word, :rows, :columns, byte] = kernel
        if taps > rows:
            second = architecture.depthwise_columns
            image[word, taps - rows :, second : second + columns, byte] = kernel
    return Weights(image[:1] if (image == image[:1]).all() else image)
