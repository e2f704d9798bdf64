"""Which accelerator an architecture describes."""

from __future__ import annotations

from emberline.arch.architecture import Architecture
from emberline.gateware.accelerator import Accelerator
from emberline.gateware.compact.accelerator import CompactAccelerator


def accelerator(architecture: Architecture) -> Accelerator | CompactAccelerator:
    """The machine without its link; both kinds have the ports of `emberline.gateware.link.core_ports`."""
    return CompactAccelerator(architecture) if architecture.compact else Accelerator(architecture)
