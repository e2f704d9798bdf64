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

import numpy as np

from emberline.arch.architecture import Architecture
from emberline.arch.isa import POINTER_COUNT
from emberline.compiler.rows import Role, RowOperation, Schedule, Stage, StepRows, Storage
from emberline.compiler.schedule.candidate import Candidate, Needs
from emberline.compiler.schedule.costs import Costs, place_apart, plan_trial_fences, pointer_count
from emberline.compiler.schedule.frame import plan_frame_rows
from emberline.compiler.schedule.groups import LAYER_BY_LAYER, Interleaving, interleave
from emberline.compiler.schedule.packing import pack
from emberline.compiler.schedule.rings import constant_extent, extent, row_lives
from emberline.compiler.schedule.supply import Supply, stored_bits, weight_bytes
from emberline.compiler.schedule.turns import layer_of, plan_turns

WORTH_WAITING = 0.005
"""Share of a stage's cycles in which its rows may wait before other orders are looked at for speed alone."""
MARGIN = 3
"""Steps at the beginning or end of a group that would fit alone: so many never help the others."""
BANDS = (1, 2, 4, 8, 16, 32)
LAYERS_IN_TURNS = 6
"""Layers of the longest stage in turns: two fire modules."""
WORD_PRICES = (0.05, 1.0, 8.0, 64.0)
"""Cycles that a program word may cost, tried in turn until the program fits. In a page it costs no more than the cycles
in which it comes."""


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
        self.pointers = [pointer_count([step]) for step in steps]
        self.walks = [self.costs.walking(step.operations) for step in steps]
        self._frame_pointers = {
            (step.step, role)
            for step in steps
            for operation in step.operations
            for role, access in operation.accesses
            if access.storage is frame
        }
        self._bits: dict[int, float] = {}
        self._singles: dict[int, Candidate] = {}
        self._groups: dict[tuple[int, int, Interleaving, bool], Candidate | None] = {}
        self._alive = self._words_between()

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
        pages = self.architecture.weight_word_cycles if self.architecture.streams else WORD_PRICES[-1]
        for price in (each for each in WORD_PRICES if each <= max(1, pages)):
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
            if 0 < available_words < self._alive[first]:
                continue
            for end in range(first + 2, len(self.steps) + 1):
                if all(fits[end - MARGIN : end]) and end - first > MARGIN and not all(fits[first:end]):
                    break
                if all(fits[first : first + MARGIN]) and not all(fits[first:end]):
                    break
                if self._goes_in_turns(first, end):
                    if (all(fits[first:end]) and end - first >= MARGIN) or self._is_too_long(first, end):
                        break
                    if all(fits[first:end]):
                        continue
                if 0 < available_words < self._alive[end]:
                    continue
                waits = sum(each.waiting for each in singles[first:end])
                walk = sum(self.walks[first:end])
                if not all(fits[first:end]) or waits > WORTH_WAITING * walk:
                    yield from self._interleavings(first, end, available_words, walk)

    def _words_between(self) -> list[int]:
        """The words of the rows that have been written and will be read between two steps, in every schedule."""
        operations = [operation for step in self.steps for operation in step.operations]
        lives = row_lives(operations)
        places, position = [], 0
        for step in self.steps:
            places.append(position)
            position += sum(1 for _ in step.operations)
        words = np.zeros(len(self.steps) + 1, np.int64)
        for storage, life in lives.items():
            born, dies = np.searchsorted(places, life.born, "right"), np.searchsorted(places, life.dies, "right")
            for first, last in zip(born, dies, strict=True):
                words[first:last] += storage.row_words
        return [int(each) for each in words]

    def _is_too_long(self, first: int, end: int) -> bool:
        """Whether steps ``first`` to ``end``, and all with more behind them, are no stage in turns."""
        layers = {layer_of(step) for step in self.steps[first:end]}
        return self.supply is None or len(layers) > LAYERS_IN_TURNS

    def _pointers(self, first: int, end: int) -> int:
        """Pointers for steps ``first`` to ``end``: those to the frame stay with the steps that have them."""
        return POINTER_COUNT - sum(not first <= step < end for step, _ in self._frame_pointers)

    def _goes_in_turns(self, first: int, end: int) -> bool:
        """Whether there are too many pointers, or weights, for the rows of all steps at once."""
        available = 0 if self.supply is None else self.supply.bytes_available
        return sum(self.pointers[first:end]) > self._pointers(first, end) or sum(self.weights[first:end]) > available

    def _interleavings(self, first: int, end: int, available_words: int, walk: int) -> Iterator[Candidate]:
        """From the order that needs least memory on, until one waits so little that more memory cannot help."""
        if self._goes_in_turns(first, end):
            yield from self._longest_turns(first, end, available_words)
            return
        hows = [Interleaving(0), Interleaving(0, apart=True)]
        hows += [Interleaving(band, apart) for band in BANDS for apart in (False, True)]
        for number, how in enumerate(hows):
            candidate = self._group(first, end, how)
            if candidate is None:
                return
            fits = self.words(candidate) <= available_words
            if fits or (not available_words and number == 0):
                yield candidate
                yield from self._in_pairs(candidate, available_words)
            if (not fits and number != 1) or candidate.waiting <= WORTH_WAITING * walk:
                return

    def _longest_turns(self, first: int, end: int, available_words: int) -> Iterator[Candidate]:
        """The order with the fewest bands that fits: it waits least and fetches least. Layers are not divided."""
        if any(self._divides_layer(place) for place in (first, end)):
            return
        rows = min(
            (int(len(step.rows) // step.rows_per_target) for step in self.steps[first:end] if len(step.rows) > 1),
            default=1,
        )
        bands = sorted({-(-rows // count) for count in range(2, rows + 1)})
        best, low, high = None, 0, len(bands)
        while low < high:
            middle = (low + high) // 2 if best or low else 0
            candidate = self._group(first, end, Interleaving(bands[middle]))
            if candidate is None:
                return
            if self.words(candidate) <= available_words:
                best, low = candidate, middle + 1
            elif middle == 0:
                best = None if available_words else candidate
                break
            else:
                high = middle
        if best is not None:
            yield best
            yield from self._in_pairs(best, available_words)

    def _divides_layer(self, place: int) -> bool:
        """Whether pieces of a layer, each perhaps with its mean, lie on both sides of a step's beginning."""
        before = {layer_of(step) for step in self.steps[max(0, place - 2) : place]}
        return place < len(self.steps) and layer_of(self.steps[place]) in before

    def _stored_bits(self, index: int) -> float:
        if index not in self._bits:
            self._bits[index] = stored_bits(self.steps[index], self.architecture)
        return self._bits[index]

    def _single(self, index: int) -> Candidate:
        if index not in self._singles:
            self._singles[index] = _known(self._evaluate(index, index + 1, LAYER_BY_LAYER))
        return self._singles[index]

    def _group(self, first: int, end: int, how: Interleaving, pairs: bool = False) -> Candidate | None:
        key = (first, end, how, pairs)
        if key not in self._groups:
            self._groups[key] = self._evaluate(first, end, how, pairs)
        return self._groups[key]

    def _in_pairs(self, candidate: Candidate, available_words: int) -> Iterator[Candidate]:
        """The same order with depthwise rows in pairs, where there are some and the memory has room."""
        if any(step.pairs is not None for step in self.steps[candidate.first : candidate.end]):
            found = self._group(candidate.first, candidate.end, candidate.how, pairs=True)
            if found is not None and self.words(found) <= available_words:
                yield found

    def _evaluate(self, first: int, end: int, how: Interleaving, pairs: bool = False) -> Candidate | None:
        """None where the weights of a turn have no room."""
        steps = [step.pairs or step if pairs else step for step in self.steps[first:end]]
        operations = interleave(steps, how)
        weights = sum(self.weights[first:end])
        turns = None
        if self.supply is not None and end > first + 1 and self._goes_in_turns(first, end):
            sizes = {step.step: self.weights[index] for index, step in enumerate(steps, first)}
            stored = {step.step: self._stored_bits(index) for index, step in enumerate(steps, first)}
            turns = plan_turns(operations, sizes, stored, self.supply.bytes_available)
            if turns is None:
                return None
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
            self.costs.program_words(operations, fences, in_turns=turns is not None),
            weights if turns is None else turns.weight_bytes,
            weights if turns is None else turns.fetched_bytes,
            None if turns is None else turns.kept,
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
            kept=candidate.kept,
        )


def _known(candidate: Candidate | None) -> Candidate:
    assert candidate is not None
    return candidate


def _users(steps: Sequence[StepRows]) -> dict[Storage, tuple[int, int]]:
    """The first and the last step that use each storage."""
    users: dict[Storage, tuple[int, int]] = {}
    for step in steps:
        for operation in step.operations:
            for _, access in operation.accesses:
                first, _ = users.get(access.storage, (step.step, step.step))
                users[access.storage] = (first, step.step)
    return users
