"""The pipeline's latencies, and the pace at which it takes pixels.

`tests/unit/test_timing.py` holds them against the gateware's.
"""

from __future__ import annotations

from emberline.arch import compact_timing
from emberline.arch.architecture import Architecture

_MULTIPLIER = 3
_PRODUCT = 1 + _MULTIPLIER + 2
_RESCALER = _MULTIPLIER + 8
_CLAMP = 5
_REQUANTISER = 4 + _RESCALER + _CLAMP
_ISSUE_TO_LANE = 3 + 5 + 1
_POOLER = 7
_MEET = 2
_COMBINER = _MEET + 2
_MERGE = 1
_WRITER = 2

_ROW_GAP = 3
"""Cycles from a ROW's last group to the next one's first, at least: the writer takes its settings in between."""

TAKEN = _COMBINER + _MERGE + _WRITER
"""Cycles from a group that was read to its write, at most."""


def _log2(value: int) -> int:
    return value.bit_length() - 1


def sum_latency(architecture: Architecture) -> int:
    """Cycles from an activation word at a lane to the accumulator: multiply, fabric register, adder tree, add."""
    return _PRODUCT + _log2(architecture.lanes_in) + 1


def depthwise_latency(architecture: Architecture) -> int:
    """Cycles from a depthwise tap at a lane to that lane's sum of the word's first group.

    Multiply, fabric register, add along the lanes, accumulate, hand over; not earlier than an ordinary sum. Where a ROW
    can compute two rows, those of the first wait so long that those of the second, whose lanes come later, follow them.
    """
    waits = max(0, architecture.depthwise_columns - _word_share(architecture)) if architecture.pairs_rows else 0
    return max(_PRODUCT + architecture.depthwise_columns + waits + 2, sum_latency(architecture))


def _word_share(architecture: Architecture, pair: bool = False) -> int:
    """Cycles in which the requantisers take a depthwise word, or those of two rows."""
    return (1 + pair) * architecture.lanes_in // architecture.requantisers


def depthwise_tail(architecture: Architecture, pair: bool = False) -> int:
    """Cycles for which the lanes wait behind a depthwise ROW, so that no result overtakes its last ones.

    Parameters:
        pair: the ROW computes two rows.
    """
    share = architecture.lanes_out // architecture.requantisers
    following = 1 + architecture.parameter_words + share + sum_latency(architecture)
    gap = max(0, _ROW_GAP - share)
    return max(0, depthwise_latency(architecture) + _word_share(architecture, pair) + gap - following)


def addition_latency(architecture: Architecture) -> int:
    """Cycles of a group in the residual adder."""
    return 1 + (1 + 5 + 1 + 3) + 1 + _RESCALER + _CLAMP + architecture.lanes_out // architecture.adders


def stages(architecture: Architecture) -> dict[str, int]:
    """The cycles of each stage from a ROW's last tap to the write of its last group, without an addition."""
    return {
        "issuer, activation buffer, padding: to the first lane": _ISSUE_TO_LANE,
        "from lane to lane: to the last one": architecture.lanes_out - 1,
        "multiply, adder tree, accumulate": sum_latency(architecture),
        "requantise: queue, multiply, round, clamp": _REQUANTISER,
        "maximum along the row": _POOLER,
        "combine with what the target holds": _COMBINER,
        "a sum or a result: to the writer": _MERGE,
        "address of the write": _WRITER,
    }


def write_latency(architecture: Architecture, *, add: bool = False, copy: bool = False, depthwise: bool = False) -> int:
    """Cycles from a ROW's last tap to the write of its last group; a depthwise one with ``copy`` computes two rows."""
    extra = _MEET + addition_latency(architecture) - _COMBINER if add else 0
    extra += _parameter_use(architecture, copy) - sum_latency(architecture) if depthwise else copy
    return sum(stages(architecture).values()) + extra


def _parameter_use(architecture: Architecture, pair: bool = False) -> int:
    """Cycles from a group's last tap at a lane to the last sum that uses its parameters."""
    if not architecture.depthwise_columns:
        return sum_latency(architecture)
    share = architecture.lanes_out // architecture.requantisers
    return depthwise_latency(architecture) + _word_share(architecture, pair) - share


def minimum_idle(
    architecture: Architecture,
    taps: int,
    columns: int,
    add: bool,
    copy: bool = False,
    combine: bool = False,
    stride: int = 1,
    depthwise: bool = False,
) -> int:
    """The least ``idle`` of a ROW with ``taps`` taps in each of ``columns`` pixels.

    Four things need time from pixel to pixel: a requantiser takes ``lanes_out / requantisers`` cycles for a group, and
    as many for each group of a depthwise word, or two words' with ``copy``; the residual adder ``lanes_out / adders``;
    the activation buffer's shared port one for each group that is written, copied, or read to be added or combined,
    every ``stride`` pixels of a pooled ROW, and a copy always two; and a group's parameters, loaded every other group
    into the same registers, must outlive the sums on their way, be they of this ROW or of a depthwise one before it.
    """
    if architecture.compact:
        return max(compact_timing.window_cycles(add), compact_timing.pixel_cycles(architecture, add) - taps)
    if depthwise:  # the requantisers give no more groups than the port takes
        shortest = _word_share(architecture, copy)
    elif add:
        shortest = max(architecture.lanes_out // architecture.adders, 2)
    else:
        shortest = max(1 + copy, -(-(1 + copy + combine) // stride))
    pace = max(taps, architecture.lanes_out // architecture.requantisers, shortest)
    if depthwise:
        # Read a cycle before the sum is there, and replaced at the end of the first tap behind the word in between
        group = _parameter_use(architecture, copy) - 2
    else:
        # Behind a depthwise ROW its tail, and the two cycles of the hand-over, count too.
        rows = (False, True) if architecture.pairs_rows else (False,)
        behind = max(_parameter_use(architecture, pair) - depthwise_tail(architecture, pair) - 2 for pair in rows)
        group = max(sum_latency(architecture), behind) - architecture.parameter_words
    return max(pace, -(-group // columns)) - taps
