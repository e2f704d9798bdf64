"""Weights' steps by rate against distortion, on a small network and constructed inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from emberline.compiler.frontends.onnx_reader import read_onnx  # noqa: E402
from emberline.driver.preprocessing import Preprocessing  # noqa: E402
from emberline.model.graph import Convolution  # noqa: E402
from emberline.quantiser.calibration import Method  # noqa: E402
from emberline.quantiser.rate import choose, measure, with_weights  # noqa: E402
from emberline.quantiser.static import Options, quantise  # noqa: E402


def network() -> onnx.ModelProto:
    """Two convolutions; the second input channel of the second one hardly varies."""
    rng = np.random.default_rng(1)
    constants = {
        "w1": rng.standard_normal((16, 3, 3, 3)) * 0.2,
        "b1": rng.standard_normal(16) * 0.1,
        "w2": rng.standard_normal((8, 16, 1, 1)) * 0.3,
        "b2": np.zeros(8),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w1", "b1"], ["s1"], name="first", pads=[1] * 4),
        onnx.helper.make_node("Relu", ["s1"], ["a1"]),
        onnx.helper.make_node("Conv", ["a1", "w2", "b2"], ["y"], name="second"),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("y", onnx.TensorProto.FLOAT, [1, 8, 8, 8])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def frames(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(count)]


def quiet(items, what):
    return items


def test_a_steeper_slope_takes_fewer_bits_and_distorts_more() -> None:
    layers = measure(network(), frames(), quiet)
    assert [layer.name for layer in layers] == ["w1", "w2"]
    bits, distortions = [], []
    for slope in (1e-6, 1e-5, 1e-4, 1e-3):
        choices = choose(layers, slope).values()
        bits.append(sum(choice.bits for choice in choices))
        distortions.append(sum(choice.distortion for choice in choices))
    assert bits == sorted(bits, reverse=True) and len(set(bits)) == 4
    assert distortions == sorted(distortions)


def test_distortion_is_about_the_change_of_the_outputs() -> None:
    model, data = network(), frames()
    layers = measure(model, data, quiet)
    choices = choose(layers, 1e-5)
    changed = with_weights(model, {name: choice.values for name, choice in choices.items()}, layers)
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(each.SerializeToString()) for each in (model, changed)]
    before, after = (np.stack([session.run(None, {"x": frame})[0] for frame in data]) for session in sessions)
    change = ((after - before) ** 2).mean() / ((before - before.mean(axis=0)) ** 2).mean()
    assert 0.3 < change / sum(choice.distortion for choice in choices.values()) < 3


def test_biases_take_up_what_the_means_lose() -> None:
    model, data = network(), [frame + 3 for frame in frames()]
    layers = measure(model, data, quiet)
    changed = with_weights(model, {"w2": np.zeros((8, 16, 1, 1), np.float32)}, layers)
    biases = {each.name: onnx.numpy_helper.to_array(each) for each in changed.graph.initializer}
    expected = (layers[1].weights[:, :, 0, 0] * layers[1].mean).sum(axis=1)
    np.testing.assert_allclose(biases["b2"], expected, rtol=1e-5)


def test_a_quantised_model_has_just_the_codes_that_were_chosen(tmp_path: Path) -> None:
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(network(), source)
    data = frames(8)
    quantise(source, target, data, Preprocessing(), Options(Method.MINMAX, slope=1e-4), quiet)
    choices = choose(measure(network(), data[:1], quiet), 1e-4)
    layers = [layer for layer in read_onnx(target).layers if isinstance(layer, Convolution)]
    for layer, choice in zip(layers, choices.values(), strict=True):
        np.testing.assert_array_equal(layer.weights.transpose(0, 3, 1, 2), choice.codes)
        assert np.unique(layer.weight_scales).tolist() == [np.float32(choice.step)]


def test_a_slope_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="slope must be positive, not 0"):
        choose([], 0)
