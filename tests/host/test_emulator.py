"""Programs executed word by word: equal to the numpy model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emulator_cases import machine
from graph_cases import Network, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import ARRANGING, BLOCKS, Limits, graphs, random_frames, random_graph

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import decode
from emberline.arch.presets import preset
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.compiler.frontends.tflite_records import read_records
from emberline.errors import CompileError
from emberline.model import network
from emberline.model.emulator import Emulator
from emberline.model.graph import Graph, Padding

LANES = ((4, 4), (8, 8), (8, 4), (16, 8), (16, 16), (16, 4), (32, 8))
LIMITS = Limits(
    heads=2,
    softmax=True,
    single_rounding=False,
    dilation=True,
    depthwise=True,
)


def assert_equal_to_model(graph: Graph, architecture: Architecture, frames: np.ndarray) -> Program:
    """Every output of every frame, from one emulator that keeps its state."""
    program = Program.load(compile_graph(graph, architecture).to_bytes())
    expected = network.run(graph, frames)
    emulator = Emulator(architecture)
    emulator.load(program)
    for index, frame in enumerate(frames):
        results = emulator.run(frame).results
        assert list(results) == list(graph.outputs)
        for name in graph.outputs:
            np.testing.assert_array_equal(results[name], expected[name][index], err_msg=f"{name}, frame {index}")
    return program


# --- whole networks


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes[0]}x{lanes[1]}")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(lanes: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng([seed, *lanes])
    graph = random_graph(rng, LIMITS)
    assert_equal_to_model(graph, machine(*lanes), random_frames(rng, graph, 3))


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes[0]}x{lanes[1]}")
@pytest.mark.parametrize("seed", range(8))
def test_separable_networks(lanes: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng([seed, *lanes])
    graph = random_graph(rng, replace(LIMITS, blocks=("separable", "separable", "parallel", "residual"), max_size=14))
    frames = random_frames(rng, graph, 2)
    assert_equal_to_model(graph, machine(*lanes), frames)
    assert_equal_to_model(graph, machine(*lanes, depthwise_columns=0), frames)
    assert_equal_to_model(graph, machine(*lanes, requantisers=lanes[1]), frames)  # perhaps rows in pairs


@given(graphs(replace(LIMITS, blocks=(*BLOCKS, *ARRANGING))), st.sampled_from(LANES), st.integers(0, 99))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_network(graph: Graph, lanes: tuple[int, int], seed: int) -> None:
    assert_equal_to_model(graph, machine(*lanes), random_frames(np.random.default_rng(seed), graph, 2))


@pytest.mark.parametrize("rows", [5, 7, 12, 13, 23, 24])
def test_ring_of_any_length(rows: int) -> None:
    """A 12-row frame in rings from the 5 rows that its kernel needs to two whole frames, over many frames."""
    net = Network(12, 9, 8)
    x = net.convolution("input", 8, (5, 1), padding=Padding(2, 2, 0, 0))
    graph = net.graph(x)
    frames = random_frames(np.random.default_rng(rows), graph, 5)
    maps_words = 12 * 9
    program = assert_equal_to_model(graph, machine(8, 8, maps_words + rows * 9), frames)
    assert program.listing()[0].fields["held_rows"] == rows


@pytest.mark.parametrize("stored_rows", [3, 4, 7, 12, 13, 20, 24])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
def test_ring_of_windows_of_any_length(stored_rows: int, kernel: tuple[int, int]) -> None:
    """Stored windows of the first convolution, from the fewest that let a row be complete."""
    net = Network(12, 9, 3)
    x = net.convolution("input", 8, kernel, padding=same(kernel[0]))
    graph = net.graph(x)
    frames = random_frames(np.random.default_rng(stored_rows), graph, 5)
    out = graph.feature_maps[x]
    words = out.height * out.width + stored_rows * out.width * -(-kernel[0] * kernel[1] * 3 // 8)
    program = assert_equal_to_model(graph, machine(8, 8, words), frames)
    fields = program.listing()[0].fields
    assert 2 * stored_rows < out.height or (fields["kernel_rows"], fields["kernel_columns"]) == kernel


def test_frame_needs_no_whole_ring_for_a_strided_convolution() -> None:
    net = Network(13, 6, 2)
    x = net.convolution("input", 4, (2, 2), stride=(3, 2))
    graph = net.graph(x)
    program = assert_equal_to_model(
        graph, machine(8, 4, 4 * 3 + 3 * 3), random_frames(np.random.default_rng(0), graph, 4)
    )
    assert program.listing()[0].fields["held_rows"] < 13


def test_maps_lie_in_the_frame_ring_when_it_has_been_read() -> None:
    """In memories from what is needed at least; the next frames come behind the last reader of what lies there."""
    net = Network(12, 9, 8)
    x = net.convolution("input", 8, (1, 1), stride=(2, 1))
    for channels in (24, 8, 24, 8):
        x = net.convolution(x, channels, (3, 3), padding=same(3))
    graph = net.graph(net.convolution(net.convolution(x, 8, (6, 9)), 8, (1, 1)))
    frames = random_frames(np.random.default_rng(0), graph, 4)
    shared = fitting = 0
    for words in range(100, 260, 3):
        try:
            program = assert_equal_to_model(graph, machine(8, 8, words), frames)
        except CompileError:
            continue
        fitting += 1
        frame, *others = program.memory
        assert frame.role == "frame"
        meets = [each for each in others if each.start < frame.end and frame.start < each.end]
        assert all(each.role == "map" for each in meets)
        shared += bool(meets)
    assert 0 < shared < fitting


def _bypass(net: Network, first: int, second: int) -> str:
    """A fire module with a bypass around it, and a reader."""
    x = net.concatenate([net.convolution("input", first, (1, 1)), net.convolution("input", second, (1, 1))])
    y = net.convolution(x, 6, (1, 1))
    expanded = [net.convolution(y, first, (1, 1)), net.convolution(y, second, (3, 3), padding=same(3))]
    return net.convolution(net.add(x, net.concatenate(expanded)), 5, (2, 2))


CASES = {
    "fully connected from the frame": lambda n: n.convolution("input", 10, (6, 7)),
    "window wider than the padding": lambda n: n.convolution("input", 5, (1, 3), padding=Padding(0, 0, 2, 2)),
    "padding beyond the kernel": lambda n: n.convolution("input", 5, (3, 3), padding=Padding(4, 5, 4, 3)),
    "padding beyond the kernel behind a layer": lambda n: n.convolution(
        n.convolution("input", 9, (1, 1)), 5, (3, 3), padding=Padding(4, 5, 4, 3), stride=(2, 2)
    ),
    "dilation": lambda n: n.convolution("input", 5, (2, 3), dilation=(3, 2)),
    "depthwise": lambda n: n.convolution("input", 6, (3, 3), groups=3, padding=same(3)),
    "depthwise behind a layer": lambda n: n.convolution(
        n.convolution("input", 20, (1, 1)), 40, (3, 3), groups=20, padding=same(3)
    ),
    "grouped behind a layer": lambda n: n.convolution(n.convolution("input", 18, (1, 1)), 27, (2, 2), groups=3),
    "sum with the input": lambda n: n.add("input", n.convolution("input", 3, (3, 3), padding=same(3))),
    "sum of one map": lambda n: n.add(*[n.convolution("input", 11, (1, 1))] * 2),
    "sum of pools": lambda n: n.add(n.average_pool("input", (3, 3)), n.average_pool("input", (3, 3))),
    "pool with padding": lambda n: n.average_pool("input", (3, 3), (2, 2), Padding(1, 1, 1, 1)),
    "pool with padding behind a layer": lambda n: n.average_pool(
        n.convolution("input", 21, (1, 1)), (3, 2), (2, 1), Padding(1, 2, 0, 1)
    ),
    "pool behind an unaligned concatenation": lambda n: n.average_pool(
        n.concatenate([n.convolution("input", 5, (1, 1)), n.convolution("input", 7, (1, 1))]), (2, 2)
    ),
    "convolution behind an unaligned concatenation": lambda n: n.convolution(
        n.concatenate([n.convolution("input", c, (1, 1)) for c in (3, 9, 17)]), 4
    ),
    "sum behind an unaligned concatenation": lambda n: n.add(
        c := n.concatenate([n.convolution("input", 5, (1, 1)), n.convolution("input", 6, (1, 1))]),
        n.convolution(c, 11, (3, 3), padding=same(3)),
    ),
    "concatenation of the input": lambda n: n.concatenate(["input", n.convolution("input", 6, (1, 1)), "input"]),
    "nested concatenations": lambda n: n.concatenate(
        [n.concatenate([a := n.convolution("input", 4, (1, 1)), n.convolution(a, 5, (1, 1))]), a]
    ),
    "sum into a concatenation": lambda n: n.concatenate(
        [a := n.convolution("input", 6, (1, 1)), n.add(a, n.convolution(a, 6, (1, 1)))]
    ),
    "sum of a concatenation": lambda n: _bypass(n, 16, 16),
    "sum of a concatenation and a map with holes": lambda n: _bypass(n, 5, 7),
    "sum of an unaligned concatenation": lambda n: n.add(
        n.concatenate([n.convolution("input", 5, (1, 1)), n.convolution("input", 7, (1, 1))]),
        n.convolution("input", 12, (1, 1), multiplier=0),
    ),
    "maximum behind a convolution, 2x2": lambda n: n.max_pool(
        n.convolution("input", 12, padding=same(3)), (2, 2), (2, 2)
    ),
    "maximum behind a convolution, 3x3/2": lambda n: n.max_pool(
        n.convolution("input", 12, padding=same(3)), (3, 3), (2, 2)
    ),
    "maximum behind a convolution, 3x3/2 padded": lambda n: n.max_pool(
        n.convolution("input", 20, padding=same(3)), (3, 3), (2, 2), Padding(1, 1, 1, 1)
    ),
    "maximum behind a convolution, 3x3/2 ceil mode": lambda n: n.max_pool(
        n.convolution("input", 6, (1, 2)), (3, 3), (2, 2), Padding(0, 1, 0, 1)
    ),
    "maximum behind a convolution, 2x2/1": lambda n: n.max_pool(
        n.convolution("input", 9, (1, 1)), (2, 2), (1, 1), Padding(1, 0, 0, 1)
    ),
    "maximum behind a convolution, rows in no window": lambda n: n.max_pool(
        n.convolution("input", 9, (1, 1)), (1, 1), (3, 2)
    ),
    "maximum of windows that overlap": lambda n: n.max_pool(
        n.convolution("input", 9, (1, 1)), (3, 3), (1, 1), Padding(1, 1, 1, 1)
    ),
    "maximum of tall windows": lambda n: n.max_pool(n.convolution("input", 20, (1, 1)), (6, 2), (1, 2)),
    "maximum of the input": lambda n: n.max_pool("input", (2, 2), (2, 2)),
    "maximum of a sum": lambda n: n.max_pool(
        n.add(a := n.convolution("input", 18, (1, 1)), n.convolution(a, 18, (1, 1))), (3, 3), (2, 2)
    ),
    "maximum behind an unaligned concatenation": lambda n: n.max_pool(
        n.concatenate([n.convolution("input", 5, (1, 1)), n.convolution("input", 7, (1, 1))]), (2, 2)
    ),
    "maximum of wide windows": lambda n: n.max_pool(
        n.convolution("input", 5, (1, 1)), (2, 6), (1, 2), Padding(1, 0, 4, 3)
    ),
    "maximum of everything": lambda n: n.max_pool(n.convolution("input", 12, (1, 1)), (6, 7)),
    "maximum in a concatenation": lambda n: n.concatenate(
        [n.convolution("input", 7, (2, 2)), n.max_pool(n.convolution("input", 4, (1, 1)), (2, 2))]
    ),
    "pad": lambda n: n.pad(n.convolution("input", 6, (1, 1)), Padding(1, 2, 3, 0)),
    "pad of the input": lambda n: n.convolution(n.pad("input", Padding(0, 1, 1, 0)), 4),
}


@pytest.mark.parametrize("lanes", [(4, 4), (16, 8)], ids=lambda lanes: f"{lanes[0]}x{lanes[1]}")
@pytest.mark.parametrize("case", CASES)
def test_layer_kinds(case: str, lanes: tuple[int, int]) -> None:
    net = Network(6, 7, 3)
    graph = net.graph(CASES[case](net))
    assert_equal_to_model(graph, machine(*lanes), random_frames(np.random.default_rng(1), graph, 2))


@pytest.mark.parametrize("channels", [5, 8, 13])
def test_input_of_many_channels(channels: int) -> None:
    net = Network(5, 4, channels)
    graph = net.graph(net.convolution("input", 6, (3, 3), padding=same(3)))
    program = assert_equal_to_model(graph, machine(4, 4), random_frames(np.random.default_rng(2), graph, 2))
    assert program.input.pixel_bytes == channels


def test_several_outputs_and_an_output_that_is_read_again() -> None:
    net = Network(6, 6, 3)
    a = net.convolution("input", 6, (3, 3))
    b = net.convolution(a, 9, (1, 1))
    c = net.add(a, net.convolution(a, 6, (3, 3), padding=same(3)))
    graph = net.graph(c, a, b)
    assert_equal_to_model(graph, machine(8, 4), random_frames(np.random.default_rng(3), graph, 3))


# --- published networks


@pytest.fixture(scope="module")
def resnet8(data_folder: Path) -> Graph:
    return read_tflite(data_folder / "mlperf_tiny" / "ic_resnet8_int8.tflite")


def lossless_images(data_folder: Path, count: int) -> np.ndarray:
    images = np.load(data_folder / "cifar10" / "cifar10_lossless_500.npz")["x"][:count]
    return (images.astype(np.int16) - 128).astype(np.int8)


@pytest.mark.parametrize("name", ["ulx3s-85f", "max10-10m50"])
def test_resnet8_equals_the_published_outputs(resnet8: Graph, data_folder: Path, name: str) -> None:
    count = 50 if name == "ulx3s-85f" else 5
    folder = data_folder / "mlperf_tiny"
    reference = np.load(folder / "ic_resnet8_int8_ref_out_lossless500.npz")
    published = reference[reference.files[0]][:count].reshape(count, -1)
    architecture = preset(name)
    program = compile_graph(resnet8, architecture)
    emulator = Emulator(architecture)
    emulator.load(program)
    outputs = [emulator.run(frame).results[resnet8.outputs[0]] for frame in lossless_images(data_folder, count)]
    np.testing.assert_array_equal(np.array(outputs).reshape(count, -1), published)


@pytest.mark.parametrize("requantisers", [4, 8])
def test_separable_mlperf_tiny_equals_the_published_outputs(data_folder: Path, requantisers: int) -> None:
    folder = data_folder / "mlperf_tiny"
    words = np.load(folder / "kws01_1000_int8_mfcc.npz")["x_int8_refscale"]
    published = np.load(folder / "kws_int8_ref_out_1000.npz")["y"]
    person = np.load(folder / "vww_all_tensors_imagenet0.npz")
    for name, most_cycles in (("kws_int8", 41_000), ("vww_96_int8", 105_000)):
        path = folder / f"{name}.tflite"
        graph = read_tflite(path)
        architecture = machine(16, 8, requantisers=requantisers)
        program = compile_graph(graph, architecture)
        assert program.predicted_cycles < most_cycles
        emulator = Emulator(architecture)
        emulator.load(program)
        if name == "kws_int8":
            for frame, expected in zip(words[:5], published, strict=False):
                results = emulator.run(frame.reshape(graph.feature_maps[graph.inputs[0]].shape)).results
                np.testing.assert_array_equal(results[graph.outputs[0]].reshape(-1), expected)
        else:
            index = {tensor.name: tensor.index for tensor in read_records(path.read_bytes()).tensors}
            results = emulator.run(person[f"{index[graph.inputs[0]]:03d}"][0]).results
            expected = person[f"{index[graph.outputs[0]]:03d}"]
            np.testing.assert_array_equal(results[graph.outputs[0]].reshape(-1), expected.reshape(-1))


def test_every_map_of_resnet8(resnet8: Graph, data_folder: Path) -> None:
    """Each prefix of the network, ending in the map that is compared."""
    frame = lossless_images(data_folder, 1)
    expected = network.run(resnet8, frame, keep=True)
    architecture = preset("ulx3s-85f")
    for count in range(1, len(resnet8.layers) + 1):
        layers = resnet8.layers[:count]
        read = {name for layer in layers for name in layer.inputs}
        outputs = tuple(layer.output for layer in layers if layer.output not in read)
        names = {*resnet8.inputs, *(layer.output for layer in layers)}
        maps = {name: resnet8.feature_maps[name] for name in names}
        prefix = Graph(f"prefix {count}", resnet8.inputs, outputs, layers, maps)
        emulator = Emulator(architecture)
        emulator.load(compile_graph(prefix, architecture))
        for name, values in emulator.run(frame[0]).maps.items():
            np.testing.assert_array_equal(values, expected[name][0], err_msg=name)


def test_resnet8_is_fast_on_chip(resnet8: Graph) -> None:
    program = compile_graph(resnet8, preset("max10-10m50"))
    assert program.utilisation > 0.98
    assert sum(layer.cycles for layer in program.layers) == program.predicted_cycles


# --- small machines, and averages


def test_compile_errors_are_the_only_errors_of_small_machines() -> None:
    """Random networks on machines that are too small for most of them: refused or right."""
    compiled, refusals = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, LIMITS)
        architecture = machine(4, 4, 1 << int(rng.integers(5, 10)), weight_depth_words=512, program_depth_words=256)
        try:
            assert_equal_to_model(graph, architecture, random_frames(rng, graph, 2))
            compiled += 1
        except CompileError as error:
            refusals.append(str(error))
    assert compiled > 0
    assert len(refusals) > 0
    assert all(re.search(r"layer '.*': .*KiB", refusal) for refusal in refusals), refusals


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [
        ((3, 3), (3, 3), (1, 1), Padding(0, 0, 0, 0)),
        ((6, 8), (2, 2), (2, 2), Padding(0, 0, 0, 0)),
        ((7, 9), (3, 2), (1, 2), Padding(0, 0, 0, 0)),
        ((5, 6), (3, 3), (2, 1), Padding(1, 1, 0, 0)),
        ((4, 5), (1, 3), (1, 1), Padding(0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("channels", [5, 8, 24])
def test_averages_in_depthwise_mode_are_exact(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], padding: Padding, channels: int
) -> None:
    net = Network(*size, 3)
    net.average_pool(net.convolution("input", channels, (1, 1)), window, stride, padding)
    graph = net.graph()
    program = assert_equal_to_model(graph, machine(8, 4), random_frames(np.random.default_rng(2), graph, 2))
    assert any(each.opcode is Opcode.ROW and each.fields["depthwise"] for each in decode(list(program.instructions)))
