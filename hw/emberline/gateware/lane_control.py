"""What travels along the lanes beside the activations."""

from __future__ import annotations

from amaranth.lib import data
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.gateware import multiplier

CHUNK_WIDTH = 32
"""Bits of one weight write."""

WEIGHT_LATENCY = 3
"""Cycles from a weight address to its word at the multipliers: memory, output register, a register on the way."""

PRODUCT_LATENCY = 1 + multiplier.LATENCY + 2
"""Cycles from an activation word at a lane to its products. A multiplier's place is far from anything: a register on
the way there, two on the way to the adders."""

CONTROL = data.StructLayout(
    {
        "tap": 1,  # the word at this address is multiplied and accumulated
        "first": 1,  # the first tap of a sum
        "last": 1,  # the last tap of a sum
        "rows": 3,  # kernel rows of a depthwise ROW, 0 for any other
        "pair": 1,  # that computes two rows
        "parameter": 1,  # the word at this address holds requantisation parameters
        "parameter_index": 4,  # which of them
        "bank": 1,  # which parameter registers this group of outputs loads and uses
        "context": 1,  # which of the two instructions in flight this belongs to
    }
)
"""What comes with a weight address."""


def weight_write_layout(architecture: Architecture) -> data.StructLayout:
    """A write of four bytes into the weight image: it travels along the lanes until it meets its own."""
    return data.StructLayout(
        {
            "enable": 1,
            "chunk": max(1, ceil_log2(architecture.lanes_in * 8 // CHUNK_WIDTH)),
            "lane": max(1, ceil_log2(architecture.lanes_out)),
            "address": ceil_log2(architecture.weight_depth_words),
            "data": CHUNK_WIDTH,
        }
    )
