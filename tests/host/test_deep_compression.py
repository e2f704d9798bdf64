"""SqueezeNet v1.0 from the file that Deep Compression published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emberline.compiler.frontends.deep_compression import decode, layer_shapes, read_weights, to_onnx
from emberline.errors import ModelError

FOLDER = "squeezenet_v1.0_deep_compression"
SHAPES = {"a": (1, 2, 1, 3), "b": (2, 1, 1, 1)}


def small_file() -> bytes:
    """Two convolutions: values at places 1 and 5 of six, none in the second."""
    codebook = np.arange(256, dtype="<f4")
    parts = [np.array([2, 0], "<u4"), codebook, np.array([0.5], "<f4"), np.array([7, 9], "u1"), np.array([0x31], "u1"),
             codebook, np.array([1, 2], "<f4")]  # fmt: skip
    return b"".join(part.tobytes() for part in parts)


def test_codes_are_placed_by_their_gaps() -> None:
    weights = decode(small_file(), SHAPES)
    assert weights["a"].kernel.reshape(-1).tolist() == [0, 7, 0, 0, 0, 9]
    assert weights["a"].bias.tolist() == [0.5]
    assert not weights["b"].kernel.any()


@pytest.mark.parametrize(
    ("data", "message"),
    [(small_file()[:-4], "buffer"), (small_file() + b"x", "1 bytes are left over")],
)
def test_wrong_size_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(data, SHAPES)


def test_place_outside_the_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 'a' has a weight at 5 of 3"):
        decode(small_file(), SHAPES | {"a": (1, 1, 1, 3)})


def test_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.net"
    path.write_bytes(bytes(1000))
    with pytest.raises(ModelError, match=r"other\.net: not a SqueezeNet"):
        read_weights(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "missing.net")


def test_published_weights_are_those_of_the_float_network(data_folder: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the optional package onnx")
    weights = read_weights(data_folder / FOLDER / "compressed_SqueezeNet.net")
    graph = onnx.load(data_folder / FOLDER / "squeezenet1.0_deepcomp_f32.onnx").graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    assert list(weights) == list(layer_shapes())
    for layer, node in zip(weights.values(), nodes, strict=True):
        np.testing.assert_array_equal(layer.kernel, constants[node.input[1]])
        np.testing.assert_array_equal(layer.bias, constants[node.input[2]])


def test_network_computes_what_the_published_float_one_does(data_folder: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")
    folder = data_folder / FOLDER
    frame = np.random.default_rng(0).normal(0, 50, (1, 3, 227, 227)).astype(np.float32)
    sources = (to_onnx(read_weights(folder / "compressed_SqueezeNet.net")),
               (folder / "squeezenet1.0_deepcomp_f32.onnx").read_bytes())  # fmt: skip
    ours, theirs = (runtime.InferenceSession(each).run(None, {"data": frame})[0] for each in sources)
    np.testing.assert_array_equal(ours, theirs)
