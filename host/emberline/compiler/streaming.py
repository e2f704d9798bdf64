"""Pass: where weights lie. All of them stay, or only those of the first stages, at the bottom of the memory, and the
others come while rows are computed and lie there as long as needed (`segments`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emberline.arch.architecture import Architecture
from emberline.arch.isa import LOAD_QUEUE, NO_WAIT
from emberline.arch.timing import FrameClock
from emberline.compiler.checks import kib, refuse
from emberline.compiler.fetch import Fetch, Fetcher, Part
from emberline.compiler.hazards import timing_fields
from emberline.compiler.rows import RowOperation, Schedule
from emberline.compiler.segments import LoadGroup, Piece, Segment, find_segments, place_segments, whole_segment
from emberline.compiler.weights import WeightImage
from emberline.errors import CompileError


class WeightsDoNotFitError(CompileError):
    """All weights do not fit the memory at once."""


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


def weight_parts(operations: Sequence[RowOperation], architecture: Architecture) -> list[Part]:
    """The weights and the parameters of some operations of a layer."""
    segment = whole_segment(operations, architecture)
    return Piece(segment, 0, segment.words).parts(architecture)


def place_streamed(schedule: Schedule, architecture: Architecture, offset: int, kept: int = 0) -> PlacedWeights:
    """Weights that come from the flash, where they begin at byte ``offset``, in every frame.

    Those of the first ``kept`` stages stay instead, but for stages in bands: they are in the memory before the first
    frame, and nothing overwrites them.

    Raises ``CompileError``, naming the layer whose weights do not fit the memory together with those in use.
    """
    operations = schedule.operations
    segments, owners = find_segments(schedule, architecture)
    resident = bytearray()
    for segment in segments:
        if 0 <= segment.stage < kept and not segment.lasts:
            segment.start = len(resident) // architecture.multipliers
            resident += segment.image.data
    groups = place_segments([segment for segment in segments if segment.start < 0], len(resident), architecture)
    addresses = {}
    for operation, segment in zip(operations, owners, strict=True):
        image = segment.image
        weights, parameters = image.add_weights(operation.weights), image.add_parameters(operation.parameters)
        addresses[operation] = (segment.start + weights, segment.start + parameters)
    layer_bytes: dict[str, int] = {}
    for segment in {id(segment.image): segment for segment in segments}.values():
        layer_bytes[segment.layer] = layer_bytes.get(segment.layer, 0) + len(segment.image.data)
    placed = PlacedWeights(bytes(resident), addresses, {}, layer_bytes)
    _order(placed, operations, groups, architecture, offset)
    return placed


def _order(
    placed: PlacedWeights,
    operations: Sequence[RowOperation],
    groups: Sequence[LoadGroup],
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


def _load_fields(group: LoadGroup, fetch: Fetch, place: tuple[int, int]) -> dict[str, int]:
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
    groups: Sequence[LoadGroup],
    architecture: Architecture,
) -> list[int | None]:
    """For every operation the number of the last LOAD that brings any of its words, if any does."""
    by_segment: dict[Segment, list[tuple[int, int, int]]] = {}
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
