"""What the compiler refuses: always by name, always with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from graph_cases import Network, same

from emberline.arch.architecture import Architecture
from emberline.compiler.compile import compile_graph
from emberline.errors import CompileError
from emberline.model.graph import Add, Graph, Padding

MACHINE = Architecture("test", 4, 4, activation_depth_words=65536, weight_depth_words=2048)


def wide_maximum(net: Network) -> Graph:
    return net.graph(net.max_pool("input", (1, 8), (1, 1), Padding(0, 0, 0, 7)))


def rare_maximum(net: Network) -> Graph:
    return net.graph(net.max_pool("input", (1, 1), (1, 16)))


def maximum_far_beyond(net: Network) -> Graph:
    return net.graph(net.max_pool("input", (3, 3), (1, 1), Padding(0, 0, 0, 2)))


def sum_of_the_input(net: Network) -> Graph:
    return net.graph(net.convolution(net.add("input", "input"), 4))


def guard_bits(net: Network) -> Graph:
    a = net.convolution("input", 4, (1, 1))
    return net.graph(net.add(a, net.convolution("input", 4, (1, 1)), left_shift=10))


def scaled_up(net: Network) -> Graph:
    a = net.convolution("input", 4, (1, 1))
    return net.graph(net.add(a, net.convolution("input", 4, (1, 1)), output_shift=2))


def tall_kernel(_: Network) -> Graph:
    net = Network(300, 1, 1)
    return net.graph(net.convolution("input", 4, (300, 1)))


def wide_row(net: Network) -> Graph:
    return net.graph(net.convolution("input", 4, (1, 1), padding=Padding(0, 0, 0, 5000)))


def huge_mean(net: Network) -> Graph:
    return net.graph(net.average_pool("input", (8, 8)))


CASES: list[tuple[Callable[[Network], Graph], str]] = [
    (wide_maximum, "layer 'pool0': a maximum over at most 3 columns can run, not over 8"),
    (rare_maximum, "layer 'pool0': a maximum every 15 columns at most can run, not every 16"),
    (maximum_far_beyond, "layer 'pool0': only the last window may reach beyond the row: padding 2 on the right"),
    (sum_of_the_input, "layer 'add0': the network's input cannot be added to itself"),
    (guard_bits, "layer 'add2': an addition with 20 guard bits can run, not with 10"),
    (scaled_up, r"layer 'add2': scales up: shifts .* and 2 must not be positive"),
    (tall_kernel, "layer 'conv0': does not fit the instruction set: ROW.release_rows must be in 0..255, not 300"),
    (wide_row, "layer 'conv0': does not fit the instruction set: ROW.columns must be in 0..4095, not 5008"),
]


@pytest.mark.parametrize("build, message", CASES, ids=[case[0].__name__ for case in CASES])
def test_refusal_names_layer_and_reason(build: Callable[[Network], Graph], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_graph(build(Network(8, 8, 3)), MACHINE)


def test_mean_that_cannot_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emberline.compiler.lower.divide_by", lambda count: None)
    with pytest.raises(CompileError, match="layer 'pool0': a mean of 64 values cannot be computed exactly"):
        compile_graph(huge_mean(Network(8, 8, 3)), MACHINE)


def test_single_rounding_without_an_equivalent() -> None:
    net = Network(4, 4, 640)
    net.convolution("input", 4, (4, 4), shift=-18, multiplier=1_500_000_001, single_rounding=True)
    with pytest.raises(CompileError, match="layer 'conv0': output channel .: its single rounding has no equivalent"):
        compile_graph(net.graph(), replace(MACHINE, activation_depth_words=65536, weight_depth_words=65536))


def test_two_inputs() -> None:
    net = Network(4, 4, 3)
    net.maps["other"] = replace(net.maps["input"], name="other")
    total = net.add(net.convolution("input", 4, (1, 1)), net.convolution("other", 4, (1, 1)))
    graph = Graph("test", ("input", "other"), (total,), tuple(net.layers), net.maps)
    with pytest.raises(CompileError, match=r"network 'test': one input can be fed, not 2 \('input', 'other'\)"):
        compile_graph(graph, MACHINE)


def deep() -> Graph:
    net = Network(16, 16, 3)
    x = net.convolution("input", 8, padding=same(3))
    x = net.convolution(x, 32, (1, 1))
    return net.graph(net.convolution(x, 4, (1, 1)))


def test_too_little_activation_memory() -> None:
    """Row by row: 1 KiB of result, a row of 2 and one of 8 words a pixel of 4 bytes, and 3 rows of the frame."""
    words = 256 + 16 * 2 + 16 * 8 + 16 * 3
    message = r"layer 'conv1': needs 1\.812 KiB of activation memory, 1\.809 KiB available on 'test'"
    with pytest.raises(CompileError, match=message):
        compile_graph(deep(), replace(MACHINE, activation_depth_words=words - 1))
    program = compile_graph(deep(), replace(MACHINE, activation_depth_words=words))
    assert program.listing()[0].fields["held_rows"] == 3


def test_too_little_weight_memory() -> None:
    needed = len(compile_graph(deep(), MACHINE).weights) // 16
    with pytest.raises(CompileError, match="layer 'conv2': the weights need .* available on 'test' and used up here"):
        compile_graph(deep(), replace(MACHINE, weight_depth_words=needed - 1))
    assert compile_graph(deep(), replace(MACHINE, weight_depth_words=needed)).weights


def test_too_little_program_memory() -> None:
    net = Network(8, 8, 3)
    x = "input"
    for _ in range(4):
        x = net.convolution(x, 4, padding=same(3))
    graph = net.graph()
    needed = len(compile_graph(graph, MACHINE).instructions)
    message = r"layer 'conv3': the program needs .* in all, .* of instruction memory available on 'test' and used up"
    with pytest.raises(CompileError, match=message):
        compile_graph(graph, replace(MACHINE, program_depth_words=needed - 1))
    assert compile_graph(graph, replace(MACHINE, program_depth_words=needed))


def test_reports_add_up() -> None:
    program = compile_graph(deep(), MACHINE, labels=["a"], preprocessing={"scale": 1})
    assert sum(layer.cycles for layer in program.layers) == program.predicted_cycles
    assert sum(layer.weight_bytes for layer in program.layers) == len(program.weights)
    assert program.macs == deep().macs()
    assert program.utilisation > 0
    assert [layer.name for layer in program.layers] == ["conv0", "conv1", "conv2"]
    assert {region.role for region in program.memory} == {"frame", "map", "result"}
    assert program.labels == ("a",)
    assert not any(isinstance(layer, Add) for layer in deep().layers)


COMPACT = Architecture(
    "small", 4, 4, 16384 - 2048, 512, requantisers=1, adders=1, depthwise_columns=0, weight_cache_words=16
)


def small_maximum(net: Network) -> Graph:
    return net.graph(net.max_pool("input", (2, 2), (2, 2)))


def large_kernel(net: Network) -> Graph:
    return net.graph(net.convolution("input", 4, (5, 5)))


def far_shift(net: Network) -> Graph:
    return net.graph(net.convolution("input", 4, (1, 1), shift=-31))


@pytest.mark.parametrize(
    "build, message",
    [
        (small_maximum, "layer 'pool0': there are no maxima on 'small'"),
        (large_kernel, "layer 'conv0': a kernel of 25 words does not fit the cache of 16 words on 'small'"),
        (
            far_shift,
            "layer 'conv0': scaling by shifts of 0 to the left and 31 to the right cannot run on 'small'",
        ),
    ],
)
def test_compact_machines_refuse_what_they_leave_out(build: Callable[[Network], Graph], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_graph(build(Network(8, 8, 3)), COMPACT)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight_cache_words": 24}, "weight_cache_words must be 0 or a power of two in 16..1024, not 24"),
        ({"lanes_in": 8}, "a compact machine has 4x4 lanes, not 8x4"),
        ({"depthwise_columns": 3}, "a compact machine has requantisers 1, adders 1 and depthwise_columns 0"),
        ({"weight_depth_words": 500}, "of a compact machine must be a power of two, not 16336"),
        ({"family": "ecp5"}, "read without the output registers that family ecp5 has"),
    ],
)
def test_compact_architectures_check_themselves(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(COMPACT, **changes)
