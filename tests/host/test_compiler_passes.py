"""The compiler's passes one by one: rounding, division, loops, memory, weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from graph_cases import Network, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import Limits, graphs

from emberline.arch.architecture import Architecture
from emberline.arch.isa import FRAME, LOOP_DEPTH, Opcode
from emberline.arch.listing import decode, encode
from emberline.compiler.allocate import allocate
from emberline.compiler.compile import compile_graph
from emberline.compiler.division import divide_by
from emberline.compiler.loops import Token, fold
from emberline.compiler.lower import lower
from emberline.compiler.network_plan import plan_places
from emberline.compiler.rounding import plan_scaling, sum_range
from emberline.compiler.rows import Layout, Parameters, Role, Schedule
from emberline.compiler.schedule.rings import row_lives
from emberline.compiler.weights import Kernel, fold_parameters, pack_parameters, plan_runs
from emberline.errors import CompileError
from emberline.model.graph import NO_PADDING, Convolution, Graph, Padding
from emberline.model.numerics import multiply_by_quantised_multiplier, rounded_mean

MACHINE = Architecture("test", 8, 4, activation_depth_words=16384, weight_depth_words=8192, program_depth_words=8192)
LIMITS = Limits(heads=2, single_rounding=False, depthwise=True)


def schedule_of(graph: Graph, architecture: Architecture = MACHINE) -> Schedule:
    """Layer by layer."""
    steps, places = plan_places(graph, architecture)
    rows = lower(graph, steps, places, architecture)
    return Schedule([each for step in rows for each in step.operations], places.frame, places.storages)


# --- division


@pytest.mark.parametrize("count", [*range(1, 65), 81, 121, 169, 196, 225, 256, 784, 3136])
def test_division_is_the_rounded_mean_of_every_sum(count: int) -> None:
    division = divide_by(count)
    assert division is not None
    multiplier, left, right = division
    sums = np.arange(-128 * count, 127 * count + 1)
    assert int(np.abs(sums).max()) << left < 1 << 30
    assert 0 <= multiplier < 1 << 31 and 0 <= left <= 31 and 0 <= right <= 31
    got = multiply_by_quantised_multiplier(sums << left, multiplier, -right)
    np.testing.assert_array_equal(got, rounded_mean(sums, count))


def test_division_by_too_many_is_none() -> None:
    assert divide_by(1 << 23) is None


# --- rounding


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(2**-12, 2**-2))
@settings(max_examples=40, deadline=None)
def test_single_rounding_has_an_equal_with_two_or_is_refused(channels: int, seed: int, ratio: float) -> None:
    net = Network(1, 1, channels, seed=seed)
    shift = int(np.floor(np.log2(ratio))) + 1
    multiplier = min(int(ratio * 2 ** (31 - shift)), 2**31 - 1)
    net.convolution("input", 2, (1, 1), multiplier=multiplier, shift=shift, single_rounding=True)
    layer = net.layers[0]
    assert isinstance(layer, Convolution)
    try:
        scaling = plan_scaling(layer, -7, -7)
    except CompileError:
        return
    low, high = sum_range(layer, -7)
    for channel in range(2):
        sums = np.unique(np.linspace(low[channel], high[channel], 5_001).astype(np.int64))
        expected = multiply_by_quantised_multiplier(sums, multiplier, shift, single_rounding=True) - 7
        scaled = sums << int(scaling.left_shift[channel])
        assert np.abs(scaled).max() < 1 << 31
        got = multiply_by_quantised_multiplier(
            scaled, int(scaling.multiplier[channel]), -int(scaling.right_shift[channel])
        )
        np.testing.assert_array_equal(np.clip(got - 7, -128, 127), np.clip(expected, -128, 127))


def test_small_layers_keep_single_rounding() -> None:
    net = Network(1, 1, 64)
    net.convolution("input", 10, (1, 1), shift=-9, multiplier=1_500_000_001, single_rounding=True)
    layer = net.layers[0]
    assert isinstance(layer, Convolution)
    scaling = plan_scaling(layer, -7, -7)
    assert (scaling.left_shift >= 8).all()
    np.testing.assert_array_equal(scaling.right_shift - scaling.left_shift, 9)


# --- loops


def expand(words: list[int]) -> list[tuple[int, ...]]:
    """The instructions in order of execution, loops unrolled."""
    words = [*words, *encode(Opcode.END, {})]
    listing = decode(words)
    found: list[tuple[int, ...]] = []
    stack: list[list[int]] = []
    index = deepest = 0
    while listing[index].opcode is not Opcode.END:
        each = listing[index]
        index += 1
        if each.opcode is Opcode.LOOP:
            stack.append([index, each.fields["count"]])
            deepest = max(deepest, len(stack))
        elif each.opcode is Opcode.NEXT:
            stack[-1][1] -= 1
            if stack[-1][1]:
                index = stack[-1][0]
            else:
                stack.pop()
        else:
            found.append(tuple(words[each.address : each.address + each.word_count]))
    assert deepest <= LOOP_DEPTH
    return found


@given(
    st.recursive(
        st.lists(st.integers(0, 3), max_size=4), lambda inner: st.tuples(inner, st.integers(1, 6)), max_leaves=6
    )
)
@settings(max_examples=200, deadline=None)
def test_folded_loops_execute_the_same(pattern: object) -> None:
    def flatten(node: object) -> list[int]:
        if isinstance(node, tuple):
            return flatten(node[0]) * node[1]
        assert isinstance(node, list)
        return node

    tokens = [Token("", tuple(encode(Opcode.SET, {"pointer": code, "value": 7}))) for code in flatten(pattern)]
    tokens += [Token("", tuple(encode(Opcode.FRAME, _frame(code)))) for code in flatten(pattern)]
    words, layers = fold(tokens)
    assert expand(words) == [token.words for token in tokens]
    assert len(words) <= sum(len(token.words) for token in tokens)
    assert set(layers) <= set(range(len(words)))


def _frame(channels: int) -> dict[str, int]:
    names = (field.name for field in FRAME.fields if field.name != "opcode")
    return {**dict.fromkeys(names, 1), "channels": channels}


def test_rows_of_a_layer_make_one_loop() -> None:
    token = Token("a", tuple(encode(Opcode.FRAME, _frame(1))))
    words, layers = fold([token] * 100)
    assert len(words) == len(token.words) + 2
    assert layers == {1: ("a", False)}


# --- memory


@given(graphs(LIMITS), st.sampled_from([(4, 4), (8, 4), (16, 8)]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_live_rows_never_overlap(graph: Graph, lanes: tuple[int, int]) -> None:
    architecture = Architecture("test", *lanes, activation_depth_words=32768, weight_depth_words=64)
    schedule = schedule_of(graph, architecture)
    allocate(schedule, architecture)
    groups = architecture.groups_per_word
    always = [each for each in schedule.storages if each.role is Role.RESULT] + [schedule.frame]
    always_words = {id(each): range(each.start, each.start + each.words * groups) for each in always}
    lives = row_lives(schedule.operations)
    owner: dict[int, list[tuple[int, int]]] = {}
    for storage, rows in lives.items():
        for row, (born, dies) in enumerate(zip(rows.born, rows.dies, strict=True)):
            first = storage.start + row * storage.row_words * groups
            if born <= dies:
                assert not any(first in taken for taken in always_words.values())
                for group in range(first, first + storage.row_words * groups):
                    assert all(dies < b or d < born for b, d in owner.get(group, [])), (storage, row)
                    owner.setdefault(group, []).append((int(born), int(dies)))
    for a, b in combinations(always, 2):
        assert a.start + a.words * groups <= b.start or b.start + b.words * groups <= a.start, (a, b)
    for storage in (*schedule.storages, schedule.frame):
        assert storage.start % groups == 0
        assert storage.start >= 0 and storage.start + storage.words * groups <= architecture.activation_depth_groups
    assert len(lives) + len(always) - 1 == len(schedule.storages)


def test_dead_rows_make_room() -> None:
    """A map that is written takes the place of rows that have been read; in a long chain two maps take turns."""
    net = Network(8, 8, 4)
    x = net.convolution("input", 8, (1, 1))
    x = net.convolution(x, 8, (3, 3), padding=same(3))
    net.convolution(x, 1, (8, 8))
    assert heap_rows(net.graph()) == 8 + 2

    net = Network(8, 8, 4)
    x = net.convolution("input", 8, (1, 1))
    for _ in range(5):
        x = net.convolution(x, 8, (3, 3), padding=same(3))
    net.convolution(x, 1, (8, 8))
    assert heap_rows(net.graph()) == 8 + 8

    net = Network(8, 8, 4)
    x = net.convolution("input", 8, (1, 1))
    for _ in range(3):
        x = net.add(x, net.convolution(net.convolution(x, 8, (3, 3), padding=same(3)), 8, (3, 3), padding=same(3)))
    net.convolution(x, 1, (8, 8))
    assert heap_rows(net.graph()) == 8 + 8


def heap_rows(graph: Graph) -> int:
    schedule = schedule_of(graph)
    assert allocate(schedule, MACHINE) == 0
    maps = [each for each in schedule.storages if each.role is Role.MAP]
    return (max(each.start + each.words * 2 for each in maps) - min(each.start for each in maps)) // (8 * 2)


def test_frame_ring_holds_two_frames_if_there_is_room() -> None:
    net = Network(8, 8, 4)
    net.convolution("input", 8, (3, 3))
    schedule = schedule_of(net.graph())
    allocate(schedule, MACHINE)
    assert schedule.frame.ring_rows == 2 * schedule.frame.height


# --- weights


def test_parameters_lie_in_their_channels_lanes() -> None:
    values = np.arange(8)
    parameters = Parameters(values - 5, values + 1000, values % 3, values)
    image = np.frombuffer(pack_parameters(parameters, MACHINE), np.uint8).reshape(2, 2, 4, 8)
    for channel in range(8):
        record = image[channel // 4, :, channel % 4].tobytes()
        assert int.from_bytes(record[0:4], "little", signed=True) == channel - 5
        assert int.from_bytes(record[4:8], "little") == channel + 1000
        assert record[8] == channel % 3
        assert record[9] == channel
        assert record[10:] == bytes(6)


def test_weights_lie_at_their_channels_bytes() -> None:
    """Output channel, tap and input channel of every weight, with holes between the input's channels."""
    net = Network(4, 4, 5)
    net.convolution("input", 6, (2, 3))
    layer = net.layers[0]
    assert isinstance(layer, Convolution)
    positions = (1, 2, 9, 10, 15)
    scaling = plan_scaling(layer, 0, 0)
    kernel = Kernel(layer.weights, 1, positions, layer.bias.astype(np.int64), scaling, 3)
    target = Layout((0, 1, 2, 4, 5, 6), 2)
    (run,) = plan_runs(kernel, target, MACHINE)
    assert (run.group, run.groups, run.word, run.words) == (0, 2, 0, 2)
    words = run.weights.words.reshape(2, 2, 3, 2, 4, 8)
    total = 0
    for o, place_out in enumerate(target.positions):
        for i, place_in in enumerate(positions):
            lane = words[place_out // 4, :, :, place_in // 8, place_out % 4, place_in % 8]
            np.testing.assert_array_equal(lane, layer.weights[o, :, :, i])
            total += int(np.abs(lane, dtype=np.int64).sum())
    assert total == int(np.abs(words, dtype=np.int64).sum())
    folded = fold_parameters(kernel, target, run, slice(1, 2), MACHINE)
    expected = layer.bias - 3 * layer.weights[:, 1:].sum(axis=(1, 2, 3), dtype=np.int64)
    np.testing.assert_array_equal(folded.bias[list(target.positions)], expected)
    np.testing.assert_array_equal(folded.multiplier[[3, 7]], 0)


def test_depthwise_is_cut_into_words() -> None:
    """Where the mode does not fit: two outputs for each input channel."""
    net = Network(4, 4, 3)
    net.convolution(net.convolution("input", 20, (1, 1)), 40, (3, 3), groups=20)
    operations = [each for each in schedule_of(net.graph()).operations if each.layer == "conv1" and not each.target.row]
    assert [each.channel_words for each in operations] == [1, 1, 1]
    assert [each.groups for each in operations] == [4, 4, 2]
    assert not any(each.depthwise for each in operations)


def test_depthwise_mode_takes_all_words_at_once() -> None:
    net = Network(6, 9, 3)
    net.convolution(net.convolution("input", 20, (1, 1)), 20, (3, 3), stride=(2, 2), padding=same(3), groups=20)
    operations = [each for each in schedule_of(net.graph()).operations if each.layer == "conv1"]
    assert [each.depthwise for each in operations] == [True] * 3
    assert [each.kernel_rows for each in operations] == [2, 3, 3]
    assert [each.first_tap for each in operations] == [1, 0, 0]
    layer, operation = net.layers[1], operations[1]
    assert isinstance(layer, Convolution)
    assert (operation.groups, operation.columns, operation.taps, operation.pad_words) == (3, 11, 3, 3)
    words = operation.weights.words
    assert words.shape == (3, 3, 4, 8)
    for channel in range(20):
        lanes = words[channel // 8, :, :, channel % 8]
        np.testing.assert_array_equal(lanes[:, :3], layer.weights[channel, :, ::-1, 0])
        assert not lanes[:, 3].any()


@pytest.mark.parametrize("stride, rows", [(1, [1, 2, 2, 2, 1, 1]), (2, [1, 2, 1])])
def test_depthwise_rows_are_computed_two_at_a_time(stride: int, rows: list[int]) -> None:
    """Those that have all their kernel rows; weights of the second row lie ``stride`` taps later, lanes behind."""
    machine = replace(MACHINE, lanes_out=8, requantisers=4)
    net = Network(9 if stride == 1 else 7, 9, 3)
    x = net.convolution("input", 12, (1, 1))
    net.convolution(x, 12, (3, 3), stride=(stride, stride), padding=same(3), groups=12)
    graph = net.graph()
    steps, places = plan_places(graph, machine)
    step = next(each for each in lower(graph, steps, places, machine) if each.name == "conv1")
    assert step.pairs is not None
    operations = list(step.pairs.operations)
    assert [1 + each.computes_pair for each in operations] == rows
    assert [each.target.row for each in operations] == [sum(rows[:index]) for index in range(len(rows))]
    assert sum(rows) == len(step.rows)
    pair = operations[1]
    assert (pair.kernel_rows, pair.first_tap, pair.source.row) == (3 + stride, 0, step.rows[1][0].source.row)
    assert pair.copy is not None and pair.copy.row == pair.target.row + 1
    assert all(each.weights is pair.weights for each in step.all_operations)
    layer, words = net.layers[1], pair.weights.words
    assert isinstance(layer, Convolution) and words.shape == (2, 3 + stride, 8, 8)
    for channel in range(12):
        lanes = words[channel // 8, :, :, channel % 8]
        kernel = layer.weights[channel, :, ::-1, 0]
        np.testing.assert_array_equal(lanes[:3, :3], kernel)
        np.testing.assert_array_equal(lanes[stride:, 3:6], kernel)
        assert not lanes[3:, :3].any() and not lanes[:stride, 3:6].any() and not lanes[:, 6:].any()


def test_depthwise_rows_are_computed_one_by_one_where_the_weights_of_two_do_not_fit() -> None:
    net = Network(9, 9, 3)
    net.convolution(net.convolution("input", 16, (1, 1)), 16, (3, 3), padding=same(3), groups=16)
    graph = net.graph()
    machine = replace(MACHINE, lanes_out=8, requantisers=4, weight_depth_words=64)
    program = compile_graph(graph, machine)
    words = len(program.weights) // machine.multipliers
    single = compile_graph(graph, replace(machine, weight_depth_words=words - 1))
    assert len(single.weights) // machine.multipliers == words - 2  # a word for each word of channels
    assert program.predicted_cycles < single.predicted_cycles


@pytest.mark.parametrize(
    "kernel, dilation, pooled", [((3, 4), 1, False), ((4, 3), 1, False), ((3, 3), 2, False), ((3, 3), 1, True)]
)
def test_depthwise_mode_is_left_where_it_does_not_fit(kernel: tuple[int, int], dilation: int, pooled: bool) -> None:
    net = Network(12, 12, 3)
    x = net.convolution(net.convolution("input", 8, (1, 1)), 8, kernel, dilation=(1, dilation), groups=8)
    if pooled:
        net.max_pool(x, (2, 2), (2, 2))
    assert not any(each.depthwise for each in schedule_of(net.graph()).operations)


def test_average_pool_keeps_one_weight_word() -> None:
    net = Network(4, 4, 3)
    net.average_pool(net.convolution("input", 16, (1, 1)), (4, 4))
    operations = [each for each in schedule_of(net.graph()).operations if each.layer == "pool1"]
    assert len(operations) == 2
    assert all(each.weights.hold and each.weights.words.shape == (2, 1, 4, 8) for each in operations)


def test_a_small_average_is_a_depthwise_convolution_of_ones() -> None:
    """All its words share the kernel rows of one."""
    net = Network(3, 3, 3)
    net.average_pool(net.convolution("input", 16, (1, 1)), (3, 3))
    (operation,) = (each for each in schedule_of(net.graph()).operations if each.layer == "pool1")
    assert operation.depthwise and (operation.groups, operation.kernel_rows, operation.columns) == (2, 3, 3)
    assert operation.weights.words.shape == (1, 3, 4, 8) and len(operation.parameters.bias) == 16


@pytest.mark.parametrize(
    ("window", "padding", "channels"),
    [((4, 3), NO_PADDING, 16), ((3, 3), Padding(0, 0, 1, 1), 16), ((3, 3), NO_PADDING, 4 * (8192 // 32 + 1))],
)
def test_an_average_stays_word_by_word_where_that_mode_does_not_pay(
    window: tuple[int, int], padding: Padding, channels: int
) -> None:
    """Too many rows; columns outside the map; more parameters than are worth it."""
    net = Network(4, 3, 3)
    net.average_pool(net.convolution("input", channels, (1, 1)), window, padding=padding)
    assert not any(each.depthwise for each in schedule_of(net.graph()).operations)
