"""Pass: where weights lie. All of them stay, or only those of the first stages, at the bottom of the memory, and the
others come while rows are computed and lie there as long as needed.

*Segments* are the weights and parameters of a step: of a stage whose weights fit, from the stage's first row to the
step's last; of a stage in bands, for each band anew. Segments come in the order of their first use, each contiguous,
behind the one before or where the least recently used words are, and overwrite what is no longer read. A LOAD brings
words that become free together: of one segment, part of one, or several that follow each other in the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.isa import LOAD, LOAD_QUEUE, NO_WAIT
from emberline.arch.timing import FrameClock
from emberline.arch.weight_code import CHUNK_BYTES
from emberline.compiler.checks import kib, refuse
from emberline.compiler.fetch import Fetch, Fetcher, Part
from emberline.compiler.hazards import timing_fields
from emberline.compiler.rows import RowOperation, Schedule
from emberline.compiler.weights import WeightImage
from emberline.errors import CompileError


class WeightsDoNotFitError(CompileError):
    """All weights do not fit the memory at once."""


LONGEST_CYCLES = next(field for field in LOAD.fields if field.name == "cycles").maximum

SHARE = 8
"""A LOAD of several segments, or of part of one, is a piece of the memory of about this fraction."""


@dataclass(frozen=True)
class Load:
    """A LOAD in front of an operation."""

    layer: str
    fields: dict[str, int]


@dataclass
class PlacedWeights:
    """Where every operation's weights are, and the LOADs that bring them.

    Parameters:
        resident: the weight memory before the first frame.
        addresses: of every operation's weights and parameters.
        waits: the operations' ``loads``.
        loads: in front of each operation of the schedule that has any.
        stream: what the flash holds of them, from byte ``offset`` on.
        layer_bytes: of the weight memory, by layer; stored_bytes: of the stream.
    """

    resident: bytes
    addresses: dict[RowOperation, tuple[int, int]]
    waits: dict[RowOperation, int]
    layer_bytes: dict[str, int]
    loads: dict[int, list[Load]] = field(default_factory=dict)
    stream: bytes = b""
    offset: int = 0
    stored_bytes: dict[str, int] = field(default_factory=dict)


def place_resident(operations: Iterable[RowOperation], architecture: Architecture) -> PlacedWeights:
    """All weights side by side; ``WeightsDoNotFitError`` where they are too many."""
    image = WeightImage(architecture)
    added: dict[str, int] = {}
    crossing = ""
    addresses = {}
    for operation in operations:
        before = len(image.data)
        addresses[operation] = (image.add_weights(operation.weights), image.add_parameters(operation.parameters))
        added[operation.layer] = added.get(operation.layer, 0) + len(image.data) - before
        if not crossing and len(image.data) > architecture.weight_bytes:
            crossing = operation.layer
    if crossing:
        reason = (
            f"the weights need {kib(len(image.data))} in all, {kib(architecture.weight_bytes)} available on "
            f"'{architecture.name}' and used up here"
        )
        raise WeightsDoNotFitError(str(refuse(crossing, reason)))
    return PlacedWeights(bytes(image.data), addresses, dict.fromkeys(addresses, NO_WAIT), added)


@dataclass(eq=False)
class _Segment:
    """Parameters: ``first``, ``last``: the operations that read it; ``stage``: others of it are read meanwhile."""

    layer: str
    stage: int
    first: int
    last: int
    image: WeightImage
    parameters: int
    """Its first word of parameters; those before are weights."""
    start: int = -1

    @property
    def words(self) -> int:
        return self.image.words


@dataclass(eq=False)
class _Piece:
    """Neighbouring words of the memory that are written together: ``words`` of a segment from its word ``first`` on."""

    segment: _Segment
    first: int
    words: int

    @property
    def address(self) -> int:
        return self.segment.start + self.first

    def parts(self, architecture: Architecture) -> list[Part]:
        size, middle = architecture.multipliers, self.segment.parameters
        ranges = ((self.first, min(self.first + self.words, middle), 0),
                  (max(self.first, middle), self.first + self.words, architecture.lanes_in // CHUNK_BYTES))  # fmt: skip
        data = self.segment.image.data
        return [
            Part(self.segment.layer, bytes(data[begin * size : end * size]), distance)
            for begin, end, distance in ranges
            if begin < end
        ]


@dataclass(eq=False)
class _Group:
    """The pieces of a LOAD, and the operation in front of which they may be written."""

    pieces: list[_Piece]
    free: int

    @property
    def needed(self) -> int:
        return min(piece.segment.first for piece in self.pieces)

    @property
    def address(self) -> int:
        return self.pieces[0].address

    @property
    def words(self) -> int:
        return sum(piece.words for piece in self.pieces)


def weight_parts(operations: Sequence[RowOperation], architecture: Architecture) -> list[Part]:
    """The weights and the parameters of some operations of a layer."""
    segment = _segment(operations, range(len(operations)), architecture)
    return _Piece(segment, 0, segment.words).parts(architecture)


def place_streamed(schedule: Schedule, architecture: Architecture, offset: int, kept: int = 0) -> PlacedWeights:
    """Weights that come from the flash, where they begin at byte ``offset``, in every frame.

    Those of the first ``kept`` stages stay instead, but for stages in bands: they are in the memory before the first
    frame, and nothing overwrites them.

    Raises ``CompileError``, naming the layer whose weights do not fit the memory together with those in use.
    """
    operations = schedule.operations
    segments, owners = _segments(schedule, architecture)
    resident = bytearray()
    for segment in segments:
        if 0 <= segment.stage < kept:
            segment.start = len(resident) // architecture.multipliers
            resident += segment.image.data
    groups = _place([segment for segment in segments if segment.start < 0], len(resident), architecture)
    addresses = {}
    for operation, segment in zip(operations, owners, strict=True):
        image = segment.image
        weights, parameters = image.add_weights(operation.weights), image.add_parameters(operation.parameters)
        addresses[operation] = (segment.start + weights, segment.start + parameters)
    layer_bytes: dict[str, int] = {}
    for segment in segments:
        layer_bytes[segment.layer] = layer_bytes.get(segment.layer, 0) + len(segment.image.data)
    placed = PlacedWeights(bytes(resident), addresses, {}, layer_bytes)
    _order(placed, operations, groups, architecture, offset)
    return placed


def _segments(schedule: Schedule, architecture: Architecture) -> tuple[list[_Segment], list[_Segment]]:
    """All segments in the order of their first use, and the segment of every operation."""
    operations = schedule.operations
    members: list[list[int]] = []
    stages: list[int] = []
    for number, stage in enumerate(schedule.stages):
        begin, end = stage.operations
        banded = stage.fetched_bytes > stage.weight_bytes
        places: dict[int, list[int]] = {}
        for index in range(begin, end):
            step = operations[index].step
            if banded and operations[index - 1].step != step:
                places.pop(step, None)
            if step not in places:
                places[step] = []
                members.append(places[step])
                stages.append(-len(stages) - 1 if banded else number)
            places[step].append(index)
    segments = []
    owners: dict[int, _Segment] = {}
    for indices, number in sorted(zip(members, stages, strict=True)):
        segments.append(_segment(operations, indices, architecture, number))
        owners |= dict.fromkeys(indices, segments[-1])
    return segments, [owners[index] for index in range(len(operations))]


def _segment(
    operations: Sequence[RowOperation], indices: Sequence[int], architecture: Architecture, stage: int = 0
) -> _Segment:
    """The weights and the parameters of some operations of a step."""
    image = WeightImage(architecture)
    for index in indices:
        image.add_weights(operations[index].weights)
    parameters = image.words
    for index in indices:
        image.add_parameters(operations[index].parameters)
    return _Segment(operations[indices[0]].layer, stage, indices[0], indices[-1], image, parameters)


def _place(segments: Sequence[_Segment], resident_bytes: int, architecture: Architecture) -> list[_Group]:
    """Set every segment's ``start``, behind what stays; the LOADs in their order."""
    depth = architecture.weight_depth_words
    longest = longest_load(architecture)
    most = min(depth // SHARE, longest)
    _find_places(segments, resident_bytes, architecture)
    free = np.zeros(depth, np.int64)  # from which operation on a word may be overwritten
    groups: list[_Group] = []
    reached = 0
    for segment in segments:
        words = slice(segment.start, segment.start + segment.words)
        for piece, since in _pieces(segment, np.maximum(free[words], reached), depth // SHARE, longest):
            reached = max(reached, since)
            _append(groups, piece, reached, most)
        free[words] = segment.last + 1
    return groups


def _find_places(segments: Sequence[_Segment], resident_bytes: int, architecture: Architecture) -> None:
    """Every segment where there is room first; those of a stage side by side where some would find none otherwise."""
    position, reached = resident_bytes // architecture.multipliers, 0
    free = np.zeros(architecture.weight_depth_words, np.int64)
    free[:position] = np.iinfo(np.int64).max
    for _, members in groupby(segments, key=lambda segment: segment.stage):
        stage = list(members)
        found = _fill(stage, free.copy(), position, reached)
        if found is None:
            whole = sum(segment.words for segment in stage)
            start = _find_room(whole, stage[0].first, free, position, reached)
            if start is None:
                raise refuse(
                    max(stage, key=lambda segment: segment.words).layer,
                    f"needs {kib(whole * architecture.multipliers)} of weights with the rest of its stage, "
                    f"{kib(architecture.weight_bytes - resident_bytes)} available on '{architecture.name}'",
                )
            found = []
            for segment in stage:
                found.append(start)
                start += segment.words
        for segment, start in zip(stage, found, strict=True):
            segment.start, position = start, start + segment.words
            reached = max(reached, int(free[start:position].max()))
        for segment in stage:
            free[segment.start : segment.start + segment.words] = segment.last + 1


def _fill(stage: Sequence[_Segment], free: NDArray[np.int64], position: int, reached: int) -> list[int] | None:
    """Where the segments of a stage go one after the other, or None."""
    starts = []
    for segment in stage:
        start = _find_room(segment.words, segment.first, free, position, reached)
        if start is None:
            return None
        starts.append(start)
        position = start + segment.words
        reached = max(reached, int(free[start:position].max()))
        free[start:position] = segment.last + 1
    return starts


def _find_room(words: int, needed: int, free: NDArray[np.int64], position: int, reached: int) -> int | None:
    """The place that is free first, ``position`` if it is as good; None if none is before operation ``needed``."""
    depth = len(free)
    edges = np.flatnonzero(np.diff(free)) + 1
    starts = [position, 0, *edges.tolist(), *(edges - words).tolist(), depth - words]
    best: tuple[int, int] | None = None
    for start in starts:
        if 0 <= start <= depth - words:
            since = max(reached, int(free[start : start + words].max()))
            if since <= needed and (best is None or since < best[0]):
                best = (since, start)
    return None if best is None else best[1]


def longest_load(architecture: Architecture) -> int:
    """Words that a LOAD brings in the cycles that it can announce, even if they grew by half when they were stored."""
    stored_words = LONGEST_CYCLES // architecture.weight_word_cycles
    return max(1, 2 * CHUNK_BYTES * stored_words // (3 * architecture.multipliers))


def _pieces(segment: _Segment, since: NDArray[np.int64], least: int, longest: int) -> list[tuple[_Piece, int]]:
    """A segment cut where its words become free at different times, earliest first, and where a LOAD would be too long;
    short pieces join a neighbour."""
    edges = [0, *(np.flatnonzero(np.diff(since)) + 1).tolist(), len(since)]
    runs = [[begin, end, int(since[begin])] for begin, end in pairwise(edges)]
    while len(runs) > 1:
        lengths = [end - begin for begin, end, _ in runs]
        place = lengths.index(min(lengths))
        if lengths[place] >= least:
            break
        sides = [other for other in (place - 1, place + 1) if 0 <= other < len(runs)]
        other = min(sides, key=lambda side: abs(runs[side][2] - runs[place][2]))
        low, high = min(place, other), max(place, other)
        runs[low : high + 1] = [[runs[low][0], runs[high][1], max(runs[low][2], runs[high][2])]]
    pieces = [
        (_Piece(segment, first, min(longest, end - first)), time)
        for begin, end, time in runs
        for first in range(begin, end, longest)
    ]
    return sorted(pieces, key=lambda each: each[1])


def _append(groups: list[_Group], piece: _Piece, since: int, most: int) -> None:
    """Another LOAD, or more words for the last one."""
    if groups:
        last = groups[-1]
        behind = last.address + last.words == piece.address
        if behind and last.free == since and last.words + piece.words <= most:
            last.pieces.append(piece)
            return
    groups.append(_Group([piece], since))


def _order(
    placed: PlacedWeights,
    operations: Sequence[RowOperation],
    groups: Sequence[_Group],
    architecture: Architecture,
    offset: int,
) -> None:
    """The LOADs in front of the operations, each as soon as its words are free and the queue has room."""
    stream, fetcher = bytearray(), Fetcher(architecture)
    known: dict[int, tuple[int, int]] = {}  # where the stream has what has been fetched before
    clock = FrameClock(architecture)
    places = {place for group in groups for place in (group.free, group.needed)}
    needed = _last_needed(operations, placed.addresses, groups, architecture)
    issued = 0
    for index, operation in enumerate(operations):
        while issued < len(groups) and groups[issued].free <= index:
            group = groups[issued]
            timely = index in places or not clock.is_loading
            if group.needed > index and not (timely and clock.queue_has_room):
                break
            fetch = fetcher.fetch([part for piece in group.pieces for part in piece.parts(architecture)])
            if id(fetch) not in known:
                known[id(fetch)] = (offset + len(stream), len(fetch.data))
                stream += fetch.data
                for layer, count in fetch.layer_bytes.items():
                    placed.stored_bytes[layer] = placed.stored_bytes.get(layer, 0) + count
            load = Load(group.pieces[0].segment.layer, _load_fields(group, fetch, known[id(fetch)]))
            placed.loads.setdefault(index, []).append(load)
            clock.load(load.fields)
            issued += 1
        last = needed[index]
        waits = NO_WAIT if last is None else issued - 1 - last
        placed.waits[operation] = waits if waits < LOAD_QUEUE else NO_WAIT
        fields = timing_fields(operation, architecture)
        clock.row({**fields, "fence": int(operation.fence), "loads": placed.waits[operation]})
    placed.stream = bytes(stream)


def _load_fields(group: _Group, fetch: Fetch, place: tuple[int, int]) -> dict[str, int]:
    return {
        "source": place[0],
        "length": place[1],
        "address": group.address,
        "words": group.words,
        "cycles": fetch.cycles,
        "check": fetch.check,
        "page": 0,
    }


def _last_needed(
    operations: Sequence[RowOperation],
    addresses: Mapping[RowOperation, tuple[int, int]],
    groups: Sequence[_Group],
    architecture: Architecture,
) -> list[int | None]:
    """For every operation the number of the last LOAD that brings any of its words, if any does."""
    by_segment: dict[_Segment, list[tuple[int, int, int]]] = {}
    for number, group in enumerate(groups):
        for piece in group.pieces:
            by_segment.setdefault(piece.segment, []).append((piece.address, piece.address + piece.words, number))
    alive = sorted(by_segment, key=lambda segment: segment.first)
    found: list[int | None] = []
    for index, operation in enumerate(operations):
        candidates = [segment for segment in alive if segment.first <= index <= segment.last]
        ranges = _ranges(operation, addresses[operation], architecture)
        found.append(
            max(
                (
                    number
                    for segment in candidates
                    for begin, end, number in by_segment[segment]
                    if any(begin < high and low < end for low, high in ranges)
                ),
                default=None,
            )
        )
    return found


def _ranges(operation: RowOperation, addresses: tuple[int, int], architecture: Architecture) -> list[tuple[int, int]]:
    """The words of an operation's weights and of its parameters."""
    groups, taps = operation.weights.words.shape[:2]
    parameters = operation.groups_written(architecture.groups_per_word) * architecture.parameter_words
    return [(addresses[0], addresses[0] + groups * taps), (addresses[1], addresses[1] + parameters)]
