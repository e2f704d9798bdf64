"""How fast the board's flash gives weights: what the gateware builds and the compiler counts with."""

from __future__ import annotations

from emberline.arch.architecture import Architecture

FLASH_OFFSET = 4 << 20
"""Where weights lie in the flash if nothing else is said: behind the bitstream of any board. When a machine starts it
finds the time at which data from the flash are read by what lies there, or at byte 0."""

SINGLE_STEP = 16
"""``weight_word_cycles`` that are a multiple of this are at single rate: a nibble each period of the flash's clock,
which is the machine's divided by ``weight_word_cycles / 8``, an even number: the clock is high as long as low."""
DOUBLE_STEP = 8
"""Multiples of this, but not of ``SINGLE_STEP``, are at double rate: a nibble at each edge of the flash's clock, which
is the machine's divided by ``weight_word_cycles / 4``, an even number again. Nothing else can be built."""

FASTEST_SINGLE_HZ = 104_000_000
"""The flash's clock, at most: Winbond W25Q128JV, *Fast Read Quad I/O* at 2.7 V."""
FASTEST_DOUBLE_HZ = 66_000_000
"""The same at double rate: Winbond W25Q128JV-DTR, ISSI IS25LP128 (IS25LP128F: 69 MHz with its six dummy cycles)."""

DESELECTED_SECONDS = 50e-9
"""For which the flash stays deselected behind a transaction: tSHSL, 10 ns between reads, 50 ns behind writes."""


def is_double_rate(architecture: Architecture) -> bool:
    """Whether the flash gives data at both edges of its clock."""
    return architecture.weight_word_cycles % SINGLE_STEP == DOUBLE_STEP


def clock_divider(architecture: Architecture) -> float:
    """The machine's clock over the flash's; an even number where the machine can be built."""
    return architecture.weight_word_cycles / (4 if is_double_rate(architecture) else 8)
