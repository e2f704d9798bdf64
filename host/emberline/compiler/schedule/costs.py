"""What an order of row operations costs before it has addresses: waiting cycles, program words, pointers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.timing import frame_clock, walked
from emberline.compiler.hazards import needs_fence, starves, timing_fields
from emberline.compiler.loops import Token, fold
from emberline.compiler.rows import RowOperation, StepRows, Storage


def place_apart(storages: Iterable[Storage], architecture: Architecture) -> None:
    """Addresses for a trial, at which no two storages meet, however small the memory is."""
    position = 0
    for storage in storages:
        storage.start = position
        position += storage.words * architecture.groups_per_word


def plan_trial_fences(operations: Sequence[RowOperation], architecture: Architecture) -> list[bool]:
    """The fences of an order whose storages lie apart."""
    fences = [False] * len(operations)
    for index in range(1, len(operations)):
        earlier, operation = operations[index - 1], operations[index]
        target = earlier.target.storage
        touches = target is operation.source.storage or target is operation.target.storage
        touches = touches or (operation.residual is not None and operation.residual.storage is target)
        touches = touches or starves(earlier, operation)
        if touches or (operation.addition is None) != (earlier.addition is None):
            fences[index] = needs_fence(earlier, operation, architecture)
    return fences


class Costs:
    """Costs of orders of the operations of one network; what does not depend on the order is computed once."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._fields: dict[RowOperation, dict[str, int]] = {}

    def waiting(self, operations: Sequence[RowOperation], fences: Sequence[bool]) -> int:
        """Cycles in which the lanes wait for a fetch, a fence or the end of an earlier ROW."""
        clock, waited = frame_clock(self.architecture), 0
        for index, (operation, fence) in enumerate(zip(operations, fences, strict=True)):
            spent = clock.row({**self.fields(operation), "fence": int(fence)})
            waited += spent.drain + (spent.fetch if index else 0)
        return waited

    def walking(self, operations: Iterable[RowOperation]) -> int:
        """Cycles that the rows take if none waits."""
        return sum(walked(self.architecture, self.fields(operation)).total for operation in operations)

    def fields(self, operation: RowOperation) -> dict[str, int]:
        """The fields that an operation's time follows from."""
        if operation not in self._fields:
            self._fields[operation] = timing_fields(operation, self.architecture)
        return self._fields[operation]

    def program_words(
        self, operations: Sequence[RowOperation], fences: Sequence[bool], *, in_turns: bool = False
    ) -> int:
        """Words of the instructions, about: loops are found as they will be, waits for the frame do not count."""
        following: dict[tuple[int, str], tuple[int, int, int]] = {}
        tokens: list[Token] = []
        starts = 0
        behind = -1
        for operation, fence in zip(reversed(operations), reversed(fences), strict=True):
            if in_turns and operation.step != behind:
                following.clear()
            behind = operation.step
            steps = []
            for role, access in operation.accesses:
                here = (access.row, access.words, access.groups)
                after = following.get((operation.step, role))
                starts += after is None
                steps.append(None if after is None else tuple(b - a for a, b in zip(here, after, strict=True)))
                following[operation.step, role] = here
            code = hash((operation.step, _shape(operation), fence, *steps))
            fields = self.fields(operation)
            tokens.append(Token("", (code,) * isa.row_word_count(fields)))
        _repeat_last(tokens, operations)
        return len(fold(tokens[::-1])[0]) + starts


def pointer_count(steps: Iterable[StepRows]) -> int:
    """Pointers that the steps need at once."""
    return len({(step.step, role) for step in steps for role in _roles(step)})


def _roles(step: StepRows) -> set[str]:
    return {role for operation in step.operations for role, _ in operation.accesses}


def _shape(operation: RowOperation) -> tuple[object, ...]:
    return (
        operation.kernel_rows,
        operation.row_words,
        operation.pad_words,
        operation.columns,
        operation.groups,
        operation.first_tap,
        id(operation.weights),
        id(operation.parameters),
        operation.pooling,
    )


def _repeat_last(tokens: list[Token], operations: Sequence[RowOperation]) -> None:
    """The last operation of a step may leave its pointers anywhere: it becomes like the one before, where it is."""
    seen: dict[int, int] = {}
    for place, operation in enumerate(reversed(operations)):
        if operation.step not in seen:
            seen[operation.step] = place
        elif seen[operation.step] >= 0:
            last = operations[len(operations) - 1 - seen[operation.step]]
            if _shape(last) == _shape(operation):
                tokens[seen[operation.step]] = tokens[place]
            seen[operation.step] = -1
