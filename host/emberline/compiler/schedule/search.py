"""The search for a schedule: which consecutive steps make a stage, and how their rows are interleaved.

A *candidate* is a range of steps with an interleaving; a schedule is a chain of candidates from the first step to the
last. Rows take the same cycles in every order, so candidates differ in the cycles in which rows wait, in the memory
that they need, and in their program words; and, where depthwise rows can be computed in pairs, in whether they are. The
best chain is found by dynamic programming over the steps; layer by layer is the chain whose candidates have one step
each.

A stage needs memory for its rings, for the maps that it reads or writes whole (a map that is read up gives way, row by
row, to one that grows), and for the maps that only wait for later stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.arch.isa import POINTER_COUNT
from emberline.compiler.rows import Role, RowOperation, Schedule, Stage, StepRows, Storage
from emberline.compiler.schedule.costs import Costs, place_apart, plan_trial_fences, pointer_count
from emberline.compiler.schedule.frame import plan_frame_rows
from emberline.compiler.schedule.groups import LAYER_BY_LAYER, Interleaving, interleave
from emberline.compiler.schedule.packing import pack
from emberline.compiler.schedule.rings import constant_extent, extent, row_lives
from emberline.compiler.schedule.supply import Supply, weight_bytes

WORTH_WAITING = 0.005
"""Share of a stage's cycles in which its rows may wait before other orders are looked at for speed alone."""
MARGIN = 3
"""Steps at the beginning or end of a group that would fit alone: so many never help the others."""
BANDS = (1, 2, 4, 8, 16, 32)
WORD_PRICES = (0.05, 1.0, 8.0, 64.0)
"""Cycles that a program word may cost, tried in turn until the program fits."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Steps ``first`` to ``end`` in one order.

    Parameters:
        rings: the rows that each storage keeps which only these steps use.
        heap_words: activation words of everything that lies in memory meanwhile, but the frame and the result.
        frame_rows: rows of the frame that must be held.
        decides: the layer during which most memory is in use.
        walking, waiting: cycles; saved: those that the rows take less than one by one; program_words: about.
        weight_bytes: that must be in the weight memory at once; fetched_bytes: that a frame fetches for it.
    """

    first: int
    end: int
    how: Interleaving
    operations: list[RowOperation]
    rings: dict[Storage, int]
    heap_words: int
    frame_rows: int
    decides: str
    walking: int
    saved: int
    waiting: int
    program_words: int
    weight_bytes: int
    fetched_bytes: int

    def stalled(self, supply: Supply, once_bytes: int) -> float:
        """The price of the weights in cycles, about.

        What takes longer than the rows, what lies beyond half of the memory, as it cannot arrive before, and what is
        fetched more than once, whoever waits for it.
        """
        slow = self.fetched_bytes - (self.walking + self.waiting) * supply.bytes_per_cycle
        again = self.fetched_bytes - once_bytes
        return (max(0.0, slow) + max(0.0, self.weight_bytes - supply.bytes_available / 2) + again) / (
            supply.bytes_per_cycle
        )


@dataclass(frozen=True)
class Needs:
    """What the least demanding schedule needs: ``words`` of activation memory; ``layer`` decides."""

    words: int
    layer: str


class Search:
    """Finds schedules of lowered steps; candidates are kept, so that asking again with less memory is cheap.

    Parameters:
        supply: how weights come that do not stay in the memory; None if all of them do.
    """

    def __init__(
        self,
        steps: Sequence[StepRows],
        frame: Storage,
        storages: Sequence[Storage],
        architecture: Architecture,
        supply: Supply | None = None,
    ) -> None:
        self.steps, self.frame, self.storages, self.architecture = steps, frame, storages, architecture
        self.costs = Costs(architecture)
        self.supply = supply
        self.users = _users(steps)
        self.weights = [weight_bytes(step, architecture) for step in steps] if supply else [0] * len(steps)
        self.walks = [self.costs.walking(step.operations) for step in steps]
        self._frame_pointers = {
            (step.step, role)
            for step in steps
            for operation in step.operations
            for role, access in operation.accesses
            if access.storage is frame
        }
        self._singles: dict[int, Candidate] = {}
        self._groups: dict[tuple[int, int, Interleaving, bool], Candidate] = {}

    def words(self, candidate: Candidate) -> int:
        """Activation words that a candidate needs beside the result."""
        return candidate.heap_words + self.frame.frame_rows.ring_rows(candidate.frame_rows) * self.frame.row_words

    def best(self, available_words: int, program_words: int) -> Schedule | None:
        """The schedule with the fewest cycles among those that fit; None if none does.

        Parameters:
            available_words: activation words for maps and frame.
            program_words: of instructions; if no schedule is as short, the shortest is taken.
        """
        candidates = list(self._candidates(available_words))
        schedule = None
        for price in WORD_PRICES:
            chain = self._cheapest(candidates, price)
            if chain is None:
                return None
            schedule = self._schedule(chain)
            if sum(each.program_words for each in chain) <= program_words:
                break
        return schedule

    def needs(self) -> Needs:
        """The memory without which there is no schedule, of all candidates."""
        best: list[Candidate | None] = [None] * (len(self.steps) + 1)
        words = [0] + [1 << 60] * len(self.steps)
        for candidate in sorted(self._candidates(0), key=lambda each: each.end):
            needed = max(words[candidate.first], self.words(candidate))
            if needed < words[candidate.end]:
                before = best[candidate.first]
                worse = before is not None and words[candidate.first] >= self.words(candidate)
                words[candidate.end] = needed
                best[candidate.end] = before if worse else candidate
        last = best[-1]
        assert last is not None
        return Needs(words[-1], last.decides)

    def _cheapest(self, candidates: Sequence[Candidate], word_price: float) -> list[Candidate] | None:
        """The chain of candidates over all steps with the lowest price, fewer stages first."""
        best: list[tuple[float, list[Candidate]] | None] = [None] * (len(self.steps) + 1)
        best[0] = (0.0, [])
        for candidate in sorted(candidates, key=lambda each: each.end):
            before, after = best[candidate.first], best[candidate.end]
            if before is None:
                continue
            price = before[0] + candidate.waiting - candidate.saved + word_price * candidate.program_words
            if self.supply is not None:
                price += candidate.stalled(self.supply, sum(self.weights[candidate.first : candidate.end]))
            if after is None or price < after[0]:
                best[candidate.end] = (price, [*before[1], candidate])
        found = best[-1]
        return None if found is None else found[1]

    # --- candidates

    def _candidates(self, available_words: int) -> Iterator[Candidate]:
        """Single steps, and the groups that are needed for memory or worth it for their cycles."""
        singles = [self._single(index) for index in range(len(self.steps))]
        fits = [self.words(each) <= available_words for each in singles]
        for first, single in enumerate(singles):
            if fits[first] or not available_words:
                yield single
                yield from self._in_pairs(single, available_words)
            for end in range(first + 2, len(self.steps) + 1):
                if all(fits[end - MARGIN : end]) and end - first > MARGIN and not all(fits[first:end]):
                    break
                if all(fits[first : first + MARGIN]) and not all(fits[first:end]):
                    break
                if pointer_count(self.steps[first:end]) > self._pointers(first, end):
                    break
                waits = sum(each.waiting for each in singles[first:end])
                walk = sum(self.walks[first:end])
                if not all(fits[first:end]) or waits > WORTH_WAITING * walk:
                    yield from self._interleavings(first, end, available_words, walk)

    def _pointers(self, first: int, end: int) -> int:
        """Pointers for steps ``first`` to ``end``: those to the frame stay with the steps that have them."""
        return POINTER_COUNT - sum(not first <= step < end for step, _ in self._frame_pointers)

    def _weights(self, first: int, end: int, how: Interleaving) -> tuple[int, int]:
        """Weight bytes that must be there at once, and that a frame fetches.

        If those of all steps do not fit, they come once for each band; two steps' must fit then.
        """
        total = sum(self.weights[first:end])
        if self.supply is None or total <= self.supply.bytes_available or not how.band:
            return total, total
        rows = min(
            (len(step.rows) // step.rows_per_target for step in self.steps[first:end] if len(step.rows) > 1), default=1
        )
        pairs = zip(self.weights[first:end], self.weights[first + 1 : end], strict=False)
        return max(a + b for a, b in pairs), total * -(-rows // how.band)

    def _interleavings(self, first: int, end: int, available_words: int, walk: int) -> Iterator[Candidate]:
        """From the order that needs least memory on, until one waits so little that more memory cannot help."""
        hows = [Interleaving(0), Interleaving(0, apart=True)]
        hows += [Interleaving(band, apart) for band in BANDS for apart in (False, True)]
        if self.supply is not None and sum(self.weights[first:end]) > self.supply.bytes_available:
            hows = [Interleaving(band) for band in BANDS]
            if self._weights(first, end, hows[0])[0] > self.supply.bytes_available:
                return
        for number, how in enumerate(hows):
            candidate = self._group(first, end, how)
            fits = self.words(candidate) <= available_words
            if fits or (not available_words and number == 0):
                yield candidate
                yield from self._in_pairs(candidate, available_words)
            patient = candidate.waiting <= WORTH_WAITING * walk and candidate.weight_bytes == candidate.fetched_bytes
            if (not fits and number != 1) or patient:
                return

    def _single(self, index: int) -> Candidate:
        if index not in self._singles:
            self._singles[index] = self._evaluate(index, index + 1, LAYER_BY_LAYER)
        return self._singles[index]

    def _group(self, first: int, end: int, how: Interleaving, pairs: bool = False) -> Candidate:
        key = (first, end, how, pairs)
        if key not in self._groups:
            self._groups[key] = self._evaluate(first, end, how, pairs)
        return self._groups[key]

    def _in_pairs(self, candidate: Candidate, available_words: int) -> Iterator[Candidate]:
        """The same order with depthwise rows in pairs, where there are some and the memory has room."""
        if any(step.pairs is not None for step in self.steps[candidate.first : candidate.end]):
            found = self._group(candidate.first, candidate.end, candidate.how, pairs=True)
            if self.words(found) <= available_words:
                yield found

    def _evaluate(self, first: int, end: int, how: Interleaving, pairs: bool = False) -> Candidate:
        steps = [step.pairs or step if pairs else step for step in self.steps[first:end]]
        operations = interleave(steps, how)
        walking = self.costs.walking(operations) if pairs else sum(self.walks[first:end])
        before = [each for each, (begin, _) in self.users.items() if begin < first]
        after = [each for each, (_, last) in self.users.items() if last >= end]
        lives = row_lives(operations, before=before, after=after)
        crossing = {*before, *after}
        rings = {each: lives[each].least_ring() for each in lives if each not in crossing}
        for storage in lives:
            storage.ring_rows = rings.get(storage, storage.height)
        waiting_maps = {*before} & {*after} - {*lives}
        extents = [extent(each, each.storage.ring_rows) for each in lives.values()]
        extents += [constant_extent(each, len(operations)) for each in waiting_maps if each.role is Role.MAP]
        used = [(sum(max(0, each.high[index - each.first] - each.low[index - each.first])
                     for each in extents if each.first <= index < each.end), index)
                for index in range(0, len(operations), max(1, len(operations) // 64))]  # fmt: skip
        place_apart([self.frame, *self.storages], self.architecture)
        fences = plan_trial_fences(operations, self.architecture)
        return Candidate(
            first,
            end,
            how,
            operations,
            rings,
            pack(extents).words,
            self._frame_rows(first, end, operations),
            operations[max(used)[1]].layer,
            walking,
            sum(self.walks[first:end]) - walking,
            self.costs.waiting(operations, fences),
            self.costs.program_words(operations, fences),
            *self._weights(first, end, how),
        )

    def _frame_rows(self, first: int, end: int, operations: list[RowOperation]) -> int:
        """Rows of the frame that these operations hold; all of it while other steps read it too."""
        begin, last = self.users[self.frame]
        if first <= begin and last < end:
            return max(waits for waits, _ in plan_frame_rows(operations, self.frame))
        return self.frame.frame_rows.rows if begin < end and first <= last else 0

    def _schedule(self, chain: Sequence[Candidate]) -> Schedule:
        operations: list[RowOperation] = []
        stages = []
        for storage in self.storages:
            storage.ring_rows = storage.height
        for candidate in chain:
            place = (len(operations), len(operations) + len(candidate.operations))
            operations += candidate.operations
            stages.append(self._stage(candidate, place))
            for storage, rows in candidate.rings.items():
                storage.ring_rows = rows
        return Schedule(operations, self.frame, list(self.storages), stages)

    def _stage(self, candidate: Candidate, operations: tuple[int, int]) -> Stage:
        return Stage(
            first=candidate.first,
            end=candidate.end,
            operations=operations,
            how=str(candidate.how),
            decides=candidate.decides,
            activation_words=self.words(candidate),
            cycles=candidate.walking + candidate.waiting,
            waiting=candidate.waiting,
            weight_bytes=candidate.weight_bytes,
            fetched_bytes=candidate.fetched_bytes,
        )


def _users(steps: Sequence[StepRows]) -> dict[Storage, tuple[int, int]]:
    """The first and the last step that use each storage."""
    users: dict[Storage, tuple[int, int]] = {}
    for step in steps:
        for operation in step.operations:
            for _, access in operation.accesses:
                first, _ = users.get(access.storage, (step.step, step.step))
                users[access.storage] = (first, step.step)
    return users
