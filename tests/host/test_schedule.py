"""Schedules found by search: rows of several steps interleaved over ring buffers give the network's own values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_cases import Network, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import ARRANGING, BLOCKS, Limits, graphs, random_frames

from emberline.arch.architecture import Architecture
from emberline.compiler.compile import compile_graph
from emberline.compiler.cuts import cut_channels
from emberline.compiler.legalise import legalise
from emberline.compiler.lower import lower
from emberline.compiler.network_plan import WeightPlace, plan_network, plan_places
from emberline.compiler.rows import RowOperation, StepRows, Storage
from emberline.compiler.schedule.groups import Interleaving, interleave
from emberline.compiler.schedule.rings import row_lives, rows_read, rows_written
from emberline.errors import CompileError
from emberline.model.emulator import Emulator
from emberline.model.graph import Graph
from emberline.model.network import run
from emberline.zoo.synthetic import squeezenet_style

MACHINE = Architecture("test", 8, 4, activation_depth_words=32768, weight_depth_words=16384, program_depth_words=16384)
PAIRING = replace(MACHINE, name="pairing", lanes_out=8, requantisers=8)
"""Computes depthwise rows two at a time."""
LIMITS = Limits(
    max_size=14,
    max_blocks=5,
    heads=2,
    single_rounding=False,
    dilation=True,
    depthwise=True,
    blocks=(*BLOCKS, *ARRANGING),
)
ORDERS = [Interleaving(band, apart) for band in (0, 1, 3) for apart in (False, True)]


SEPARABLE = replace(LIMITS, blocks=("separable", "separable", "convolution", "max_pool", "parallel", "residual"))


def lowered(graph: Graph) -> list[StepRows]:
    graph = legalise(graph)
    return lower(graph, *plan_places(graph, MACHINE), MACHINE)


def paired(graph: Graph) -> list[StepRows]:
    """With depthwise rows in pairs."""
    graph = legalise(graph)
    return [step.pairs or step for step in lower(graph, *plan_places(graph, PAIRING), PAIRING)]


STEPS = st.one_of(graphs(LIMITS).map(lowered), graphs(SEPARABLE).map(paired))


@given(STEPS, st.sampled_from(ORDERS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_interleaving_keeps_the_order_of_accesses_to_every_row(steps: list[StepRows], how: Interleaving) -> None:
    order = interleave(steps, how)
    plain = [operation for step in steps for operation in step.operations]
    assert {id(each) for each in order} == {id(each) for each in plain} and len(order) == len(plain)
    assert _histories(order) == _histories(plain)


def _histories(operations: list[RowOperation]) -> dict[tuple[Storage, int, int], list[set[str]]]:
    """For every storage row, and every group at which writing it begins, its writes in their order, and between them
    the steps that read it."""
    parts: dict[tuple[Storage, int], set[int]] = {}
    for operation in operations:
        for access in rows_written(operation):
            parts.setdefault(access, set()).add(operation.target.groups)
    histories: dict[tuple[Storage, int, int], list[set[str]]] = {}
    for operation in operations:
        for access in rows_read(operation):
            for group in parts.get(access, ()):
                histories.setdefault((*access, group), [set()])[-1].add(f"read by {operation.step}")
        for access in rows_written(operation):
            past = histories.setdefault((*access, operation.target.groups), [set()])
            name = f"written by {operation.step}"
            past += [] if name in past[-1] else [{name}]
    return histories


@given(STEPS, st.sampled_from(ORDERS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rings_keep_every_row_until_its_last_reader(steps: list[StepRows], how: Interleaving) -> None:
    order = interleave(steps, how)
    for storage, lives in row_lives(order).items():
        ring = lives.least_ring()
        assert 1 <= ring <= storage.height
        used = np.flatnonzero(lives.born <= lives.dies)
        for row in used:
            for other in used[(used > row) & ((used - row) % ring == 0)]:
                assert lives.born[other] > lives.dies[row], (storage.name, row, other)


@given(
    st.one_of(st.tuples(graphs(LIMITS), st.just(MACHINE)), st.tuples(graphs(SEPARABLE), st.just(PAIRING))),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_programs_of_little_memory_compute_the_same(case: tuple[Graph, Architecture], seed: int) -> None:
    """Half of the memory as often as a schedule is found: its emulation refuses a row that is read too late."""
    graph, plenty = case
    frames = random_frames(np.random.default_rng(seed), graph, 2)
    expected = run(graph, frames, keep=True)
    depth = plenty.activation_depth_words
    while depth >= 16:
        machine = replace(plenty, activation_depth_words=depth)
        try:
            program = compile_graph(graph, machine)
        except CompileError:
            return
        emulator = Emulator(machine)
        emulator.load(program)
        for number, frame in enumerate(frames):
            for name, values in emulator.run(frame).maps.items():
                np.testing.assert_array_equal(values, expected[name][number], err_msg=name)
        depth //= 2


def fire_stack() -> Graph:
    net = Network(24, 20, 3)
    x = net.convolution("input", 16, (3, 3), stride=(2, 2))
    for _ in range(2):
        narrow = net.convolution(x, 8, (1, 1))
        x = net.concatenate([net.convolution(narrow, 24, (1, 1)), net.convolution(narrow, 24, padding=same(3))])
    net.average_pool(net.convolution(x, 10, (1, 1)), (11, 9))
    return net.graph()


def test_less_memory_costs_few_cycles() -> None:
    graph = fire_stack()
    plenty = compile_graph(graph, MACHINE)
    short = compile_graph(graph, replace(MACHINE, activation_depth_words=512))
    assert len(plenty.memory) == len(short.memory)
    assert plenty.predicted_cycles <= short.predicted_cycles < 1.05 * plenty.predicted_cycles


def separable_stack() -> Graph:
    net = Network(20, 16, 8)
    x = "input"
    for _ in range(2):
        x = net.convolution(net.convolution(x, 32, (1, 1)), 32, (3, 3), groups=32, padding=same(3))
        x = net.convolution(x, 8, (1, 1))
    net.average_pool(x, (20, 16))
    return net.graph()


def test_depthwise_rows_come_in_pairs_where_the_memory_has_room() -> None:
    """Layer by layer, and in rings; values stay the same."""
    graph = separable_stack()
    single = compile_graph(graph, replace(PAIRING, depthwise_columns=5)).predicted_cycles
    frames = random_frames(np.random.default_rng(1), graph, 2)
    expected = run(graph, frames)
    cycles = []
    for words in (PAIRING.activation_depth_words, 1000, 850):
        machine = replace(PAIRING, activation_depth_words=words)
        operations = plan_network(graph, machine).schedule.operations
        assert [each.computes_pair for each in operations if each.depthwise].count(True) == 18
        program = compile_graph(graph, machine)
        cycles.append(program.predicted_cycles)
        emulator = Emulator(machine)
        emulator.load(program)
        for number, frame in enumerate(frames):
            for name, values in emulator.run(frame).results.items():
                np.testing.assert_array_equal(values, expected[name][number], err_msg=name)
    assert cycles[0] <= cycles[1] < cycles[2] < single


@pytest.mark.parametrize("word_cycles, in_pairs", [(8, True), (1024, False)])
def test_fetched_weights_decide_about_pairs(word_cycles: int, in_pairs: bool) -> None:
    """They take a word more for each word of channels: too long from a slow flash."""
    machine = replace(PAIRING, weight_word_cycles=word_cycles)
    operations = plan_network(separable_stack(), machine, WeightPlace.FLASH).schedule.operations
    assert any(each.computes_pair for each in operations) == in_pairs


def test_what_is_missing_is_said_with_the_layer_that_decides() -> None:
    message = r"^layer 'conv\d': needs 1\.984 KiB of activation memory, 1\.000 KiB available on 'test'"
    with pytest.raises(CompileError, match=message):
        compile_graph(fire_stack(), replace(MACHINE, activation_depth_words=128))


def test_squeezenet_stack_in_a_quarter_of_its_memory() -> None:
    graph = squeezenet_style("stack")
    machine = Architecture("test", 16, 8, activation_depth_words=2048, weight_depth_words=1024, adders=2)
    program = compile_graph(graph, machine)
    largest = max(graph.feature_maps[layer.output].height * graph.feature_maps[layer.output].width
                  * graph.feature_maps[layer.output].channels for layer in graph.layers)  # fmt: skip
    assert largest > 4 * machine.activation_bytes
    emulator = Emulator(machine)
    emulator.load(program)
    frame = random_frames(np.random.default_rng(0), graph, 1)
    (name, values), *_ = emulator.run(frame[0]).maps.items()
    np.testing.assert_array_equal(values, run(graph, frame, keep=True)[name][0])


# --- pieces and weights that are fetched


def averaged() -> Graph:
    net = Network(10, 10, 3)
    x = net.convolution(net.convolution("input", 16), 40, (1, 1))
    net.convolution(net.average_pool(x, (8, 8)), 5, (1, 1))
    return net.graph()


def test_pieces_of_channels_are_the_same_network() -> None:
    graph = averaged()
    frame = random_frames(np.random.default_rng(0), graph, 1)
    (expected,) = (run(graph, frame)[name] for name in graph.outputs)
    for pieces in (1, 2, 4, 5):
        cut = cut_channels(graph, {"conv1": pieces}, MACHINE)
        assert sum(layer.name.startswith("conv1[") for layer in cut.layers) == min(pieces, -(-5 // -(-5 // pieces)))
        (values,) = (run(cut, frame)[name] for name in cut.outputs)
        np.testing.assert_array_equal(values, expected)


def test_a_map_that_is_only_averaged_is_computed_in_pieces() -> None:
    graph = averaged()
    machine = replace(MACHINE, activation_depth_words=320)
    program = compile_graph(graph, machine)
    assert any(layer.name.startswith("conv1[") for layer in program.layers)
    assert program.macs == graph.macs()
    emulator = Emulator(machine)
    emulator.load(program)
    frame = random_frames(np.random.default_rng(0), graph, 1)
    (name, values), *_ = emulator.run(frame[0]).maps.items()
    np.testing.assert_array_equal(values, run(graph, frame, keep=True)[name][0])
