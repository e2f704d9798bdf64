"""Channel selection and upsampling: their checks, their arithmetic, and what the compiler makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_cases import Network, same
from hypothesis import given
from hypothesis import strategies as st

from emberline.arch.isa import Opcode
from emberline.arch.presets import preset
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.compiler.legalise import legalise
from emberline.errors import ModelError
from emberline.model import network
from emberline.model.emulator import Emulator
from emberline.model.graph import Convolution, FeatureMap, Graph, Layer, Quantisation, Select, Upsample

QUANTISATION = Quantisation(0.5, -7)


def one_layer(layer: Layer, source: tuple[int, int, int], target: tuple[int, int, int]) -> Graph:
    maps = {"x": FeatureMap("x", *source, QUANTISATION), "y": FeatureMap("y", *target, QUANTISATION)}
    return Graph("test", ("x",), ("y",), (layer,), maps)


def some_frames(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(3).integers(-128, 128, (2, *shape), dtype=np.int8)


def test_select_takes_channels_in_its_order() -> None:
    graph = one_layer(Select("shuffle", ("x",), "y", (2, 0, 0, 1)), (2, 3, 3), (2, 3, 4))
    frames = some_frames((2, 3, 3))
    result = network.run(graph, frames)["y"]
    for position, channel in enumerate((2, 0, 0, 1)):
        np.testing.assert_array_equal(result[..., position], frames[..., channel])


def test_upsample_repeats_pixels() -> None:
    graph = one_layer(Upsample("up", ("x",), "y", (2, 3)), (2, 2, 1), (4, 6, 1))
    frames = np.array([[1, 2], [3, 4]], np.int8).reshape(1, 2, 2, 1)
    assert network.run(graph, frames)["y"][0, :, :, 0].tolist() == [
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2],
        [3, 3, 3, 4, 4, 4],
        [3, 3, 3, 4, 4, 4],
    ]


@pytest.mark.parametrize(
    ("layer", "target", "message"),
    [
        (Select("s", ("x",), "y", (0, 3)), (2, 2, 2), "layer 's': its channels must be some of 0..2"),
        (Select("s", ("x",), "y", ()), (2, 2, 1), "its channels must be some of"),
        (Select("s", ("x",), "y", (0, 1)), (2, 2, 3), "output 'y' should be"),
        (Upsample("u", ("x",), "y", (0, 2)), (2, 2, 3), "factors must be at least 1"),
        (Upsample("u", ("x",), "y", (2, 2)), (4, 2, 3), "output 'y' should be"),
    ],
)
def test_impossible_layer_is_refused(layer: Layer, target: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        one_layer(layer, (2, 2, 3), target)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_selection_is_legalised_value_for_value(channels: list[int]) -> None:
    graph = one_layer(Select("s", ("x",), "y", tuple(channels)), (2, 2, 5), (2, 2, len(channels)))
    legal = legalise(graph)
    assert isinstance(legal.layers[0], Convolution)
    frames = some_frames((2, 2, 5))
    np.testing.assert_array_equal(network.run(legal, frames)["y"], network.run(graph, frames)["y"])


def test_selections_cost_no_cycle() -> None:
    """ShuffleNet's unit: the shuffle is no step, and no layer around it reads more words than without it."""

    def unit(order: tuple[int, ...] | None) -> Program:
        net = Network(9, 28, 3)
        x = net.convolution(net.convolution("input", 60, (1, 1)), 60, (1, 1), groups=3)
        if order is not None:
            net.maps["shuffled"] = replace(net.maps[x], name="shuffled")
            net.layers.append(Select("shuffle", (x,), "shuffled", order))
            x = "shuffled"
        x = net.convolution(x, 60, groups=60, padding=same(3))
        net.convolution(x, 240, (1, 1), groups=3)
        return compile_graph(net.graph(), preset("ulx3s-85f"))

    program = unit(tuple(group * 20 + index for index in range(20) for group in range(3)))
    assert "shuffle" not in [layer.name for layer in program.layers]
    assert (
        program.predicted_cycles <= 1.2 * unit(None).predicted_cycles
    )  # nine parts of 6 or 7 channels, in 8 bytes each


def test_a_selection_behind_a_convolution_is_its_order_of_outputs() -> None:
    net = Network(3, 3, 3)
    x = net.convolution("input", 6)
    net.maps["y"] = FeatureMap("y", 1, 1, 4, net.quantisation)
    net.layers.append(Select("s", (x,), "y", (5, 0, 0, 2)))
    graph = net.graph("y")
    legal = legalise(graph)
    assert [type(layer) for layer in legal.layers] == [Convolution]
    frames = some_frames((3, 3, 3))
    np.testing.assert_array_equal(network.run(legal, frames)["y"], network.run(graph, frames)["y"])


def test_upsampling_writes_every_pixel_by_rows_of_its_own() -> None:
    graph = one_layer(Upsample("up", ("x",), "y", (2, 3)), (2, 2, 3), (4, 6, 3))
    program = compile_graph(graph, preset("ulx3s-85f"))
    rows = [each.fields for each in program.listing() if each.opcode is Opcode.ROW]
    assert [row["target_pixel_step"] for row in rows] == [6] * len(rows)
    emulator = Emulator(program.architecture)
    emulator.load(program)
    frame = some_frames((2, 2, 3))[0]
    np.testing.assert_array_equal(emulator.run(frame).results["y"], frame.repeat(2, axis=0).repeat(3, axis=1))
