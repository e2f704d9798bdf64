"""How a network runs on a machine: its layers cut into pieces, their rows in order, its weights kept or fetched.

`plan_network` chooses; `place_weights` and `emit_plan` make of a plan what a program consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate

from emberline.arch.architecture import Architecture
from emberline.arch.layout import WORD_BYTES
from emberline.arch.timing import predict
from emberline.compiler.checks import check_graph, kib, refuse
from emberline.compiler.compact import check_compact
from emberline.compiler.cuts import cut_channels, cut_for_memory, cut_for_weights
from emberline.compiler.emit import Emission, emit, plan_waits
from emberline.compiler.fetch import Fetcher
from emberline.compiler.hazards import plan_fences
from emberline.compiler.legalise import legalise
from emberline.compiler.lower import lower
from emberline.compiler.packing import FramePacking, packings
from emberline.compiler.placement import MisalignedSumError, Places, place
from emberline.compiler.rows import Schedule, StepRows
from emberline.compiler.schedule.candidate import Needs
from emberline.compiler.schedule.plan import plan_schedule
from emberline.compiler.schedule.supply import Supply
from emberline.compiler.steps import Step, plan_steps
from emberline.compiler.streaming import (
    PlacedWeights,
    WeightsDoNotFitError,
    place_resident,
    place_streamed,
    weight_parts,
)
from emberline.errors import CompileError
from emberline.model.graph import Graph

CUTS = (2, 4, 6)
"""What share of the weight memory a convolution may fill before it is cut, tried in turn."""

KEPT = (16, 8)
"""What share of the weight memory the first stages' weights may fill for good, tried in turn, besides none."""


class WeightPlace(Enum):
    """Where a program has its weights."""

    AUTO = "auto"
    """In the machine; fetched if they do not fit and it has a source of weights. Those of the first layers may stay
    then."""
    RESIDENT = "resident"
    FLASH = "flash"
    """All fetched from the board's flash."""
    LINK = "link"
    """All fetched over the host's link."""


@dataclass(frozen=True)
class NetworkPlan:
    """A network with its schedule: ``graph`` as it is computed, layers cut into pieces where they must be.

    Where weights are ``streamed``, those of the first ``kept`` stages stay.
    """

    graph: Graph
    steps: list[Step]
    places: Places
    rows: list[StepRows]
    schedule: Schedule
    streamed: bool
    kept: int = 0


def plan_network(graph: Graph, architecture: Architecture, weights: WeightPlace = WeightPlace.AUTO) -> NetworkPlan:
    """The schedule of a network.

    Raises ``CompileError``, naming the layer that decides, where nothing fits.
    """
    graph = legalise(graph)
    check_graph(graph, architecture)
    if weights in (WeightPlace.AUTO, WeightPlace.RESIDENT):
        try:
            return _plan_pieces(graph, architecture, None, {})
        except WeightsDoNotFitError:
            if weights is WeightPlace.RESIDENT or not architecture.streams:
                raise
    if not architecture.streams:
        raise CompileError(f"'{architecture.name}' is built without a source of weights")
    if weights is not WeightPlace.AUTO and weights.value != architecture.weight_source:
        raise CompileError(f"'{architecture.name}' fetches weights from the {architecture.weight_source}")
    return _plan_fetched(graph, architecture, keeps=weights is WeightPlace.AUTO)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A schedule whose weights are fetched, its price, and how it came about: see ``_try_plan``.

    The price is its cycles, and those in which weights come again, whoever waits for them.
    """

    price: int
    plan: NetworkPlan
    parts: int
    paired: bool


def _plan_fetched(graph: Graph, architecture: Architecture, *, keeps: bool) -> NetworkPlan:
    """The schedule with the lowest price over all sizes of pieces, with and without pairs of depthwise rows, and,
    where it ``keeps`` weights, over what stays.

    Small pieces make room in the weight memory earlier; large ones leave layers whole, which then share rows with
    others. Pairs take fewer cycles and more weights. Weights that stay need not be waited for, but leave less room for
    others. Which is better depends on everything else.
    """
    supply = measure_supply(graph, architecture)
    pairs = any(step.pairs is not None for step in lower(graph, *plan_places(graph, architecture), architecture))
    trials: list[_Trial] = []
    refusals: list[CompileError] = []
    tried = []
    for parts in CUTS:
        pieces = cut_for_weights(graph, supply.bytes_available, architecture, parts)
        if pieces in tried:
            continue
        tried.append(pieces)
        for paired in (False, True) if pairs else (False,):
            try:
                trials.append(_try_plan(graph, architecture, supply, parts, paired))
            except CompileError as error:
                refusals.append(error)
    if not trials:
        raise refusals[0]
    best = min(trials, key=lambda trial: trial.price)
    filled = list(accumulate(stage.weight_bytes for stage in best.plan.schedule.stages))
    room = [architecture.weight_bytes // share for share in KEPT if keeps]
    for kept_bytes in sorted({max((each for each in filled if each <= most), default=0) for most in room} - {0}):
        with suppress(CompileError):
            trials.append(_try_plan(graph, architecture, supply, best.parts, best.paired, kept_bytes))
    return min(trials, key=lambda trial: trial.price).plan


def _try_plan(
    graph: Graph, architecture: Architecture, supply: Supply, parts: int, paired: bool, kept_bytes: int = 0
) -> _Trial:
    """The schedule of a network whose layers are cut for a ``parts``-th of the weight memory without the
    ``kept_bytes`` in which the weights of as many first stages stay as there is room for."""
    supply = replace(supply, bytes_available=supply.bytes_available - kept_bytes)
    pieces = cut_for_weights(graph, supply.bytes_available, architecture, parts)
    plan = _plan_pieces(graph, architecture, supply, pieces, pairs=paired)
    filled = accumulate(stage.weight_bytes for stage in plan.schedule.stages)
    plan = replace(plan, kept=sum(each <= kept_bytes for each in filled) if kept_bytes else 0)
    placed = place_weights(plan, architecture, 0)
    cycles = predict(architecture, emit_plan(plan, placed, architecture).words).cycles
    again = sum(load.fields["length"] for loads in placed.loads.values() for load in loads) - len(placed.stream)
    return _Trial(cycles + again * architecture.weight_word_cycles // WORD_BYTES, plan, parts, paired)


def measure_supply(graph: Graph, architecture: Architecture) -> Supply:
    """At which rate the weights of a network come, decoded, on the average."""
    fetcher = Fetcher(architecture)
    steps, places = plan_places(graph, architecture)
    data = cycles = 0
    for step in lower(graph, steps, places, architecture, pairs=False):
        parts = weight_parts(list(step.operations), architecture)
        data += sum(len(part.data) for part in parts)
        cycles += fetcher.fetch(parts).cycles
    return Supply(architecture.weight_bytes, data / cycles)


def _plan_pieces(
    graph: Graph, architecture: Architecture, supply: Supply | None, pieces: dict[str, int], *, pairs: bool = True
) -> NetworkPlan:
    """The schedule of a network whose layers are cut into ``pieces``, and into more where its memory demands it."""
    least: Needs | None = None
    while True:
        cut = cut_channels(graph, pieces, architecture)
        found = plan_frame(cut, architecture, supply, pairs=pairs)
        if isinstance(found, NetworkPlan):
            return found
        least = found if least is None or found.words < least.words else least
        missing = found.words - architecture.activation_depth_words
        smaller = cut_for_memory(graph, found.layer, pieces, missing, architecture.lanes_in)
        if smaller is None:
            raise refuse(
                least.layer,
                f"needs {kib(least.words * architecture.lanes_in)} of activation memory, "
                f"{kib(architecture.activation_bytes)} available on '{architecture.name}'",
            )
        pieces = smaller


def plan_frame(
    graph: Graph, architecture: Architecture, supply: Supply | None, *, pairs: bool = True
) -> NetworkPlan | Needs:
    """The schedule of a network cut into pieces, for the way to store the frame that costs the fewest taps.

    A way that leaves no room for half a frame, so that little of it arrives while another one is computed, is only
    taken if none does. Where none has room, what the smallest frame needs.

    Parameters:
        pairs: depthwise rows may be computed two at a time, if the weights for that have room.
    """
    fitting: NetworkPlan | None = None
    unfit: list[Callable[[], Needs]] = []
    for packing in packings(graph, plan_places(graph, architecture)[0], architecture):
        steps, places = plan_places(graph, architecture, packing)
        rows = lower(graph, steps, places, architecture, pairs=pairs)
        check_compact(rows, architecture)
        if supply is None:
            try:
                try:
                    place_resident((each for step in rows for each in step.all_operations), architecture)
                except WeightsDoNotFitError:
                    rows = lower(graph, steps, places, architecture, pairs=False)
                    place_resident((each for step in rows for each in step.all_operations), architecture)
            except CompileError:
                if fitting is None and not unfit:
                    raise
                break  # each way has more taps than those before it, and more weights
        found = plan_schedule(rows, places, architecture, supply)
        if isinstance(found, Schedule):
            plan = NetworkPlan(graph, steps, places, rows, found, supply is not None)
            if 2 * found.frame.ring_rows >= found.frame.height:
                return plan
            fitting = fitting or plan
        else:
            unfit.append(found)
    return fitting or min((needs() for needs in unfit), key=lambda needs: needs.words)


def plan_places(
    graph: Graph, architecture: Architecture, packing: FramePacking | None = None
) -> tuple[list[Step], Places]:
    """Steps and places, the frame stored in the way given or the one of the fewest taps.

    Sums are computed in pieces where the pieces begin at whole groups of their residual map.
    """
    whole_sums: frozenset[str] = frozenset()
    while True:
        plan = plan_steps(graph, whole_sums)
        try:
            way = packing or packings(graph, plan.steps, architecture)[0]
            return plan.steps, place(graph, plan, way, architecture)
        except MisalignedSumError as error:
            whole_sums |= {str(error)}


def place_weights(plan: NetworkPlan, architecture: Architecture, flash_offset: int) -> PlacedWeights:
    """Addresses for all weights, and the LOADs of those that do not stay."""
    plan_waits(plan.schedule)
    plan_fences(plan.schedule, architecture)
    if plan.streamed:
        placed = place_streamed(plan.schedule, architecture, flash_offset, plan.kept)
    else:
        placed = place_resident(plan.schedule.operations, architecture)
    placed.offset = flash_offset
    return placed


def emit_plan(plan: NetworkPlan, placed: PlacedWeights, architecture: Architecture) -> Emission:
    """The program's words; ``CompileError`` where they are too many or a number does not fit its field."""
    zero = plan.graph.feature_maps[plan.graph.inputs[0]].quantisation.zero_point
    return emit(plan.schedule, plan.places.packing, zero, placed, architecture)
