"""When everything happens: the cycles that a program takes, exactly.

Nothing in the machine depends on data, so the cycles of a frame follow from its program: rows are walked back to back
unless a row waits for its fetch, for a fence, or for the row before the last to leave the pipeline.
`tests/integration` holds them against the gateware's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from emberline.arch import compact_timing, isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.latency import depthwise_tail, write_latency
from emberline.arch.listing import decode, unroll
from emberline.errors import ProgramError

HEAD_CYCLES = 5
"""From the request of an instruction to its first word: address, memory, its output register, two registers."""

EXECUTE_CYCLES = 2
"""What an instruction of one word takes beyond that: decode, execute."""

POINTER_CYCLES = 5
"""Resolving the pointers of a ROW: one cycle each, and these until the last is written back."""

LOAD_START = 2
"""Cycles from the last of what a LOAD waits for to its start."""

LOADED_ROW = 3
"""Cycles from the completion of a LOAD to the first one in which a ROW that waits for it can be taken."""

LOADED_JUMP = 2
"""Cycles from the completion of a page's LOAD to the first one in which a JUMP can pass."""


def _taps(row: Mapping[str, int]) -> int:
    return row["kernel_rows"] * row["kernel_columns"] * row["channel_words"]


def _columns_after_last(row: Mapping[str, int]) -> int:
    """Columns of a pooled ROW that belong to no window: the last maximum is written before they are computed."""
    if not row["pool"]:
        return 0
    last = row["pool_first"] + (row["pool_columns"] - 1) * row["pool_stride"]
    return max(0, row["columns"] - 1 - last)


def row_cycles(architecture: Architecture, row: Mapping[str, int]) -> int:
    """Cycles in which a ROW walks its taps, from the one after it was taken to its last tap."""
    return _parameter_cycles(architecture, row) + _pixels(row) * (row["idle"] + _taps(row))


def _parameter_cycles(architecture: Architecture, row: Mapping[str, int]) -> int:
    """Cycles in which parameters are loaded and nothing else is done; a depthwise ROW's first ones only."""
    return architecture.parameter_words * (architecture.groups_per_word if row["depthwise"] else row["groups"])


def _pixels(row: Mapping[str, int]) -> int:
    return row["groups"] * row["columns"] + row["lead"]


def _tail(architecture: Architecture, row: Mapping[str, int]) -> int:
    return depthwise_tail(architecture, bool(row.get("copy", 0))) if row["depthwise"] else 0


@dataclass(frozen=True)
class Spent:
    """Where cycles go; they sum to ``total``.

    ``taps``: the lanes multiply. ``idle``: a requantiser, the adder or the buffer's port sets the pace. ``parameters``:
    they are loaded. ``handover``: one for each ROW. ``fetch``: a ROW is being fetched and its pointers resolved.
    ``drain``: a ROW waits until earlier ones have been written, for a fence or for their context, and a frame for its
    last one. ``weights``: a ROW waits for its LOADs, or for its page's.
    """

    taps: int = 0
    idle: int = 0
    parameters: int = 0
    handover: int = 0
    fetch: int = 0
    drain: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def walked(architecture: Architecture, row: Mapping[str, int]) -> Spent:
    """The cycles that a ROW takes if it waits for nothing: ``row_cycles`` and the hand-over, with a depthwise tail."""
    taps, pixels = _taps(row), _pixels(row)
    handover = 1 + _tail(architecture, row)
    return Spent(pixels * taps, pixels * row["idle"], _parameter_cycles(architecture, row), handover)


@dataclass(frozen=True)
class FrameTiming:
    """Cycles of one frame whose rows are on the chip, from BEGIN to the last group written."""

    cycles: int
    spent: dict[int, Spent]
    """By the ROW's word address in the program: all its executions, each from the end of the ROW before. Their totals
    sum to ``cycles``."""

    @property
    def row_cycles(self) -> dict[int, int]:
        return {address: spent.total for address, spent in self.spent.items()}


class FrameClock:
    """Follows one frame, instruction by instruction in the order of execution, from BEGIN on.

    A LOAD is *queued* in the cycle after its last word has come, or, if ``LOAD_QUEUE`` of them are there already, in
    the one after the first of those is complete. It starts ``LOAD_START`` cycles after the last of: it is queued; the
    LOAD before it is complete; the last ROW before it has been walked. It is complete ``cycles`` later. A ROW is taken
    ``LOADED_ROW`` cycles after the LOADs that it waits for are complete, or later; a JUMP passes in the cycle after it
    has been decoded, or ``LOADED_JUMP`` cycles after the LOADs of pages are complete.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._request = 1  # the cycle in which the next instruction's address is at the memory; BEGIN passes at 0
        self._end = -1  # last cycle of the ROW before
        self._written = (-2, -2)  # last write of the two ROWs before
        self._walked = -1  # last tap of the ROW before
        self._complete: list[int] = []  # of every LOAD
        self._weights_complete: list[int] = []  # of those of weights
        self._page_complete = -LOADED_JUMP  # of the last one of a page
        self._waited = 0  # cycles in which JUMPs since the last ROW have waited

    @property
    def queue_has_room(self) -> bool:
        """Whether a LOAD that comes now is queued at once."""
        last = self._request + HEAD_CYCLES + isa.LOAD.word_count - 1
        return len(self._complete) < isa.LOAD_QUEUE or self._complete[-isa.LOAD_QUEUE] < last

    @property
    def is_loading(self) -> bool:
        """Whether a LOAD is not complete yet, or just so."""
        return bool(self._complete) and self._complete[-1] > self._request

    def load(self, load: Mapping[str, int]) -> None:
        """A LOAD."""
        queued = self._request + HEAD_CYCLES + isa.LOAD.word_count - 1
        if len(self._complete) >= isa.LOAD_QUEUE:
            queued = max(queued, self._complete[-isa.LOAD_QUEUE] + 1)
        free = max(queued, self._walked, self._complete[-1] if self._complete else queued)
        self._complete.append(free + LOAD_START + load["cycles"])
        if load.get("page", 0):
            self._page_complete = self._complete[-1]
        else:
            self._weights_complete.append(self._complete[-1])
        self._request = queued + 1

    def jump(self) -> None:
        """A JUMP."""
        decoded = self._request + HEAD_CYCLES + EXECUTE_CYCLES
        passes = max(decoded, self._page_complete + LOADED_JUMP)
        self._waited += passes - decoded
        self._request = passes + 1

    def _loaded(self, loads: int) -> int:
        """When at most ``loads`` of the LOADs of weights so far are not complete."""
        waits_for = 0 if loads == isa.NO_WAIT else max(0, len(self._weights_complete) - loads)
        return self._weights_complete[waits_for - 1] if waits_for else -LOADED_ROW

    def pass_one(self) -> None:
        """An instruction that is neither ROW nor LOAD nor JUMP."""
        self._request += HEAD_CYCLES + EXECUTE_CYCLES

    def row(self, row: Mapping[str, int]) -> Spent:
        """A ROW, with the fields of its POOL if it has one: its cycles from the end of the ROW before."""
        operands = 3 if row["add"] or row["pool"] else 2
        ready = self._request + HEAD_CYCLES + isa.row_word_count(row) - 1 + operands + POINTER_CYCLES
        cleared = self._written[1] if row["fence"] else self._written[0]
        free = max(ready + 1, self._end + 1, cleared + 2)
        taken = max(free, self._loaded(row.get("loads", isa.NO_WAIT)) + LOADED_ROW)
        fetch = max(0, ready - self._end)
        paged = min(fetch, self._waited)
        self._waited = 0
        walk = walked(self.architecture, row)
        spent = Spent(fetch=fetch - paged, drain=free - self._end - 1 - fetch, weights=taken - free + paged) + walk
        end = taken + row_cycles(self.architecture, row)
        add, copy, depthwise = (bool(row.get(name, 0)) for name in ("add", "copy", "depthwise"))
        latency = write_latency(self.architecture, add=add, copy=copy, depthwise=depthwise)
        last = end - _columns_after_last(row) * (row["idle"] + _taps(row)) + latency
        self._written = (self._written[1], last)
        self._walked = end
        self._end = end + _tail(self.architecture, row)
        self._request = taken + 1
        return spent

    def end(self) -> tuple[int, int]:
        """The frame's cycles, and how many of them follow its last ROW's taps. END has been passed."""
        cycles = max(self._request, self._written[1] + 1)
        return cycles, cycles - self._end - 1


class CompactClock:
    """`FrameClock` of a compact machine: everything is done one after the other, the cycles are a sum."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._cycles = 0
        self._fetched = 0  # cycles of the instructions since the last ROW, which count with the next one

    def pass_one(self) -> None:
        """An instruction that is no ROW."""
        self._fetched += compact_timing.INSTRUCTION_CYCLES + 1

    def load(self, load: Mapping[str, int]) -> None:
        """There is none on a compact machine."""
        raise ValueError("a compact machine has no LOAD")

    def jump(self) -> None:
        """There is none on a compact machine."""
        raise ValueError("a compact machine has no JUMP")

    def row(self, row: Mapping[str, int]) -> Spent:
        """A ROW: its cycles from the end of the ROW before."""
        taps, results, add = _taps(row), row["groups"] * row["columns"], bool(row["add"])
        loads = compact_timing.load_cycles(self.architecture, 1 if row["hold_weight"] else taps)
        spent = Spent(
            taps=results * taps,
            idle=results * row["idle"],
            parameters=row["groups"] * loads,
            handover=row["groups"],
            fetch=self._fetched + compact_timing.row_fetch_cycles(row),
            drain=row["groups"] * compact_timing.drain_cycles(self.architecture, add),
        )
        self._fetched = 0
        self._cycles += spent.total
        return spent

    def end(self) -> tuple[int, int]:
        """The frame's cycles, and how many of them follow its last ROW. END has been passed."""
        return self._cycles + self._fetched, self._fetched


def frame_clock(architecture: Architecture) -> FrameClock | CompactClock:
    """What follows a frame on this machine."""
    return CompactClock(architecture) if architecture.compact else FrameClock(architecture)


def predict(architecture: Architecture, words: Sequence[int]) -> FrameTiming:
    """The cycles of one frame. Raises ``ProgramError`` if the program has no END, or no ROW behind its BEGIN."""
    clock = frame_clock(architecture)
    current: int | None = None
    spent: dict[int, Spent] = {}
    executed = unroll(decode(words))
    for instruction in executed:
        if instruction.opcode is Opcode.BEGIN:
            break
    for instruction in executed:
        if instruction.opcode is Opcode.ROW:
            current = instruction.address
            spent[current] = spent.get(current, Spent()) + clock.row(instruction.fields)
        elif instruction.opcode is Opcode.LOAD:
            clock.load(instruction.fields)
        elif instruction.opcode is Opcode.JUMP:
            clock.jump()
        else:
            clock.pass_one()
    if current is None:
        raise ProgramError("the program has no ROW between BEGIN and END")
    cycles, drain = clock.end()
    spent[current] += Spent(drain=drain)
    return FrameTiming(cycles, spent)
