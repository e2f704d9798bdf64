"""The one record that gateware, compiler, emulator and driver are all built from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

PARAMETER_BYTES = 10
"""Bytes of requantisation parameters per output channel (`emberline.arch.isa.PARAMETERS`)."""

LARGEST_DEPTHS = {"activation_depth_words": 1 << 17, "weight_depth_words": 1 << 16, "program_depth_words": 1 << 16}
"""The deepest memories that a program can address."""

FAMILIES = ("generic", "ecp5", "ice40", "gowin")
"""Whose primitives the gateware can multiply with; ``generic`` leaves the choice to the tools."""

WEIGHT_SOURCES = ("flash", "link")
"""Where weights can come from while a frame is computed."""

WIDE_WORD_CYCLES = 4
"""Where four bytes of stored weights come in so many cycles or fewer, they are decoded two weights at once: they are
five to seven weights."""

SLOWEST_WORD_CYCLES = {"flash": 1024, "link": 1 << 16}
"""Most cycles that four bytes may take from each source."""

PROGRAM_FIELDS = (
    "lanes_in",
    "lanes_out",
    "activation_depth_words",
    "weight_depth_words",
    "program_depth_words",
    "requantisers",
    "adders",
    "depthwise_columns",
    "weight_cache_words",
    "weight_word_cycles",
    "weight_source",
)
"""What a program depends on: machines with these fields equal run each other's programs. The source of weights is one
of them because a LOAD is announced for its source: how long that takes to begin, and at which rate it goes on."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class Architecture:
    """A machine: the lane array, its memories, its clock and its board.

    A *word* is what the lanes take in one cycle, ``lanes_in`` channels of one pixel; a *group* is what they give,
    ``lanes_out`` channels of one pixel. A word holds ``groups_per_word`` groups.
    """

    name: str
    """The preset's name, or any label."""
    lanes_in: int
    """Input channels multiplied each cycle: bytes of an activation word. Power of two, 4 to 64."""
    lanes_out: int
    """Output channels accumulated each cycle. Power of two, 4 to ``lanes_in``."""
    activation_depth_words: int
    """Words in the activation buffer."""
    weight_depth_words: int
    """Words in each output lane's weight memory (``lanes_in`` bytes wide)."""
    program_depth_words: int = 1024
    """32-bit words of instruction memory."""
    requantisers: int = 4
    """Results requantised each cycle. Power of two, at most ``lanes_out``."""
    adders: int = 1
    """Residual sums computed each cycle. Power of two, at most ``lanes_out``."""
    depthwise_columns: int = 3
    """Kernel columns of the widest depthwise convolution that has its own mode: lanes that take part in it; 0 leaves
    the mode out."""
    weight_cache_words: int = 0
    """0: the lanes' memories hold all weights. Otherwise the machine is *compact*: weights and activations share one
    single-port memory, each lane caches this many words of one group's weights, results are requantised bit by bit,
    and there is neither a maximum behind the requantisers nor a depthwise mode. Power of two, 16 to 1024."""
    weight_word_cycles: int = 0
    """Cycles in which four bytes of stored weights come from their source while a frame is computed; 0: all weights are
    in the machine before. From the board's flash at single or at double rate or from two (`emberline.arch.flash` says
    what can be built), from the host's link what ``link_word_cycles`` says."""
    weight_source: str = "flash"
    """What stored weights come from, if they do: one of ``WEIGHT_SOURCES``, the board's flash or the host's link."""
    clock_hz: int = 100_000_000
    """Clock of the ``sync`` domain."""
    uart_baud: int = 1_000_000
    """Symbol rate of the serial link."""
    board: str = "simulation"
    """The board this is built for."""
    family: str = "generic"
    """Which vendor primitives multiply: one of ``FAMILIES``."""

    def __post_init__(self) -> None:
        if self.weight_source not in WEIGHT_SOURCES:
            raise ValueError(f"weight_source must be one of {', '.join(WEIGHT_SOURCES)}, not {self.weight_source!r}")
        for field, low, high in (
            ("lanes_in", 4, 64),
            ("lanes_out", 4, self.lanes_in),
            ("requantisers", 1, self.lanes_out),
            ("adders", 1, self.lanes_out),
        ):
            value = getattr(self, field)
            if not _power_of_two(value) or not low <= value <= high:
                raise ValueError(f"{field} must be a power of two in {low}..{high}, not {value}")
        for field, low, high in (
            ("activation_depth_words", 16, LARGEST_DEPTHS["activation_depth_words"]),
            ("weight_depth_words", 16, LARGEST_DEPTHS["weight_depth_words"]),
            ("program_depth_words", 64, LARGEST_DEPTHS["program_depth_words"]),
            ("weight_word_cycles", 0, SLOWEST_WORD_CYCLES[self.weight_source]),
            ("clock_hz", 1_000_000, 1_000_000_000),
            ("uart_baud", 300, self.clock_hz // 4),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(f"{field} must be in {low}..{high}, not {value}")
        if self.weight_source == "link" and not self.streams:
            raise ValueError("weight_source 'link' needs weight_word_cycles above 0")
        if not 0 <= self.depthwise_columns <= self.lanes_out:
            raise ValueError(f"depthwise_columns must be in 0..{self.lanes_out}, not {self.depthwise_columns}")
        if self.compact:
            self._check_compact()
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")

    def _check_compact(self) -> None:
        cache = self.weight_cache_words
        if not _power_of_two(cache) or not 16 <= cache <= 1024:
            raise ValueError(f"weight_cache_words must be 0 or a power of two in 16..1024, not {cache}")
        if (self.lanes_in, self.lanes_out) != (4, 4):
            raise ValueError(f"a compact machine has 4x4 lanes, not {self.lanes_in}x{self.lanes_out}")
        if self.requantisers != 1 or self.adders != 1 or self.depthwise_columns:
            raise ValueError("a compact machine has requantisers 1, adders 1 and depthwise_columns 0")
        if self.streams:
            raise ValueError("a compact machine has weight_word_cycles 0")
        if not _power_of_two(self.memory_words):
            raise ValueError(
                f"activation_depth_words + {self.lanes_out} * weight_depth_words of a compact machine must be a power "
                f"of two, not {self.memory_words}"
            )
        if self.family == "ecp5":
            raise ValueError("a compact machine's memories are read without the output registers that family ecp5 has")

    @property
    def compact(self) -> bool:
        """One single-port memory for everything, one ROW at a time."""
        return self.weight_cache_words > 0

    @property
    def streams(self) -> bool:
        """Weights can be fetched while a frame is computed."""
        return self.weight_word_cycles > 0

    @property
    def fetches_from_flash(self) -> bool:
        return self.streams and self.weight_source == "flash"

    @property
    def fetches_from_link(self) -> bool:
        return self.streams and self.weight_source == "link"

    @property
    def decodes_wide(self) -> bool:
        """Stored weights are in wide blocks, which are decoded two weights at once (`emberline.arch.weight_code`)."""
        return 0 < self.weight_word_cycles <= WIDE_WORD_CYCLES

    @property
    def pairs_rows(self) -> bool:
        """A depthwise ROW can compute two rows: there are lanes for both, and the requantisers take a column's results
        of both in four cycles, the taps of two rows of a 3x3 kernel."""
        return 0 < 2 * self.depthwise_columns <= self.lanes_out and self.lanes_in <= 2 * self.requantisers

    @property
    def memory_words(self) -> int:
        """Words of ``lanes_in`` bytes of all activations and weights."""
        return self.activation_depth_words + self.lanes_out * self.weight_depth_words

    @property
    def multipliers(self) -> int:
        """int8 multipliers in the lane array."""
        return self.lanes_in * self.lanes_out

    @property
    def groups_per_word(self) -> int:
        return self.lanes_in // self.lanes_out

    @property
    def activation_depth_groups(self) -> int:
        return self.activation_depth_words * self.groups_per_word

    @property
    def activation_bytes(self) -> int:
        return self.activation_depth_words * self.lanes_in

    @property
    def weight_bytes(self) -> int:
        return self.weight_depth_words * self.multipliers

    @property
    def parameter_words(self) -> int:
        """Weight words that hold one output group's requantisation parameters."""
        return -(-PARAMETER_BYTES // self.lanes_in)

    @property
    def fingerprint(self) -> int:
        """32 bits that are equal exactly when programs are interchangeable: lanes, memories, rates."""
        text = json.dumps({key: asdict(self)[key] for key in PROGRAM_FIELDS}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
