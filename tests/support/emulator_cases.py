"""Machines of any shape for tests of the emulator."""

from __future__ import annotations

from emberline.arch.architecture import Architecture


def machine(lanes_in: int, lanes_out: int, activation_depth_words: int = 16384, **changes: int) -> Architecture:
    sizes = {"weight_depth_words": 16384, "program_depth_words": 8192, "requantisers": min(lanes_out, 4)} | changes
    return Architecture(f"{lanes_in}x{lanes_out}", lanes_in, lanes_out, activation_depth_words, **sizes)
