"""Pass: what a compact machine leaves out is refused here, with the layer's name and the reason."""

from __future__ import annotations

from collections.abc import Sequence

from emberline.arch.architecture import Architecture
from emberline.arch.compact_timing import can_scale
from emberline.compiler.checks import refuse
from emberline.compiler.rows import RowOperation, StepRows


def check_compact(steps: Sequence[StepRows], architecture: Architecture) -> None:
    """Raise ``CompileError`` for a row operation that a compact machine does not have; all others have them all."""
    if architecture.compact:
        for step in steps:
            for operations in step.rows:
                for operation in operations:
                    _check(operation, architecture)


def _check(operation: RowOperation, architecture: Architecture) -> None:
    where = f"on '{architecture.name}'"
    cache, words = architecture.weight_cache_words, operation.taps
    if operation.pooling is not None:
        raise refuse(operation.layer, f"there are no maxima {where}")
    if not operation.weights.hold and words > cache:
        raise refuse(operation.layer, f"a kernel of {words} words does not fit the cache of {cache} words {where}")
    parameters, addition = operation.parameters, operation.addition
    shifts = set(zip(parameters.left_shift.tolist(), parameters.right_shift.tolist(), strict=True))
    if addition is not None:
        shifts |= {(0, right) for right in (addition.result_shift, addition.residual_shift, addition.sum_shift)}
    for left, right in sorted(shifts):
        if not can_scale(left, right):
            raise refuse(
                operation.layer, f"scaling by shifts of {left} to the left and {right} to the right cannot run {where}"
            )
