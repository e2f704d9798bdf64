"""Maxima of concatenations: computed part by part, behind the convolutions that compute the parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from graph_cases import Network, same

from emberline.arch.presets import preset
from emberline.compiler.compile import compile_graph
from emberline.compiler.legalise import legalise
from emberline.model import network
from emberline.model.emulator import Emulator
from emberline.model.graph import Graph, MaxPool, Padding

MACHINE = replace(preset("ulx3s-85f"), activation_depth_words=2048, weight_depth_words=512, family="generic")


def fire(*, read_twice: bool = False) -> Graph:
    """A fire module with the maximum of its result, in whose corners windows are cut."""
    net = Network(9, 11, 3)
    squeezed = net.convolution("input", 8, (1, 1))
    parts = [net.convolution(squeezed, 12, (1, 1)), net.convolution(squeezed, 20, padding=same(3))]
    whole = net.concatenate(parts)
    outputs = [net.max_pool(whole, (3, 3), (2, 2), Padding(0, 1, 0, 1))]
    if read_twice:
        outputs.append(net.convolution(whole, 8, (1, 1)))
    return net.graph(*outputs)


def maxima(graph: Graph) -> int:
    return sum(isinstance(layer, MaxPool) for layer in graph.layers)


def test_each_part_is_pooled_as_it_is_written() -> None:
    graph = fire()
    assert maxima(legalise(graph)) == 2
    program = compile_graph(graph, MACHINE)
    assert [layer.kind for layer in program.layers] == ["Convolution", "Convolution+MaxPool", "Convolution+MaxPool"]
    frames = np.random.default_rng(1).integers(-128, 128, (2, 9, 11, 3), dtype=np.int8)
    expected = network.run(graph, frames)
    emulator = Emulator(MACHINE)
    emulator.load(program)
    for index, frame in enumerate(frames):
        for name, values in emulator.run(frame).results.items():
            np.testing.assert_array_equal(values, expected[name][index])


def test_a_part_that_is_a_concatenation_is_divided_too() -> None:
    net = Network(6, 6, 3)
    inner = net.concatenate([net.convolution("input", 8, (1, 1)), net.convolution("input", 16, (1, 1))])
    whole = net.concatenate([inner, net.convolution("input", 8, (1, 1))])
    graph = net.graph(net.max_pool(whole, (2, 2), (2, 2)))
    divided = legalise(graph)
    assert maxima(divided) == 3
    frames = np.random.default_rng(2).integers(-128, 128, (2, 6, 6, 3), dtype=np.int8)
    for name, values in network.run(graph, frames).items():
        np.testing.assert_array_equal(network.run(divided, frames)[name], values)


def test_a_maximum_too_wide_for_one_pass_is_divided_in_each_of_its_passes() -> None:
    net = Network(3, 4, 3)
    whole = net.concatenate([net.convolution("input", 8, (1, 1)), net.convolution("input", 16, (1, 1))])
    graph = net.graph(net.max_pool(whole, (3, 4), (1, 1)))
    divided = legalise(graph)
    assert maxima(divided) == 3  # the second of two passes reads no convolution
    assert len({layer.name for layer in divided.layers}) == len(divided.layers)
    compile_graph(graph, MACHINE)
    frames = np.random.default_rng(3).integers(-128, 128, (2, 3, 4, 3), dtype=np.int8)
    for name, values in network.run(graph, frames).items():
        np.testing.assert_array_equal(network.run(divided, frames)[name], values)


def test_a_map_that_somebody_else_reads_is_pooled_whole() -> None:
    assert maxima(legalise(fire(read_twice=True))) == 1
