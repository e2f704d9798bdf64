"""Stages in turns: pointers and weights that come anew for every step's part of a band."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fetched import MACHINE, equal_to_model, fires, least_memory
from random_graphs import random_frames

from emberline.arch.timing import predict
from emberline.compiler.network_plan import WeightPlace, plan_network
from emberline.compiler.rows import RowOperation
from emberline.compiler.schedule.turns import plan_turns


class Order:
    """Operations of which only the step counts."""

    def __init__(self, *steps: int) -> None:
        self.operations = [RowOperation.__new__(RowOperation) for _ in steps]
        for operation, step in zip(self.operations, steps, strict=True):
            operation.step = step


def test_weights_stay_that_leave_room_for_two_turns() -> None:
    order = Order(0, 0, 1, 2, 3, 0, 0, 1, 2, 3, 3, 0, 1, 2, 3).operations
    weights = {0: 30, 1: 20, 2: 20, 3: 50}
    stored = {step: 8.0 * size for step, size in weights.items()}
    assert plan_turns(order, weights, stored, 49) is None
    crowded = plan_turns(order, weights, stored, 79)
    assert crowded is not None and (crowded.kept, crowded.weight_bytes) == (frozenset(), 80)
    tight, more, all_of_them = (plan_turns(order, weights, stored, available) for available in (80, 100, 120))
    assert tight is not None and more is not None and all_of_them is not None
    assert (tight.kept, tight.weight_bytes, tight.fetched_bytes) == (frozenset(), 80, 3 * 120)
    assert (more.kept, more.weight_bytes, more.fetched_bytes) == (frozenset({3}), 50, 50 + 3 * 70)
    assert (all_of_them.kept, all_of_them.fetched_bytes) == (frozenset({0, 1, 2, 3}), 120)
    dense = plan_turns(order, weights, stored | {3: 200.0}, 100)
    assert dense is not None and 3 not in dense.kept


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_in_turns_equal_the_model(seed: int) -> None:
    """In as little memory as there is a program for, every cycle as predicted."""
    rng = np.random.default_rng(seed)
    graph = fires(rng)
    frames = random_frames(rng, graph, 2)
    machine = replace(MACHINE, weight_depth_words=int(rng.integers(116, 160)), program_depth_words=256)
    program = least_memory(graph, machine)
    assert program is not None
    equal_to_model(program, graph, frames)
    assert predict(program.architecture, program.instructions).cycles == program.predicted_cycles
    again = program.fetched_bytes > len(program.stream)
    plan = plan_network(graph, program.architecture, WeightPlace.FLASH)
    assert not again or any(stage.kept is not None for stage in plan.schedule.stages)
