"""Rows that lie one behind the other: which become one long row, which must not, and what it saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from graph_cases import Network, same
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import BLOCKS, Limits, graphs, random_frames

from emberline.arch.architecture import Architecture
from emberline.arch.presets import preset
from emberline.compiler.compile import compile_graph, compile_plan
from emberline.compiler.long_rows import can_join, continues, join
from emberline.compiler.network_plan import NetworkPlan, place_weights, plan_network
from emberline.compiler.rows import Access, RowOperation, Schedule
from emberline.compiler.schedule import plan as planning
from emberline.errors import CompileError
from emberline.model import network
from emberline.model.emulator import Emulator
from emberline.model.graph import Graph, Padding
from emberline.zoo.synthetic import synthetic_network

MACHINE = Architecture("test", 8, 4, activation_depth_words=8192, weight_depth_words=8192, program_depth_words=8192)
LIMITS = Limits(max_size=9, max_kernel=3, max_stride=1, max_blocks=3, single_rounding=False, blocks=BLOCKS)


def plan_of(graph: Graph, architecture: Architecture = MACHINE) -> NetworkPlan:
    """With fences."""
    plan = plan_network(graph, architecture)
    place_weights(plan, architecture, 0)
    return plan


def lengths(plan: NetworkPlan, layer: str) -> list[int]:
    return [each.rows for each in plan.schedule.operations if each.layer.startswith(layer)]


def assert_equal_to_model(graph: Graph, plan: NetworkPlan, architecture: Architecture) -> None:
    frames = random_frames(np.random.default_rng(1), graph, 3)
    expected, emulator = network.run(graph, frames), Emulator(architecture)
    emulator.load(compile_plan(graph, plan, architecture))
    for index, frame in enumerate(frames):
        results = emulator.run(frame).results
        for name in graph.outputs:
            np.testing.assert_array_equal(results[name], expected[name][index])


# --- what becomes one row


def test_a_single_layer_is_one_row_near_its_steady_state() -> None:
    machine = preset("ulx3s-85f")
    graph = synthetic_network("synthetic-1x1")
    program = compile_graph(graph, machine)
    assert lengths(plan_of(graph, machine), "layer") == [24]
    assert graph.macs() / machine.multipliers / program.predicted_cycles > 0.99


def test_between_layers_two_rows_need_no_fence() -> None:
    net = Network(12, 12, 8)
    x = net.convolution("input", 8, padding=same(3))
    x = net.convolution(x, 16, (1, 1))
    net.convolution(x, 8, padding=same(3))
    plan = plan_of(net.graph())
    assert lengths(plan, "conv0") == lengths(plan, "conv2") == [1] * 12
    assert lengths(plan, "conv1") == [6, 6]
    assert not any(each.fence for each in plan.schedule.operations)
    assert_equal_to_model(net.graph(), plan, MACHINE)


def test_more_columns_than_an_instruction_has_are_more_rows() -> None:
    net = Network(70, 70, 4)
    net.convolution(net.convolution("input", 4, padding=same(3)), 4, (1, 1))
    machine = replace(MACHINE, activation_depth_words=32768)
    plan = plan_of(net.graph(), machine)
    assert sum(lengths(plan, "conv1")) == 70
    assert 2 <= len(lengths(plan, "conv1")) <= 3
    assert max(each.columns for each in plan.schedule.operations) <= 4095
    assert_equal_to_model(net.graph(), plan, machine)


def test_a_sum_in_place_is_one_row() -> None:
    net = Network(8, 8, 8)
    x = net.convolution("input", 8, padding=same(3))
    net.convolution(net.add(net.convolution(x, 8, (1, 1)), x), 8)
    plan = plan_of(net.graph())
    (operation,) = (each for each in plan.schedule.operations if each.addition is not None)
    assert operation.rows == 8 and operation.residual is not None
    assert_equal_to_model(net.graph(), plan, MACHINE)


def test_a_kernel_of_one_column_is_joined_where_all_its_rows_are_inside() -> None:
    net = Network(10, 6, 4)
    x = net.convolution("input", 4, padding=same(3))
    net.convolution(x, 4, (3, 1), padding=Padding(1, 1, 0, 0))
    plan = plan_of(net.graph())
    assert lengths(plan, "conv1")[0] == lengths(plan, "conv1")[-1] == 1
    assert sum(lengths(plan, "conv1")) == 10 and max(lengths(plan, "conv1")) >= 4
    assert_equal_to_model(net.graph(), plan, MACHINE)


# --- what does not


def strided(net: Network, x: str) -> None:
    net.convolution(x, 8, (1, 1), stride=(2, 2))


def wide(net: Network, x: str) -> None:
    net.convolution(x, 8, (1, 3))


def padded(net: Network, x: str) -> None:
    net.convolution(x, 8, (1, 1), padding=Padding(0, 0, 1, 1))


def pooled(net: Network, x: str) -> None:
    net.max_pool(net.convolution(x, 8, (1, 1)), (2, 2), (2, 2))


def averaged(net: Network, x: str) -> None:
    net.average_pool(x, (2, 2), (1, 1))


@pytest.mark.parametrize("last", [strided, wide, padded, pooled, averaged])
def test_rows_that_are_not_one_behind_the_other_stay(last: Callable[[Network, str], None]) -> None:
    net = Network(8, 8, 8)
    last(net, net.convolution("input", 8, padding=same(3)))
    assert {each.rows for each in plan_of(net.graph()).schedule.operations} == {1}


def test_rows_of_a_frame_stay_unless_two_frames_have_room() -> None:
    net = Network(8, 8, 8)
    net.convolution("input", 8, (1, 1))
    assert lengths(plan_of(net.graph()), "conv0") == [8]
    plan = plan_of(net.graph(), replace(MACHINE, activation_depth_words=64 + 2 * 64 - 1))
    assert plan.schedule.frame.ring_rows < 16 and lengths(plan, "conv0") == [1] * 8
    plan = plan_of(net.graph(), replace(MACHINE, activation_depth_words=64 + 2 * 64))
    assert plan.schedule.frame.ring_rows == 16 and lengths(plan, "conv0") == [8]


def test_frames_of_more_rows_than_an_instruction_releases_stay() -> None:
    net = Network(300, 2, 4)
    net.convolution("input", 4, (1, 1))
    assert lengths(plan_of(net.graph()), "conv0") == [1] * 300


def pair() -> tuple[RowOperation, RowOperation]:
    """Two rows of a 1x1 convolution from a map to another one, at separate addresses."""
    net = Network(8, 8, 8)
    net.convolution(net.convolution(net.convolution("input", 8, padding=same(3)), 8, (1, 1)), 8)
    plan = plan_network(net.graph(), MACHINE)
    first, second = (each for each in plan.rows[1].operations if each.target.row in (2, 3))
    source, target = replace(first.source.storage), replace(first.target.storage)
    source.start, target.start, source.ring_rows, target.ring_rows = 1000, 3000, 8, 8

    def moved(operation: RowOperation) -> RowOperation:
        row = operation.target.row
        return replace(operation, source=Access(source, row), target=Access(target, row))

    return moved(first), moved(second)


def test_a_wrapped_ring_ends_a_row() -> None:
    first, second = pair()
    assert continues(first, second) and not continues(second, first)
    for storage in (first.source.storage, first.target.storage):
        storage.ring_rows = 3
        assert not continues(first, second)
        storage.ring_rows = 4
        assert continues(first, second)


@pytest.mark.parametrize("changed", ["source", "target"])
def test_a_row_elsewhere_ends_a_row(changed: str) -> None:
    first, second = pair()
    access = getattr(second, changed)
    for moved in (replace(access, row=5), replace(access, words=1), replace(access, groups=1)):
        assert not continues(first, replace(second, **{changed: moved}))


@pytest.mark.parametrize("field", ["clamp_max", "target_zero", "first_tap", "step", "pad_words", "kernel_rows"])
def test_other_settings_end_a_row(field: str) -> None:
    first, second = pair()
    assert not continues(first, replace(second, **{field: getattr(second, field) + 1}))


def test_a_target_over_the_source_is_written_row_by_row() -> None:
    """A map that grows over the one it is computed from: a row may be written where the one before was read."""
    rows = pair()
    source, target = rows[0].source.storage, rows[0].target.storage
    row_groups = source.row_words * MACHINE.groups_per_word
    assert can_join(rows, MACHINE)
    target.start = source.start - row_groups  # row 3 is written over row 2 of the source, which group 1 reads again
    assert can_join(rows[:1], MACHINE) and not can_join(rows, MACHINE)
    target.start = source.start - 2 * row_groups
    assert can_join(rows, MACHINE)


def test_a_residual_is_overwritten_in_place_or_not_at_all() -> None:
    rows = [replace(each, residual=Access(each.target.storage, each.target.row)) for each in pair()]
    assert continues(*rows) and can_join(rows, MACHINE)
    storage = replace(rows[0].target.storage)
    rows = [replace(each, residual=Access(storage, each.target.row)) for each in rows]
    storage.start += storage.row_words * MACHINE.groups_per_word
    assert not can_join(rows, MACHINE)
    storage.start += storage.row_words * MACHINE.groups_per_word
    assert can_join(rows, MACHINE)
    assert not continues(rows[0], replace(rows[1], residual=None))


def test_a_long_row_reads_and_writes_what_its_rows_do() -> None:
    rows = pair()
    long = join(rows)
    assert (long.rows, long.columns, long.row_words) == (2, 16, rows[0].row_words + rows[0].source.storage.row_words)
    assert join(rows[:1]).columns == rows[0].columns


# --- a whole schedule


def apart(schedule: Schedule, architecture: Architecture) -> Schedule:
    """Instead of ``join_rows``."""
    return schedule


def test_a_program_that_would_be_too_long_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows are a loop of one instruction, or two instructions of three rows and of four."""
    net = Network(7, 7, 8)
    x = net.convolution("input", 8, padding=same(3))
    net.convolution(net.convolution(x, 8, (1, 1)), 8, padding=same(3))
    graph = net.graph()
    assert len(lengths(plan_of(graph), "conv1")) == 2
    long = len(compile_graph(graph, MACHINE).instructions)
    with monkeypatch.context() as patch:
        patch.setattr(planning, "join_rows", apart)
        short = len(compile_graph(graph, MACHINE).instructions)
    assert short < long
    machine = replace(MACHINE, program_depth_words=short)
    assert lengths(plan_of(graph, machine), "conv1") == [1] * 7
    assert len(compile_graph(graph, machine).instructions) == short


@given(graphs(LIMITS), st.sampled_from([64, 128, 256, 512, 8192]), st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_joined_rows_are_exact_and_never_slower(graph: Graph, words: int, compact: bool) -> None:
    machine = preset("up5k-4x4") if compact else replace(MACHINE, activation_depth_words=words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "join_rows", apart)
        try:
            rows = plan_network(graph, machine)
        except CompileError:
            assume(False)
        alone = compile_plan(graph, rows, machine)
    plan = plan_of(graph, machine)
    assert sum(each.rows for each in plan.schedule.operations) == len(rows.schedule.operations)
    assert compile_plan(graph, plan, machine).predicted_cycles <= alone.predicted_cycles
    assert_equal_to_model(graph, plan, machine)
