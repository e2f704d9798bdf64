"""The rate at which the host's link brings weights: the one that LOADs from there are announced for."""

from __future__ import annotations

from dataclasses import replace

from emberline.arch.architecture import Architecture
from emberline.arch.layout import WORD_BYTES
from emberline.arch.packets import PAYLOAD_CHECK_BYTES, PREFIX_BYTES, SUPPLY_PIECE_WORDS

LINE_BITS = 10
"""Of a byte on a serial line, start and stop bit included."""
PACKET_BYTES = 2 * PREFIX_BYTES + PAYLOAD_CHECK_BYTES
"""That travel for a piece beside it: the request's and the response's headers and checks, one after the other."""
SIMULATED_WORD_CYCLES = 16
"""A simulated board takes a byte in two cycles, a piece with its request and response in less than ten for each word.
The rest is left to rows, results and questions."""


def link_word_cycles(architecture: Architecture) -> int:
    """Cycles in which four bytes of weights come over the link: of a board, over its serial line.

    A host that pauses between response and request is slower. What it is late is counted as stalls.
    """
    if architecture.board == "simulation":
        return SIMULATED_WORD_CYCLES
    piece = WORD_BYTES * SUPPLY_PIECE_WORDS
    line_cycles = LINE_BITS * (piece + PACKET_BYTES) * architecture.clock_hz
    return -(-line_cycles // (architecture.uart_baud * SUPPLY_PIECE_WORDS))


def with_link_weights(architecture: Architecture) -> Architecture:
    """The machine that fetches weights over the host's link, at the link's rate; one that does already stays."""
    if architecture.fetches_from_link:
        return architecture
    pace = link_word_cycles(architecture)
    return replace(architecture, name=f"{architecture.name}-link", weight_source="link", weight_word_cycles=pace)
