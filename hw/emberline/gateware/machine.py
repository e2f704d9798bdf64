"""Which accelerator an architecture describes."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.errors import BuildError
from emberline.gateware.accelerator import Accelerator
from emberline.gateware.compact.accelerator import CompactAccelerator

LINK_LEAST = 8
"""Cycles in which four bytes pass the link, if nothing else does."""

FLASH_STEP = 16
"""Cycles in which four bytes come over four lines if the flash's clock is half of the machine's."""


def check_buildable(architecture: Architecture) -> None:
    """Raise ``BuildError`` for an architecture that can be compiled for, but whose source of weights is too fast."""
    if architecture.fetches_from_link and architecture.weight_word_cycles < LINK_LEAST:
        raise BuildError(
            f"'{architecture.name}' cannot be built: the link takes a byte in two cycles, so weight_word_cycles must "
            f"be at least {LINK_LEAST}, not {architecture.weight_word_cycles}"
        )
    if architecture.fetches_from_flash and architecture.weight_word_cycles % FLASH_STEP:
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
