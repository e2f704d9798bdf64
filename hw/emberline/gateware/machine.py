"""Which accelerator an architecture describes."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.arch.flash import (
    FASTEST_DOUBLE_HZ,
    FASTEST_SINGLE_HZ,
    PAIR_STEP,
    clock_divider,
    is_double_rate,
)
from emberline.errors import BuildError
from emberline.gateware.accelerator import Accelerator
from emberline.gateware.compact.accelerator import CompactAccelerator

LINK_LEAST = 8
"""Cycles in which four bytes pass the link, if nothing else does."""


def check_buildable(architecture: Architecture) -> None:
    """Raise ``BuildError`` for an architecture that can be compiled for, but whose source of weights is too fast.

    From the flash, ``weight_word_cycles`` are multiples of 4: 16, 32, 48, ... at single rate, 8, 24, 40, ... at double
    rate, 4, 12, 20, ... from two flashes at double rate (`emberline.arch.flash`).
    """
    if architecture.fetches_from_link and architecture.weight_word_cycles < LINK_LEAST:
        raise BuildError(
            f"'{architecture.name}' cannot be built: the link takes a byte in two cycles, so weight_word_cycles must "
            f"be at least {LINK_LEAST}, not {architecture.weight_word_cycles}"
        )
    if architecture.fetches_from_flash:
        _check_flash(architecture)


def _check_flash(architecture: Architecture) -> None:
    if architecture.weight_word_cycles % PAIR_STEP:
        raise BuildError(
            f"'{architecture.name}' cannot be built: the flash's clock is the machine's divided by an even number, so "
            f"weight_word_cycles must be a multiple of {PAIR_STEP}, not {architecture.weight_word_cycles}"
        )
    double = is_double_rate(architecture)
    flash_hz, fastest = (
        architecture.clock_hz / clock_divider(architecture),
        FASTEST_DOUBLE_HZ if double else FASTEST_SINGLE_HZ,
    )
    if flash_hz > fastest:
        raise BuildError(
            f"'{architecture.name}' cannot be built: weight_word_cycles {architecture.weight_word_cycles} is a flash "
            f"clock of {flash_hz / 1e6:g} MHz, at {'double' if double else 'single'} rate at most {fastest / 1e6:g} MHz"
        )


def accelerator(architecture: Architecture) -> Accelerator | CompactAccelerator:
    """The machine without its link; both kinds have the ports of `emberline.gateware.link.core_ports`.

    Raises ``BuildError`` where that is impossible.
    """
    check_buildable(architecture)
    return CompactAccelerator(architecture) if architecture.compact else Accelerator(architecture)
