"""Channel selection and upsampling: their checks, their arithmetic, and what the compiler makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberline.compiler.legalise import legalise
from emberline.errors import CompileError, ModelError
from emberline.model import network
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


def test_upsampling_is_refused_by_the_compiler() -> None:
    graph = one_layer(Upsample("up", ("x",), "y", (2, 2)), (2, 2, 3), (4, 4, 3))
    with pytest.raises(CompileError, match="layer 'up': Upsample"):
        legalise(graph)
