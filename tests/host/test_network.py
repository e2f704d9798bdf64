"""Whole networks: the public MLPerf Tiny models and random ones, every tensor against LiteRT's reference kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from random_graphs import BLOCKS, Limits, graphs, random_frames, random_graph

from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.compiler.frontends.tflite_records import read_records
from emberline.compiler.frontends.tflite_writer import write_tflite
from emberline.errors import EmberlineError, ModelError
from emberline.model import litert, requantisation
from emberline.model.graph import Add, AveragePool, Convolution, FeatureMap, Graph, Layer, Quantisation, Softmax
from emberline.model.litert import LiteRTReference
from emberline.model.network import run
from emberline.model.numerics import add_parameters

needs_litert = pytest.mark.skipif(not litert.available(), reason="needs ai-edge-litert, the outside oracle")
EVERYTHING = Limits(softmax=True, dilation=True, depthwise=True, heads=2)

# model, file with every tensor of one frame, number of feature maps
MODELS = [
    ("ic_resnet8_int8.tflite", "ic_resnet8_all_tensors_lossless0.npz", 16),
    ("kws_int8.tflite", "kws_all_tensors_0.npz", 13),
    ("vww_96_int8.tflite", "vww_all_tensors_imagenet0.npz", 31),
]


def compare_with_litert(graph: Graph, data: bytes, frames: np.ndarray) -> None:
    """Every feature map of the graph, frame by frame."""
    maps = run(graph, frames, keep=True)
    reference = LiteRTReference(data, keep_tensors=True)
    for index, frame in enumerate(frames):
        tensors = reference.tensors(frame)
        for name, values in maps.items():
            np.testing.assert_array_equal(values[index].reshape(-1), tensors[name].reshape(-1), err_msg=name)


# --- the public models


@pytest.mark.parametrize("model, tensors, count", MODELS)
def test_every_tensor_of_mlperf_tiny(data_folder: Path, model: str, tensors: str, count: int) -> None:
    path = data_folder / "mlperf_tiny" / model
    graph = read_tflite(path)
    index = {tensor.name: tensor.index for tensor in read_records(path.read_bytes()).tensors}
    expected = np.load(data_folder / "mlperf_tiny" / tensors)
    maps = run(graph, expected[f"{index[graph.inputs[0]]:03d}"], keep=True)
    assert len(maps) == count
    for name, values in maps.items():
        reference = expected[f"{index[name]:03d}"]
        np.testing.assert_array_equal(values.reshape(reference.shape), reference, err_msg=name)


def test_resnet8_gives_the_reference_outputs(data_folder: Path) -> None:
    graph = read_tflite(data_folder / "mlperf_tiny" / "ic_resnet8_int8.tflite")
    assert (graph.macs(), graph.parameter_count) == (12_501_632, 77_706)
    images = np.load(data_folder / "cifar10" / "cifar10_lossless_500.npz")
    frames = (images["x"].astype(np.int16) - 128).astype(np.int8)
    scores = run(graph, frames)[graph.outputs[0]].reshape(500, 10)
    expected = np.load(data_folder / "mlperf_tiny" / "ic_resnet8_int8_ref_out_lossless500.npz")["y"]
    np.testing.assert_array_equal(scores, expected)
    assert (scores.argmax(axis=1) == images["y"].reshape(-1)).sum() == 441  # 88.2 %


def test_keyword_spotting_gives_the_reference_outputs(data_folder: Path) -> None:
    graph = read_tflite(data_folder / "mlperf_tiny" / "kws_int8.tflite")
    assert (graph.macs(), graph.parameter_count) == (2_656_768, 22_604)
    inputs = np.load(data_folder / "mlperf_tiny" / "kws01_1000_int8_mfcc.npz")
    scores = run(graph, inputs["x_int8_refscale"])[graph.outputs[0]].reshape(1000, 12)
    expected = np.load(data_folder / "mlperf_tiny" / "kws_int8_ref_out_1000.npz")["y"]
    np.testing.assert_array_equal(scores, expected)
    assert (scores.argmax(axis=1) == inputs["y"]).sum() == 912  # 91.2 %


@needs_litert
@pytest.mark.parametrize("model", [model for model, _, _ in MODELS])
def test_mlperf_tiny_on_random_frames(data_folder: Path, model: str) -> None:
    data = (data_folder / "mlperf_tiny" / model).read_bytes()
    graph = read_tflite(data)
    compare_with_litert(graph, data, random_frames(np.random.default_rng(1), graph, 2))


# --- random networks


@needs_litert
@pytest.mark.parametrize("seed", range(40))
def test_random_network_equals_litert(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, EVERYTHING)
    data = write_tflite(graph)
    frames = random_frames(rng, graph, 2)
    compare_with_litert(graph, data, frames)
    compare_with_litert(read_tflite(data), data, frames)


@needs_litert
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(replace(EVERYTHING, blocks=(*BLOCKS, "separable", "grouped"))))
def test_drawn_network_equals_litert(graph: Graph) -> None:
    compare_with_litert(graph, write_tflite(graph), random_frames(np.random.default_rng(2), graph, 2))


@needs_litert
def test_convolution_with_extreme_scales_and_biases_equals_litert() -> None:
    """Ratios far above and below 1, so left shifts that wrap, and biases over all of int32."""
    rng = np.random.default_rng(11)
    for trial in range(60):
        x, y = (
            FeatureMap(name, 2, 3, channels, Quantisation(float(np.float32(scale)), int(rng.integers(-128, 128))))
            for name, channels, scale in (("x", 2, 1.0), ("y", 4, 10 ** rng.uniform(-4, 1)))
        )
        scales = (10 ** rng.uniform(-4, 0, 4)).astype(np.float32)
        rule = requantisation.convolution(x.quantisation.scale, scales, y.quantisation.scale, 4)
        most = 1 << 31 if trial % 2 else 1000
        layer = Convolution(
            "y",
            ("x",),
            "y",
            rng.integers(-128, 128, (4, 1, 1, 2), dtype=np.int8),
            rng.integers(-most, most, 4).astype(np.int32),
            scales,
            **rule._asdict(),
        )
        graph = Graph("extreme", ("x",), ("y",), (layer,), {"x": x, "y": y})
        compare_with_litert(graph, write_tflite(graph), random_frames(rng, graph, 2))


@needs_litert
def test_add_with_extreme_scales_equals_litert() -> None:
    rng = np.random.default_rng(12)
    for _ in range(60):
        scales = [float(np.float32(10 ** rng.uniform(-3, 1))) for _ in range(3)]
        zeros = [int(zero) for zero in rng.integers(-128, 128, 3)]
        maps = {"x": FeatureMap("x", 8, 8, 2, Quantisation(1.0, 0))}
        maps |= {n: FeatureMap(n, 8, 8, 3, Quantisation(*q)) for n, *q in zip("aby", scales, zeros, strict=True)}
        layers: list[Layer] = []
        for name in "ab":
            spread = np.array([maps[name].quantisation.scale / 100], np.float32)  # codes over the whole range
            rule = requantisation.convolution(1.0, spread, maps[name].quantisation.scale, 3)
            weights = rng.integers(-128, 128, (3, 1, 1, 2), dtype=np.int8)
            layers.append(Convolution(name, ("x",), name, weights, np.zeros(3, np.int32), spread, **rule._asdict()))
        layers.append(Add("y", ("a", "b"), "y", **add_parameters(*scales)._asdict()))
        graph = Graph("add", ("x",), ("y",), tuple(layers), maps)
        compare_with_litert(graph, write_tflite(graph), random_frames(rng, graph, 1))


@needs_litert
def test_softmax_equals_litert_for_every_scale() -> None:
    for scale in np.float32([1e-6, 1e-3, 0.01, 0.0499, 0.17, 0.5, 1.0, 7.3, 200.0]):
        q = Quantisation(float(scale), -3)
        maps = {name: FeatureMap(name, 1, 1, 9, q) for name in ("x", "h")}
        maps["y"] = FeatureMap("y", 1, 1, 9, Quantisation(1 / 256, -128))
        pool = AveragePool("h", ("x",), "h", (1, 1), (1, 1))
        graph = Graph("softmax", ("x",), ("y",), (pool,), maps, (Softmax("y", ("h",), "y"),))
        compare_with_litert(graph, write_tflite(graph), random_frames(np.random.default_rng(3), graph, 40))


@needs_litert
def test_fully_connected_that_needs_one_rounding_equals_litert() -> None:
    seen = set()
    for seed in range(16):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, Limits(max_size=1, max_channels=120, max_blocks=1, blocks=("average_pool",)))
        layer = graph.layers[-1]
        if isinstance(layer, Convolution):
            seen.add(layer.single_rounding)
            compare_with_litert(graph, write_tflite(graph), random_frames(rng, graph, 5))
    assert seen == {False, True}


def test_random_networks_stay_within_their_limits() -> None:
    limits = Limits(max_size=6, max_channels=5, max_kernel=3, single_rounding=False)
    for seed in range(100):
        graph = random_graph(np.random.default_rng(seed), limits)
        assert random_graph(np.random.default_rng(seed), limits) == graph
        assert max(max(each.height, each.width) for each in graph.feature_maps.values()) <= 6
        assert not any(isinstance(layer, Convolution) and layer.single_rounding for layer in graph)
        assert len(graph.outputs) == 1


# --- running


def two_input_graph() -> Graph:
    q = Quantisation(1.0, 0)
    maps = {name: FeatureMap(name, 2, 3, 1, q) for name in ("a", "b", "y")}
    return Graph(
        "two", ("a", "b"), ("y",), (Add("add", ("a", "b"), "y", **add_parameters(1.0, 1.0, 1.0)._asdict()),), maps
    )


def test_batches_change_no_value() -> None:
    graph = random_graph(np.random.default_rng(5), Limits(heads=2))
    frames = random_frames(np.random.default_rng(6), graph, 7)
    whole = run(graph, frames, keep=True)
    assert set(whole) == set(graph.feature_maps)
    for batch in (1, 3, 100):
        outputs = run(graph, frames, batch=batch)
        assert set(outputs) == set(graph.outputs)
        for name, values in outputs.items():
            np.testing.assert_array_equal(values, whole[name])
    assert run(graph, frames[:0])[graph.outputs[0]].shape[0] == 0


def test_several_inputs() -> None:
    frames = {"a": np.full((2, 2, 3, 1), 5, np.int8), "b": np.full((2, 2, 3, 1), -7, np.int8)}
    assert (run(two_input_graph(), frames)["y"] == -2).all()


@pytest.mark.parametrize(
    "frames, message",
    [
        (np.zeros((1, 2, 3, 1), np.int8), "has inputs .*; pass a mapping"),
        ({"a": np.zeros((1, 2, 3, 1), np.int8)}, r"has inputs \('a', 'b'\), not \('a',\)"),
        (
            {"a": np.zeros((1, 2, 3, 1), np.int8), "b": np.zeros((1, 3, 2, 1), np.int8)},
            r"input 'b' takes int8 \(N, 2, 3, 1\), not int8 \(1, 3, 2, 1\)",
        ),
        (
            {"a": np.zeros((1, 2, 3, 1), np.int8), "b": np.zeros((1, 2, 3, 1), np.uint8)},
            r"input 'b' takes int8 \(N, 2, 3, 1\), not uint8",
        ),
        (
            {"a": np.zeros((1, 2, 3, 1), np.int8), "b": np.zeros((2, 2, 3, 1), np.int8)},
            r"different numbers of frames: \[1, 2\]",
        ),
    ],
)
def test_frame_errors(frames: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(two_input_graph(), frames)


# --- the oracle


@needs_litert
def test_litert_runs_many_frames_and_outputs() -> None:
    rng = np.random.default_rng(9)
    graph = random_graph(rng, EVERYTHING)
    frames = random_frames(rng, graph, 3)
    reference = LiteRTReference(write_tflite(graph))
    for name, values in zip(graph.outputs, reference.run_all(frames), strict=True):
        np.testing.assert_array_equal(values.reshape(3, -1), run(graph, frames)[name].reshape(3, -1))
    assert reference.run(frames[:0]).shape[0] == 0


@needs_litert
def test_litert_refuses_what_is_no_model(tmp_path: Path) -> None:
    for source in (b"nothing", tmp_path / "none.tflite"):
        with pytest.raises(ModelError, match="LiteRT cannot load the model"):
            LiteRTReference(source)


def test_missing_litert_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "_litert", None)
    assert not litert.available()
    with pytest.raises(EmberlineError, match="pip install ai-edge-litert"):
        LiteRTReference(b"")
