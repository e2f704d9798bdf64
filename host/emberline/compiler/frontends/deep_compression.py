"""SqueezeNet v1.0 as Deep Compression published it: pruned weights as codebook entries at relative positions.

The file holds, little-endian: the number of stored weights of each of the 26 convolutions as uint32; then for each a
codebook of 256 float32, the biases as float32, a byte of codebook index per stored weight, and a 4-bit gap before each
of them, low half first. A stored weight lies one place plus its gap behind the one before; everything else is 0.

Source: Han et al., "Deep Compression", 2016; songhan/SqueezeNet-Deep-Compression.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.onnx_records import import_onnx
from emberline.errors import ModelError

INPUT_SIZE = 227
_CODEBOOK = 256
_FIRES = ((2, 16, 64), (3, 16, 64), (4, 32, 128), (5, 32, 128), (6, 48, 192), (7, 48, 192), (8, 64, 256), (9, 64, 256))
_POOLED = ("conv1", "fire4", "fire8")


class Weights(NamedTuple):
    """One convolution's float32 kernel, OIHW, and biases."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]


def layer_shapes() -> dict[str, tuple[int, int, int, int]]:
    """The OIHW shape of every convolution, in the file's order."""
    shapes = {"conv1": (96, 3, 7, 7)}
    channels = 96
    for fire, squeezed, expanded in _FIRES:
        shapes[f"fire{fire}/squeeze1x1"] = (squeezed, channels, 1, 1)
        shapes[f"fire{fire}/expand1x1"] = (expanded, squeezed, 1, 1)
        shapes[f"fire{fire}/expand3x3"] = (expanded, squeezed, 3, 3)
        channels = 2 * expanded
    shapes["conv10"] = (1000, channels, 1, 1)
    return shapes


def read_weights(path: str | Path) -> dict[str, Weights]:
    """Every convolution's weights. Raises ``ModelError``, naming file and layer, for a damaged file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    shapes = layer_shapes()
    try:
        return decode(data, shapes)
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path}: not a SqueezeNet v1.0 of Deep Compression, or a damaged one: {error}") from error


def decode(data: bytes, shapes: Mapping[str, tuple[int, int, int, int]]) -> dict[str, Weights]:
    """The weights in a file's bytes. Raises ``ValueError``, naming the layer."""
    counts = np.frombuffer(data, "<u4", len(shapes)).tolist()
    offset = 4 * len(shapes)

    def take(dtype: str, count: int) -> NDArray[Any]:
        nonlocal offset
        values = np.frombuffer(data, dtype, count, offset)
        offset += values.nbytes
        return values

    found = {}
    for (name, shape), count in zip(shapes.items(), counts, strict=True):
        codebook, bias = take("<f4", _CODEBOOK), take("<f4", shape[0])
        codes, packed = take("u1", count), take("u1", -(-count // 2))
        gaps = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]
        places = np.cumsum(gaps.astype(np.int64) + 1) - 1
        kernel = np.zeros(int(np.prod(shape)), np.float32)
        if count and places[-1] >= kernel.size:
            raise ValueError(f"layer '{name}' has a weight at {places[-1]} of {kernel.size}")
        kernel[places] = codebook[codes]
        found[name] = Weights(kernel.reshape(shape), bias.astype(np.float32))
    if offset != len(data):
        raise ValueError(f"{len(data) - offset} bytes are left over")
    return found


def to_onnx(weights: Mapping[str, Weights]) -> bytes:
    """The float network as an ONNX file, to be quantised."""
    onnx = import_onnx()
    nodes: list[Any] = []
    constants = []

    def convolution(x: str, name: str, **attributes: Any) -> str:
        layer = weights[name]
        for suffix, value in (("weights", layer.kernel), ("bias", layer.bias)):
            constants.append(onnx.numpy_helper.from_array(value, f"{name}/{suffix}"))
        names = [x, f"{name}/weights", f"{name}/bias"]
        nodes.append(onnx.helper.make_node("Conv", names, [f"{name}/sums"], name=name, **attributes))
        nodes.append(onnx.helper.make_node("Relu", [f"{name}/sums"], [name], name=f"{name}/relu"))
        return name

    def pool(x: str) -> str:
        attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
        nodes.append(onnx.helper.make_node("MaxPool", [x], [f"{x}/pool"], name=f"{x}/pool", **attributes))
        return f"{x}/pool"

    x = pool(convolution("data", "conv1", strides=[2, 2]))
    for fire, _, _ in _FIRES:
        squeezed = convolution(x, f"fire{fire}/squeeze1x1")
        halves = [convolution(squeezed, f"fire{fire}/expand1x1")]
        halves.append(convolution(squeezed, f"fire{fire}/expand3x3", pads=[1] * 4))
        x = f"fire{fire}"
        nodes.append(onnx.helper.make_node("Concat", halves, [x], name=x, axis=1))
        x = pool(x) if x in _POOLED else x
    # The published network pads its last 1x1 convolution.
    x = convolution(x, "conv10", pads=[1] * 4)
    nodes.append(onnx.helper.make_node("GlobalAveragePool", [x], ["pool10"], name="pool10"))
    nodes.append(onnx.helper.make_node("Flatten", ["pool10"], ["logits"], name="logits"))
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "squeezenet_v1.0",
        [onnx.helper.make_tensor_value_info("data", kind, [1, 3, INPUT_SIZE, INPUT_SIZE])],
        [onnx.helper.make_tensor_value_info("logits", kind, [1, 1000])],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", 13)]
    data: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data
