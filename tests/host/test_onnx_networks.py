"""Whole float topologies with random weights: quantised, read, and compared with onnxruntime; compiled and emulated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")

from onnx_models import OnnxNetwork  # noqa: E402

from emberline.arch.architecture import Architecture  # noqa: E402
from emberline.compiler.compile import compile_graph  # noqa: E402
from emberline.compiler.frontends.onnx_reader import read_onnx  # noqa: E402
from emberline.driver.preprocessing import Preprocessing  # noqa: E402
from emberline.model import network as model  # noqa: E402
from emberline.model.emulator import Emulator  # noqa: E402
from emberline.model.graph import Convolution, Graph, MaxPool, Select  # noqa: E402
from emberline.model.onnx_reference import OnnxRuntimeReference  # noqa: E402
from emberline.quantiser.static import Options, quantise  # noqa: E402

LARGE = Architecture(
    name="large", lanes_in=32, lanes_out=8, activation_depth_words=65536, weight_depth_words=65536,
    program_depth_words=65536,
)  # fmt: skip


class FloatNetwork(OnnxNetwork):
    """Layers with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def conv(
        self, x: str, inner: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, relu: bool = True
    ) -> str:
        shape = (out, inner // groups, kernel, kernel)
        weights = self.rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        bias = self.rng.normal(0, 0.1, out).astype(np.float32)
        x = self.node(
            "Conv", x, self.constant(weights), self.constant(bias), strides=[stride] * 2, pads=[kernel // 2] * 4,
            group=groups,
        )  # fmt: skip
        return self.node("Relu", x) if relu else x

    def normalised(self, x: str, channels: int) -> str:
        factors = [self.rng.uniform(0.7, 1.3, channels) for _ in range(4)]
        return self.node("BatchNormalization", x, *(self.constant(each.astype(np.float32)) for each in factors))

    def pool(self, x: str) -> str:
        return self.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)

    def fire(self, x: str, inner: int, squeezed: int, expanded: int) -> str:
        x = self.conv(x, inner, squeezed)
        return self.node("Concat", self.conv(x, squeezed, expanded), self.conv(x, squeezed, expanded, 3), axis=1)

    def shuffle(self, x: str, channels: int, groups: int, height: int, width: int) -> str:
        apart, whole = ((1, groups, channels // groups, height, width), (1, channels, height, width))
        x = self.node("Reshape", x, self.constant(np.array(apart, np.int64)))
        x = self.node("Transpose", x, perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", x, self.constant(np.array(whole, np.int64)))


def squeezedet(network: FloatNetwork) -> list[str]:
    """SqueezeDet: SqueezeNet's first eight fire modules and two more, then a 3x3 convolution over anchors."""
    x = network.pool(network.conv(network.input("image", (1, 3, 48, 80)), 3, 64, 3, 2))
    inner = 64
    for index, (squeezed, expanded) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256), (96, 384), (96, 384))
    ):
        x, inner = network.fire(x, inner, squeezed, expanded), 2 * expanded
        x = network.pool(x) if index in (1, 3) else x
    return [network.conv(x, inner, 72, 3, relu=False)]


def shufflenet(network: FloatNetwork) -> list[str]:
    """ShuffleNet v1, three groups: a unit of stride 2 and one of stride 1, behind the first layers."""
    x = network.pool(network.conv(network.input("image", (1, 3, 32, 32)), 3, 24, 3, 2))
    side = 8
    y = network.conv(x, 24, 60, groups=1)
    y = network.shuffle(y, 60, 3, side, side)
    y = network.normalised(network.conv(y, 60, 60, 3, 2, 60, relu=False), 60)
    y = network.conv(y, 60, 216, groups=3, relu=False)
    shortcut = network.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = network.node("Relu", network.node("Concat", shortcut, y, axis=1))
    side //= 2
    y = network.conv(x, 240, 60, groups=3)
    y = network.shuffle(y, 60, 3, side, side)
    y = network.normalised(network.conv(y, 60, 60, 3, 1, 60, relu=False), 60)
    y = network.conv(y, 60, 240, groups=3, relu=False)
    x = network.node("Relu", network.node("Add", x, y))
    x = network.node("Flatten", network.node("GlobalAveragePool", x))
    matrix = network.rng.normal(0, 0.1, (240, 10)).astype(np.float32)
    return [network.node("Gemm", x, network.constant(matrix), network.constant(np.zeros(10, np.float32)))]


def quantised(data: bytes, folder: Path) -> tuple[Path, Graph]:
    source, target = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(data)
    shape = [each.dim_value for each in onnx.load(source).graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    quantise(source, target, [rng.normal(0, 1, shape).astype(np.float32) for _ in range(4)], Preprocessing(), Options())
    return target, read_onnx(target)


@pytest.mark.parametrize(("topology", "tolerance"), [(squeezedet, 0.02), (shufflenet, 0.5)])
def test_network_is_the_same_in_model_emulator_and_onnxruntime(
    topology: Callable[[FloatNetwork], list[str]], tolerance: float, tmp_path: Path
) -> None:
    """``tolerance``: the share of codes in which onnxruntime's float sums and averages may differ, by one."""
    network = FloatNetwork()
    path, graph = quantised(network.model(topology(network)), tmp_path)
    (name,) = graph.outputs
    frames = np.random.default_rng(2).integers(-128, 128, (2, *graph.feature_maps["image"].shape), dtype=np.int8)
    ours = model.run(graph, frames)[name]
    distances = np.abs(ours.astype(int) - OnnxRuntimeReference(path, graph).run_all(frames)[0])
    assert len(np.unique(ours)) > 7
    assert distances.max() <= 1
    assert np.mean(distances > 0) <= tolerance
    emulator = Emulator(LARGE)
    emulator.load(compile_graph(graph, LARGE))
    np.testing.assert_array_equal(emulator.run(frames[0]).results[name], ours[0])


def test_topologies_are_read_as_they_are(tmp_path: Path) -> None:
    network = FloatNetwork()
    _, graph = quantised(network.model(shufflenet(network)), tmp_path)
    kinds = Counter(type(layer) for layer in graph.layers)
    assert kinds[Select] == 2
    assert kinds[MaxPool] == 1
    grouped = [layer.groups for layer in graph.layers if isinstance(layer, Convolution) and layer.groups == 3]
    assert len(grouped) == 3


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.slow
@pytest.mark.skipif(not LIGHT.is_dir(), reason=f"the installed onnx has no {LIGHT}")
@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_light_topology_of_the_onnx_package(name: str, tmp_path: Path) -> None:
    file = onnx.load(LIGHT / f"{name}.onnx")
    fill(file)
    path, graph = quantised(file.SerializeToString(), tmp_path)
    (source,) = graph.inputs
    frames = np.random.default_rng(2).integers(-128, 128, (1, *graph.feature_maps[source].shape), dtype=np.int8)
    ours = model.run(graph, frames)[graph.outputs[0]]
    assert np.abs(ours.astype(int) - OnnxRuntimeReference(path, graph).run_all(frames)[0]).max() <= 1


def fill(file: object) -> None:
    """Random weights in the place of the constant ones that keep the file light; inputs that are none are dropped."""
    graph, rng = file.graph, np.random.default_rng(0)  # type: ignore[attr-defined]
    shapes = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape, name = shapes[node.input[0]].tolist(), node.output[0]
        if len(shape) > 1:
            values = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        elif name.endswith(("_riv_0", "_s_0")):
            values = rng.uniform(0.7, 1.3, shape)
        else:
            values = rng.normal(0, 0.1, shape)
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    del graph.node[:]
    graph.node.extend(kept)
    constants = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
