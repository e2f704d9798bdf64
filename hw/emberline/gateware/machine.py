"""Which accelerator an architecture describes."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.errors import BuildError
from emberline.gateware.accelerator import Accelerator
from emberline.gateware.compact.accelerator import CompactAccelerator

FLASH_STEP = 16
"""Cycles in which four bytes come over four lines if the flash's clock is half of the machine's."""


def check_buildable(architecture: Architecture) -> None:
    """Raise ``BuildError`` for an architecture that can be compiled for, but whose flash cannot be that fast."""
    if architecture.weight_word_cycles % FLASH_STEP:
        raise BuildError(
            f"'{architecture.name}' cannot be built: the flash's clock is the machine's divided by an even number, so "
            f"weight_word_cycles must be a multiple of {FLASH_STEP}, not {architecture.weight_word_cycles}"
        )


def accelerator(architecture: Architecture) -> Accelerator | CompactAccelerator:
    """The machine without its link; both kinds have the ports of `emberline.gateware.link.core_ports`.

    Raises ``BuildError`` where that is impossible.
    """
    check_buildable(architecture)
    return CompactAccelerator(architecture) if architecture.compact else Accelerator(architecture)
