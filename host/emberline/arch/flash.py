"""How fast the board's flash gives weights: what the gateware builds and the compiler counts with."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.arch.layout import WORD_BYTES

FLASH_OFFSET = 4 << 20
"""Where weights lie in the flash if nothing else is said: behind the bitstream of any board. When a machine starts it
finds the time at which data from the flash are read by what lies there, or at byte 0."""

SINGLE_STEP = 16
"""``weight_word_cycles`` that are a multiple of this are at single rate: a nibble each period of the flash's clock,
which is the machine's divided by ``weight_word_cycles / 8``, an even number: the clock is high as long as low."""
DOUBLE_STEP = 8
"""Multiples of this, but not of ``SINGLE_STEP``, are at double rate: a nibble at each edge of the flash's clock, which
is the machine's divided by ``weight_word_cycles / 4``, an even number again."""
PAIR_STEP = 4
"""Multiples of this, but not of ``DOUBLE_STEP``, are two flashes at double rate side by side, each with a word in
``2 * weight_word_cycles``: word ``w`` of what both hold is word ``w // 2`` of flash ``w % 2``. Nothing else can be
built."""

PAIR_FLASHES = 2

FASTEST_SINGLE_HZ = 104_000_000
"""The flash's clock, at most: Winbond W25Q128JV, *Fast Read Quad I/O* at 2.7 V."""
FASTEST_DOUBLE_HZ = 66_000_000
"""The same at double rate: Winbond W25Q128JV-DTR, ISSI IS25LP128 (IS25LP128F: 69 MHz with its six dummy cycles)."""

DESELECTED_SECONDS = 50e-9
"""For which the flash stays deselected behind a transaction: tSHSL, 10 ns between reads, 50 ns behind writes."""


def flash_count(architecture: Architecture) -> int:
    """The flashes, one or two, that give the architecture's weights."""
    return PAIR_FLASHES if architecture.weight_word_cycles % DOUBLE_STEP == PAIR_STEP else 1


def is_double_rate(architecture: Architecture) -> bool:
    """Whether a flash gives data at both edges of its clock."""
    return _word_cycles(architecture) % SINGLE_STEP == DOUBLE_STEP


def clock_divider(architecture: Architecture) -> float:
    """The machine's clock over that of a flash; an even number where the machine can be built."""
    return _word_cycles(architecture) / (4 if is_double_rate(architecture) else 8)


def flash_images(architecture: Architecture, data: bytes) -> list[bytes]:
    """What each flash holds of ``data``, which begin with a word of the first one."""
    count = flash_count(architecture)
    words = [data[at : at + WORD_BYTES] for at in range(0, len(data), WORD_BYTES)]
    return [b"".join(words[index::count]) for index in range(count)]


def _word_cycles(architecture: Architecture) -> int:
    """In which one flash gives a word."""
    return architecture.weight_word_cycles * flash_count(architecture)
