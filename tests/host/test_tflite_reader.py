"""The TFLite front end: what it makes of each operator, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_graphs import Limits, random_graph

from emberline.compiler.frontends import tflite_builder as builder
from emberline.compiler.frontends.tflite_reader import build_graph, read_tflite
from emberline.compiler.frontends.tflite_records import ModelRecords, read_records
from emberline.compiler.frontends.tflite_writer import write_tflite
from emberline.errors import ModelError
from emberline.model import litert
from emberline.model.graph import AveragePool, Convolution, Flatten, Graph, MaxPool, Pad, Padding, Softmax, unique_names
from emberline.model.litert import LiteRTReference
from emberline.model.network import run

needs_litert = pytest.mark.skipif(not litert.available(), reason="needs ai-edge-litert, the outside oracle")

NONE, RELU6, TANH = 0, 3, 4
SAME, VALID = 0, 1


class Model:
    """A model put together by hand: every method adds one operator to the last map and returns its tensor."""

    def __init__(self, shape: tuple[int, ...] = (1, 6, 5, 4)) -> None:
        self.tensors: list[builder.TensorRecord] = []
        self.operators: list[builder.OperatorRecord] = []
        self.last = self.map("input", shape)

    def map(self, name: str, shape: tuple[int, ...], scale: float = 0.1, zero_point: int = -4) -> int:
        self.tensors.append(builder.TensorRecord(name, shape, np.int8, (float(np.float32(scale)),), zero_point))
        return len(self.tensors) - 1

    def constant(self, values: np.ndarray, scales: tuple[float, ...] = (), axis: int = 0) -> int:
        name = f"constant{len(self.tensors)}"
        self.tensors.append(builder.TensorRecord(name, values.shape, values.dtype.type, scales, 0, axis, values))
        return len(self.tensors) - 1

    def add(self, kind: str, inputs: tuple[int, ...], output: int, table: str, **options: Any) -> int:
        self.operators.append(builder.OperatorRecord(kind, 1, inputs, (output,), table, options))
        self.last = output
        return output

    def convolution(
        self, out: int = 3, *, shape: tuple[int, ...] = (1, 6, 5, 3), padding: int = SAME, **options: Any
    ) -> int:
        depth = self.tensors[self.last].shape[-1]
        weights = self.constant(np.full((out, 3, 3, depth), 5, np.int8), (0.01,))
        bias = self.constant(np.arange(out, dtype=np.int32), (0.001,))
        all_options = {"Padding": padding, "StrideH": 1, "StrideW": 1, **options}
        return self.add("CONV_2D", (self.last, weights, bias), self.map("conv", shape), "Conv2DOptions", **all_options)

    def pad(self, rows: list[list[int]], shape: tuple[int, ...], **options: Any) -> int:
        paddings = self.constant(np.array(rows, np.int32))
        return self.add("PAD", (self.last, paddings), self.map("padded", shape, **options), "PadOptions")

    def reshape(self, shape: tuple[int, ...], **options: Any) -> int:
        target = self.constant(np.array(shape, np.int32))
        return self.add("RESHAPE", (self.last, target), self.map("flat", shape, **options), "ReshapeOptions")

    def dense(self, out: int = 7, size: int | None = None) -> int:
        size = size or int(np.prod(self.tensors[self.last].shape))
        weights = np.arange(out * size).reshape(out, size) % 251 - 125
        constants = self.constant(weights.astype(np.int8), (0.01,)), self.constant(np.zeros(out, np.int32), (0.001,))
        target = self.map("dense", (1, out))
        return self.add("FULLY_CONNECTED", (self.last, *constants), target, "FullyConnectedOptions")

    def mean(self, axes: list[int], shape: tuple[int, ...]) -> int:
        source = (self.last, self.constant(np.array(axes, np.int32)))
        return self.add("MEAN", source, self.map("mean", shape, 0.07, 3), "ReducerOptions", KeepDims=len(shape) == 4)

    def softmax(self) -> int:
        target = self.map("softmax", self.tensors[self.last].shape, 1 / 256, -128)
        return self.add("SOFTMAX", (self.last,), target, "SoftmaxOptions", Beta=1.0)

    def bytes(self, *outputs: int) -> bytes:
        return builder.build_model("test", self.tensors, self.operators, [0], outputs or [self.last])

    def read(self, *outputs: int) -> Graph:
        return read_tflite(self.bytes(*outputs))

    def check(self, *outputs: int) -> Graph:
        """The graph, after every feature map has been found equal to LiteRT's."""
        data = self.bytes(*outputs)
        graph = read_tflite(data)
        shape = graph.feature_maps[graph.inputs[0]].shape
        frames = np.random.default_rng(1).integers(-128, 128, (4, *shape), dtype=np.int8)
        maps = run(graph, frames, keep=True)
        if litert.available():
            reference = LiteRTReference(data, keep_tensors=True)
            for index, frame in enumerate(frames):
                tensors = reference.tensors(frame)
                for name, values in maps.items():
                    np.testing.assert_array_equal(values[index].reshape(-1), tensors[name].reshape(-1), err_msg=name)
        return graph


# --- what becomes of the operators


def test_layers_are_named_after_operator_and_output() -> None:
    model = Model()
    model.convolution()
    graph = model.read()
    assert [layer.name for layer in graph] == ["conv (CONV_2D #0)"]
    assert graph.name == "model"
    assert (graph.inputs, graph.outputs) == (("input",), ("conv",))


def test_same_padding_puts_the_odd_row_last() -> None:
    model = Model()
    model.convolution(shape=(1, 3, 3, 3), StrideH=2, StrideW=2)
    (layer,) = model.check().layers
    assert isinstance(layer, Convolution)
    assert layer.padding == Padding(0, 1, 1, 1)


def test_pad_is_folded_into_every_convolution_that_reads_it() -> None:
    model = Model()
    padded = model.pad([[0, 0], [2, 1], [0, 3], [0, 0]], (1, 9, 8, 4))
    first = model.convolution(shape=(1, 7, 6, 3), padding=VALID)
    model.last = padded
    model.tensors[first] = replace(model.tensors[first], name="first")
    second = model.convolution(shape=(1, 9, 8, 3), padding=SAME)
    graph = model.check(first, second)
    assert [layer.padding for layer in graph.layers if isinstance(layer, Convolution)] == [(2, 1, 0, 3), (3, 2, 1, 4)]
    assert set(graph.feature_maps) == {"input", "first", "conv"}


def test_pad_before_a_pool_stays_a_layer() -> None:
    model = Model()
    model.pad([[0, 0], [1, 1], [1, 0], [0, 0]], (1, 8, 6, 4))
    options = {"Padding": VALID, "StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 2}
    model.add("MAX_POOL_2D", (model.last,), model.map("pool", (1, 4, 3, 4)), "Pool2DOptions", **options)
    graph = model.check()
    assert [type(layer) for layer in graph.layers] == [Pad, MaxPool]


@pytest.mark.parametrize("reshape", [True, False])
def test_fully_connected_covers_the_whole_map(reshape: bool) -> None:
    model = Model()
    model.convolution()
    if reshape:
        model.reshape((1, 90))
    model.dense()
    graph = model.check()
    layer = graph.layers[-1]
    assert isinstance(layer, Convolution)
    assert layer.fully_connected
    assert (layer.kernel, layer.weights.shape) == ((6, 5), (7, 6, 5, 3))
    assert not graph.host_layers


def test_flatten_and_softmax_at_the_end_run_on_the_host() -> None:
    model = Model()
    conv = model.convolution()
    model.reshape((1, 90))
    model.softmax()
    graph = model.check(conv, model.last)
    assert [type(layer) for layer in graph.host_layers] == [Flatten, Softmax]
    assert graph.outputs == ("conv", "softmax")
    assert graph.accelerator_outputs == ("conv",)


def test_reshape_of_a_vector_disappears() -> None:
    model = Model((1, 1, 1, 9))
    model.dense()
    model.reshape((1, 1, 1, 7))
    graph = model.check()
    assert (graph.outputs, graph.host_layers) == (("dense",), ())


@pytest.mark.parametrize("axes, shape", [([1, 2], (1, 1, 1, 4)), ([2, 1], (1, 4)), ([-2, -3], (1, 4))])
@pytest.mark.parametrize("size", [(6, 5), (7, 7), (1, 3), (16, 16)])
def test_mean_is_a_depthwise_convolution(axes: list[int], shape: tuple[int, ...], size: tuple[int, int]) -> None:
    model = Model((1, *size, 4))
    model.mean(axes, shape)
    (layer,) = model.check().layers
    assert isinstance(layer, Convolution)
    assert layer.groups == 4
    assert (layer.weights == 1).all()


def test_pools_have_their_clamp() -> None:
    model = Model()
    options = {"Padding": SAME, "StrideH": 2, "StrideW": 1, "FilterHeight": 3, "FilterWidth": 2}
    target = model.map("pool", (1, 3, 5, 4))
    model.add("AVERAGE_POOL_2D", (0,), target, "Pool2DOptions", FusedActivationFunction=RELU6, **options)
    (layer,) = model.check().layers
    assert isinstance(layer, AveragePool)
    assert (layer.activation_min, layer.activation_max) == (-4, 56)
    assert layer.padding == (0, 1, 0, 1)


@pytest.mark.parametrize("inputs", [(0, 1), (0, 1, -1)])
def test_missing_bias_is_zero(inputs: tuple[int, ...]) -> None:
    model = Model()
    model.dense()
    model.operators[0] = replace(model.operators[0], inputs=inputs)
    (layer,) = model.check().layers
    assert isinstance(layer, Convolution)
    assert not layer.bias.any()


@pytest.mark.parametrize("seed", range(20))
def test_writing_what_was_read_changes_nothing(seed: int) -> None:
    limits = Limits(depthwise=True, dilation=True, softmax=True)
    first = read_tflite(write_tflite(random_graph(np.random.default_rng(seed), limits)))
    second = read_tflite(write_tflite(first))
    assert second.feature_maps == first.feature_maps
    assert [replace(layer, name="") for layer in second] == [replace(layer, name="") for layer in first]


def test_names_are_unique_and_printable() -> None:
    assert unique_names(["a", "", "b", "a", "c\n"]) == ["a#0", "#1", "b", "a#3", "c?"]


# --- what is refused


def records(change: Callable[[Model], None] | None = None) -> ModelRecords:
    model = Model()
    model.convolution()
    if change:
        change(model)
    return read_records(model.bytes())


def with_tensor(index: int, **fields: Any) -> ModelRecords:
    """Tensors: 0 input, 1 weights, 2 bias, 3 output."""
    model = records()
    tensors = list(model.tensors)
    tensors[index] = replace(tensors[index], **fields)
    return replace(model, tensors=tuple(tensors))


def with_options(**options: Any) -> ModelRecords:
    model = records()
    (operator,) = model.operators
    assert operator.options is not None
    return replace(model, operators=(replace(operator, options={**operator.options, **options}),))


def with_operator(**fields: Any) -> ModelRecords:
    model = records()
    return replace(model, operators=(replace(model.operators[0], **fields),))


REFUSED = {
    "operator": (
        with_operator(type="LEAKY_RELU"),
        "layer 'conv .LEAKY_RELU #0.': operator LEAKY_RELU is not",
    ),
    "float": (with_tensor(3, type="FLOAT32"), "'conv' is FLOAT32; only INT8 activations are supported: quantise"),
    "float_input": (with_tensor(0, type="FLOAT32"), "'input' is FLOAT32"),
    "uint8": (with_tensor(0, type="UINT8"), "'input' is UINT8; only INT8 activations are supported"),
    "unquantised": (with_tensor(3, scales=np.zeros(0, np.float32)), "'conv' has no quantisation"),
    "scale": (with_tensor(3, scales=np.array([np.nan], np.float32)), "'conv': scale must be a positive float32"),
    "zero_point": (with_tensor(3, zero_points=np.array([300])), "'conv': zero point must be in -128..127, not 300"),
    "per_channel": (with_tensor(3, scales=np.ones(3, np.float32)), "activation 'conv' is quantised per channel"),
    "dynamic": (with_tensor(0, shape_signature=(1, -1, 5, 4)), "'input' has a dynamic or empty shape .1, -1, 5, 4."),
    "empty": (with_tensor(0, shape=(1, 0, 5, 4)), "'input' has a dynamic or empty shape"),
    "rank": (with_tensor(0, shape=(1, 5, 4)), "only .1, height, width, channels. and .1, channels. are supported"),
    "batch": (with_tensor(0, shape=(2, 6, 5, 4)), "'input' has batch 2; only batch 1"),
    "huge": (with_tensor(0, shape=(1, 1 << 20, 1 << 10, 4)), "more than 67108864 values"),
    "weight_zero": (with_tensor(1, zero_points=np.array([3])), "have a zero point other than 0"),
    "weight_scales": (with_tensor(1, scales=np.zeros(0, np.float32)), "weights 'constant1' have no quantisation"),
    "weight_count": (with_tensor(1, scales=np.ones(2, np.float32)), "have 2 scales for 3 output channels"),
    "weight_axis": (
        with_tensor(1, scales=np.ones(3, np.float32), quantised_dimension=3),
        "are quantised along dimension 3",
    ),
    "weight_sign": (with_tensor(1, scales=-np.ones(3, np.float32)), "scales that are negative or not finite"),
    "weight_type": (with_tensor(1, type="UINT8"), "'constant1' is UINT8; only INT8 is supported"),
    "weight_rank": (with_tensor(1, shape=(27, 4)), "weights must have 4 dimensions"),
    "weight_depth": (with_tensor(1, shape=(4, 3, 3, 3)), "weights for 3 channels do not fit 4 channels"),
    "weight_size": (with_tensor(1, shape=(3, 3, 3, 5)), "'constant1' is .3, 3, 3, 5. INT8, but has 108 bytes"),
    "weight_data": (with_tensor(1, data=None), "'constant1' has no data"),
    "sparse": (with_tensor(1, sparse=True), "stored as a sparse tensor"),
    "bias_type": (with_tensor(2, type="INT64"), "'constant2' is INT64; only INT32 is supported"),
    "bias_size": (with_tensor(2, shape=(2,), data=np.zeros(8, np.uint8)), "2 biases for 3 output channels"),
    "ratio": (with_tensor(3, scales=np.array([1e-20], np.float32)), "scale ratio .* is 2..30 or more"),
    "output_shape": (with_tensor(3, shape=(1, 6, 4, 3)), "output 'conv' should be .6, 5, 3., not .6, 4, 3."),
    "constant_output": (with_tensor(3, data=np.zeros(90, np.uint8)), "'conv' is both computed and constant"),
    "constant_input": (with_operator(inputs=(1, 1, 2)), "its input 'constant1' is a constant"),
    "order": (with_operator(inputs=(3, 1, 2)), "its input 'conv' is not computed by any earlier layer"),
    "missing_input": (with_operator(inputs=(-1, 1, 2)), "its input 0 is missing"),
    "missing_weights": (with_operator(inputs=(0,)), "its input 1 is missing"),
    "outputs": (with_operator(outputs=(3, 3)), "it has 2 outputs, not one"),
    "no_output": (with_operator(outputs=()), "it has 0 outputs, not one"),
    "rewritten": (with_operator(outputs=(0,)), "tensor 'input' is written twice"),
    "options": (with_operator(options=None), "its options are missing"),
    "activation": (with_options(FusedActivationFunction=TANH), "fused activation function 4 is not supported"),
    "padding": (with_options(Padding=7), "padding scheme 7 is unknown"),
    "stride": (with_options(StrideH=0), "impossible window .3, 3., stride .0, 1."),
    "dilation": (with_options(DilationHFactor=4, Padding=VALID), "with dilation .4, 1. does not fit input .6, 5, 4."),
    "no_layers": (replace(records(), operators=()), "output 'conv' is not computed by any layer"),
    "input_is_output": (replace(records(), outputs=(0,)), "nothing reads its output 'conv'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    model, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        build_graph(model, "model")


def add_different_shapes(model: Model) -> None:
    model.add("ADD", (0, model.last), model.map("sum", (1, 6, 5, 4)), "AddOptions")


def add_constant(model: Model) -> None:
    constant = model.constant(np.zeros((1, 6, 5, 4), np.int8), (0.1,))
    model.add("ADD", (0, constant), model.map("sum", (1, 6, 5, 4)), "AddOptions")


def concatenate_rows(model: Model) -> None:
    target = model.map("joined", (1, 12, 5, 4))
    model.add("CONCATENATION", (0, 0), target, "ConcatenationOptions", Axis=1)


def concatenate_other_scales(model: Model) -> None:
    target = model.map("joined", (1, 6, 5, 6), 0.2)
    model.add("CONCATENATION", (model.last, model.last), target, "ConcatenationOptions", Axis=3)


def reshape_to_a_map(model: Model) -> None:
    model.reshape((1, 5, 6, 3))


def reshape_to_another_scale(model: Model) -> None:
    model.reshape((1, 90), scale=0.3)


def pool_of_flat(model: Model) -> None:
    model.reshape((1, 90))
    options = {"Padding": VALID, "StrideH": 1, "StrideW": 1, "FilterHeight": 1, "FilterWidth": 1}
    model.add("MAX_POOL_2D", (model.last,), model.map("pool", (1, 90)), "Pool2DOptions", **options)


def softmax_in_the_middle(model: Model) -> None:
    model.softmax()
    model.convolution(4)


def pad_channels(model: Model) -> None:
    model.pad([[0, 0], [0, 0], [0, 0], [0, 1]], (1, 6, 5, 4))


def pad_to_another_scale(model: Model) -> None:
    model.pad([[0, 0], [1, 0], [0, 0], [0, 0]], (1, 7, 5, 3), scale=0.3)


def pad_at_the_end(model: Model) -> None:
    model.pad([[0, 0], [1, 0], [0, 0], [0, 0]], (1, 7, 5, 3))


def mean_of_rows(model: Model) -> None:
    model.mean([1], (1, 1, 5, 3))


def dense_of_rows(model: Model) -> None:
    model.dense(size=3)


def pool_to_another_scale(model: Model) -> None:
    options = {"Padding": SAME, "StrideH": 1, "StrideW": 1, "FilterHeight": 2, "FilterWidth": 2}
    model.add("AVERAGE_POOL_2D", (model.last,), model.map("pool", (1, 6, 5, 3), 0.2), "Pool2DOptions", **options)


REFUSED_NETWORKS: list[tuple[Callable[[Model], None], str]] = [
    (add_different_shapes, r"cannot add 'conv' \(6, 5, 3\) to a \(6, 5, 4\) map"),
    (add_constant, "its input 'constant4' is a constant"),
    (concatenate_rows, "only channels can be concatenated, not axis 1"),
    (concatenate_other_scales, "must share one quantisation"),
    (reshape_to_a_map, r"a \(6, 5, 3\) map can only be flattened, not reshaped to \(5, 6, 3\)"),
    (reshape_to_another_scale, "its output must keep its input's quantisation"),
    (pool_of_flat, "'flat' is flattened, which only FULLY_CONNECTED, SOFTMAX or an output can read"),
    (softmax_in_the_middle, "SOFTMAX is supported only at the end of a network"),
    (pad_channels, "only rows and columns can be padded"),
    (pad_to_another_scale, r"its output must be \(7, 5, 3\) with its input's quantisation"),
    (pad_at_the_end, "output 'padded' is the result of a PAD"),
    (mean_of_rows, "only the mean over rows and columns is supported"),
    (dense_of_rows, r"weights \(7, 3\) do not fit an input of 90 values"),
    (pool_to_another_scale, "must share one quantisation"),
]


@pytest.mark.parametrize("change, message", REFUSED_NETWORKS)
def test_refused_network_names_file_and_layer(change: Callable[[Model], None], message: str) -> None:
    model = Model()
    model.convolution()
    change(model)
    with pytest.raises(ModelError, match=rf"^net.tflite: .*{message}"):
        read_tflite(model.bytes(), "net.tflite")


def test_layer_is_named_once() -> None:
    with pytest.raises(ModelError) as error:
        build_graph(with_tensor(3, shape=(1, 6, 4, 3)), "model")
    assert str(error.value).count("layer 'conv (CONV_2D #0)'") == 1


def test_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.tflite: cannot be read: No such file"):
        read_tflite(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("this is not a model at all")
    with pytest.raises(ModelError, match=r"text.tflite: not a TFLite model"):
        read_tflite(tmp_path / "text.tflite")
    model = Model()
    model.convolution()
    (tmp_path / "good.tflite").write_bytes(model.bytes())
    assert read_tflite(tmp_path / "good.tflite").name == "good"
