"""Post-training quantisation: what its scales promise, and how close the int8 network is to the float one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberline.compiler.frontends.tflite_writer import write_tflite
from emberline.model import litert, network
from emberline.model.graph import Padding, Quantisation
from emberline.training.evaluate import encode_pixels
from emberline.training.float_graph import (
    FloatAdd,
    FloatConcatenation,
    FloatConvolution,
    FloatGlobalAverage,
    FloatGraph,
    run_float,
)
from emberline.training.quantise import (
    INPUT_QUANTISATION,
    SOFTMAX_QUANTISATION,
    calibrate,
    choose_quantisation,
    quantise_bias,
    quantise_graph,
    quantise_range,
    quantise_values,
    quantise_weights,
    scale_frames,
)

SAME = Padding(1, 1, 1, 1)
bounds = st.floats(-1000, 1000, width=32)


def small_network(seed: int = 5) -> FloatGraph:
    """A fire module with a bypass and a pooled classifier, random weights, 8x8 RGB."""
    rng = np.random.default_rng(seed)

    def convolution(name: str, source: str, channels: int, out: int, kernel: int, relu: bool) -> FloatConvolution:
        weights = rng.normal(0, (2 / (kernel * kernel * channels)) ** 0.5, (out, kernel, kernel, channels))
        bias = rng.normal(0, 0.1, out).astype(np.float32)
        return FloatConvolution(
            name, (source,), weights.astype(np.float32), bias, padding=SAME if kernel == 3 else Padding(), relu=relu
        )

    layers = (
        convolution("conv1", "image", 3, 16, 3, True),
        convolution("squeeze", "conv1", 16, 8, 1, True),
        convolution("expand1", "squeeze", 8, 8, 1, False),
        convolution("expand3", "squeeze", 8, 8, 3, False),
        FloatConcatenation("concat", ("expand1", "expand3")),
        FloatAdd("bypass", ("concat", "conv1"), relu=True),
        convolution("classes", "bypass", 16, 10, 1, False),
        FloatGlobalAverage("pool", ("classes",)),
    )
    return FloatGraph("small", "image", (8, 8, 3), layers)


def random_pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@given(bounds, bounds)
def test_range_represents_zero_exactly_and_its_ends_to_a_step(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    quantisation = quantise_range(low, high)
    assert -128 <= quantisation.zero_point <= 127
    ends = np.array([min(low, 0), max(high, 0)], np.float32)
    codes = quantise_values(ends, quantisation).astype(np.float64)
    assert np.abs((codes - quantisation.zero_point) * quantisation.scale - ends).max() <= quantisation.scale * 1.001


@given(st.floats(1e-3, 1e3))
def test_range_of_a_relu_has_zero_point_minus_128(high: float) -> None:
    assert quantise_range(0.0, high).zero_point == -128


def test_range_of_zeros_has_a_scale() -> None:
    assert quantise_range(0.0, 0.0).scale > 0


def test_chosen_range_is_no_worse_than_the_extremes() -> None:
    values = np.random.default_rng(1).standard_t(3, 20_000).astype(np.float32)

    def error(quantisation: Quantisation) -> float:
        codes = quantise_values(values, quantisation).astype(np.float64)
        return float(np.square((codes - quantisation.zero_point) * quantisation.scale - values).mean())

    chosen = choose_quantisation(values)
    widest = quantise_range(float(values.min()), float(values.max()))
    assert chosen.scale < widest.scale
    assert error(chosen) < error(widest)


def test_weights_use_all_of_127_and_stay_within_half_a_step() -> None:
    weights = np.random.default_rng(2).normal(size=(6, 3, 3, 4)).astype(np.float32)
    quantised = quantise_weights(weights)
    assert (np.abs(quantised.codes.reshape(6, -1).astype(int)).max(axis=1) == 127).all()
    steps = quantised.scales[:, None, None, None]
    assert (np.abs(quantised.codes * steps - weights) <= 0.5001 * steps).all()


def test_weights_of_zero_get_a_positive_scale() -> None:
    quantised = quantise_weights(np.zeros((2, 1, 1, 4), np.float32))
    assert (quantised.scales > 0).all() and not quantised.codes.any()


def test_bias_beyond_int32_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit int32"):
        quantise_bias(np.array([1e6], np.float32), 1e-3, np.array([1e-3], np.float32))


def test_input_codes_are_pixels_minus_128() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    codes = quantise_values(pixels.astype(np.float32) / 255, INPUT_QUANTISATION)
    np.testing.assert_array_equal(codes, encode_pixels(pixels))


def test_shared_ranges() -> None:
    graph = small_network()
    chosen = calibrate(graph, scale_frames(random_pixels(8, 1)))
    assert chosen["image"] == INPUT_QUANTISATION
    assert chosen["expand1"] == chosen["expand3"] == chosen["concat"]
    assert chosen["pool"] == chosen["classes"]
    assert chosen["conv1"].zero_point == chosen["squeeze"].zero_point == chosen["bypass"].zero_point == -128
    assert chosen["concat"].zero_point > -128


def test_int8_network_is_close_to_float() -> None:
    graph = small_network()
    quantised = quantise_graph(graph, calibrate(graph, scale_frames(random_pixels(32, 1))))
    pixels = random_pixels(16, 2)
    maps = network.run(quantised, encode_pixels(pixels), keep=True)
    exact = run_float(graph, scale_frames(pixels))["pool"]
    q = quantised.feature_maps["pool"].quantisation
    assert np.abs((maps["pool"].astype(np.float64) - q.zero_point) * q.scale - exact).max() < 4 * q.scale
    assert quantised.feature_maps["scores"].quantisation == SOFTMAX_QUANTISATION


@pytest.mark.skipif(not litert.available(), reason="ai-edge-litert, the oracle, is not installed")
def test_written_network_equals_litert() -> None:
    graph = small_network()
    quantised = quantise_graph(graph, calibrate(graph, scale_frames(random_pixels(32, 1))))
    frames = encode_pixels(random_pixels(16, 2))
    scores = litert.LiteRTReference(write_tflite(quantised)).run(frames)
    np.testing.assert_array_equal(scores, network.run(quantised, frames)["scores"].reshape(scores.shape))
