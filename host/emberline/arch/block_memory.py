"""How many block memories of an FPGA a memory takes, from its real shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emberline.arch.architecture import Architecture


class Ports(Enum):
    """What happens at a memory in one cycle."""

    SINGLE = "single"
    """A read or a write."""
    SIMPLE_DUAL = "simple dual"
    """A read, and a write at another address."""
    TRUE_DUAL = "true dual"
    """Two accesses, of which one at least may be either a read or a write."""


@dataclass(frozen=True)
class MemoryShape:
    """A memory as the gateware has it.

    Parameters:
        width: bits of a word. depth: words.
        ports: what it serves in one cycle.
        granularity: bits that are written together; divides ``width``.
    """

    width: int
    depth: int
    ports: Ports
    granularity: int

    def __post_init__(self) -> None:
        for name in ("width", "depth", "granularity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.width % self.granularity:
            raise ValueError(f"granularity must divide the width {self.width}, not {self.granularity}")


@dataclass(frozen=True)
class BlockMemory:
    """One kind of block memory.

    Parameters:
        name: what the vendor calls it.
        modes: (words, bits) of every configuration, parity bits included, deepest first.
        true_dual_width: the widest word where both ports read and write.
        byte_enable_width: the narrowest word of which single bytes can be written.
    """

    name: str
    modes: tuple[tuple[int, int], ...]
    true_dual_width: int
    byte_enable_width: int

    def blocks(self, shape: MemoryShape) -> int:
        """Blocks for a memory: the fewest over all ways to cut its depth into slices, each in one of the modes."""
        unit = min(words for words, _ in self.modes)
        fewest = [0]
        for units in range(1, -(-shape.depth // unit) + 1):
            fewest.append(
                min(
                    self._columns(shape, width) + fewest[max(0, units - words // unit)]
                    for words, width in self.modes
                    if shape.ports is not Ports.TRUE_DUAL or width <= self.true_dual_width
                )
            )
        return fewest[-1]

    def _columns(self, shape: MemoryShape, width: int) -> int:
        """Blocks beside each other in one slice. A byte with an enable of its own is 8 bits, its parity bit idle."""
        if shape.granularity == shape.width:
            return -(-shape.width // width)
        apart = shape.width // shape.granularity * -(-shape.granularity // width)
        if shape.granularity % 8 or width < self.byte_enable_width:
            return apart
        return min(apart, -(-shape.width // (width // 9 * 8)))


M9K = BlockMemory(
    "M9K",
    modes=((8192, 1), (4096, 2), (2048, 4), (1024, 9), (512, 18), (256, 36)),
    true_dual_width=18,
    byte_enable_width=16,
)
"""MAX 10 (Intel UG-M10MEMORY, *MAX 10 Embedded Memory User Guide*: configurations, and ``x16`` … ``x36`` with byte
enables; true dual-port up to ``x18``)."""

DP16KD = BlockMemory(
    "DP16KD",
    modes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
    true_dual_width=18,
    byte_enable_width=18,
)
"""ECP5 EBR (Lattice TN1264, *ECP5 Memory Usage Guide*; ``x36`` is pseudo dual-port only)."""


SB_RAM40 = BlockMemory(
    "SB_RAM40_4K",
    modes=((2048, 2), (1024, 4), (512, 8), (256, 16)),
    true_dual_width=0,
    byte_enable_width=16,
)
"""iCE40 (Lattice TN1250, *Memory Usage Guide for iCE40 Devices*): a port to read and one to write."""


def activation_shape(architecture: Architecture, depth_words: int | None = None) -> MemoryShape:
    """The activation buffer, or so much of it: the lanes read at one port, everybody else reads and writes bytes."""
    depth = architecture.activation_depth_words if depth_words is None else depth_words
    return MemoryShape(8 * architecture.lanes_in, depth, Ports.TRUE_DUAL, 8)


def weight_shape(architecture: Architecture, depth_words: int | None = None) -> MemoryShape:
    """One lane's weights: read in words, written four bytes at a time."""
    depth = architecture.weight_depth_words if depth_words is None else depth_words
    return MemoryShape(8 * architecture.lanes_in, depth, Ports.SIMPLE_DUAL, 32)


def program_shape(architecture: Architecture, depth_words: int | None = None) -> MemoryShape:
    """The instruction memory."""
    depth = architecture.program_depth_words if depth_words is None else depth_words
    return MemoryShape(32, depth, Ports.SIMPLE_DUAL, 32)
