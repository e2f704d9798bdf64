"""Pass: lowered steps become a schedule with addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emberline.arch.architecture import Architecture
from emberline.compiler.allocate import allocate, place_frame_release
from emberline.compiler.long_rows import join_rows
from emberline.compiler.placement import Places
from emberline.compiler.rows import Role, Schedule, StepRows
from emberline.compiler.schedule.candidate import Needs
from emberline.compiler.schedule.costs import Costs, place_apart, plan_trial_fences
from emberline.compiler.schedule.search import Search
from emberline.compiler.schedule.supply import Supply

ATTEMPTS = 12
"""How often stages are looked for that leave more memory free, where those found cannot be packed together."""

ROOM_FOR_WORDS = 0.875
"""Share of the instruction memory, LOADs and what precedes the frame not counted, up to which rows may take more
instructions than loops of them did."""


def plan_schedule(
    steps: Sequence[StepRows], places: Places, architecture: Architecture, supply: Supply | None = None
) -> Schedule | Callable[[], Needs]:
    """The fastest schedule that is found to fit, with all addresses; or what finds out what is needed in all."""
    search = Search(steps, places.frame, places.storages, architecture, supply)
    result_words = sum(storage.words for storage in places.storages if storage.role is Role.RESULT)
    budget = architecture.activation_depth_words - result_words
    least_missing = architecture.activation_depth_words
    for _ in range(ATTEMPTS):
        schedule = search.best(budget, architecture.program_depth_words) if budget > 0 else None
        if schedule is None:
            break
        missing = allocate(schedule, architecture)
        if not missing:
            return _with_long_rows(schedule, architecture)
        least_missing = min(least_missing, missing)
        budget = min(budget - missing, budget - budget // 64)

    def needs() -> Needs:
        found = search.needs()
        words = found.words + result_words
        if words <= architecture.activation_depth_words:  # each stage alone has room, but not all maps together
            words = architecture.activation_depth_words + least_missing
        return Needs(words, found.layer)

    return needs


def _with_long_rows(schedule: Schedule, architecture: Architecture) -> Schedule:
    """A schedule that has room, its rows joined unless the program might then get too long.

    All that can be are joined if there is room for that too, with no less for the frame; otherwise those that
    overwrite nothing where they lie now.
    """
    frame = schedule.frame
    ring_rows = frame.ring_rows
    place_apart([frame, *schedule.storages], architecture)
    joined = join_rows(schedule, architecture)
    if allocate(joined, architecture) or frame.ring_rows != ring_rows:
        allocate(schedule, architecture)
        joined = join_rows(schedule, architecture)
        if not place_frame_release(joined, architecture):
            return schedule
    words = _program_words(joined, architecture)
    if words > ROOM_FOR_WORDS * architecture.program_depth_words and words > _program_words(schedule, architecture):
        allocate(schedule, architecture)
        return schedule
    return joined


def _program_words(schedule: Schedule, architecture: Architecture) -> int:
    fences = plan_trial_fences(schedule.operations, architecture)
    return Costs(architecture).program_words(schedule.operations, fences)
