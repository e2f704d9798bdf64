"""The graph's own checks: each names the layer and the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emberline.errors import ModelError
from emberline.model.graph import (
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    FeatureMap,
    Flatten,
    Graph,
    MaxPool,
    Pad,
    Padding,
    Quantisation,
    Softmax,
)
from emberline.model.numerics import add_parameters

Q = Quantisation(0.5, -3)
SUM = add_parameters(0.5, 0.5, 0.5)._asdict()


def feature_map(name: str, *shape: int, quantisation: Quantisation = Q) -> FeatureMap:
    return FeatureMap(name, *shape, quantisation)  # type: ignore[misc]


def convolution(name: str = "conv", source: str = "x", target: str = "y", out: int = 3, **fields: Any) -> Convolution:
    values: dict[str, Any] = {
        "weights": np.ones((out, 3, 3, 2), np.int8),
        "bias": np.zeros(out, np.int32),
        "weight_scales": np.ones(1, np.float32),
        "multiplier": np.full(out, 1 << 30, np.int32),
        "shift": np.zeros(out, np.int32),
        "padding": Padding(1, 1, 1, 1),
    }
    return Convolution(name, (source,), target, **{**values, **fields})


def graph(*layers: Any, maps: tuple[FeatureMap, ...] = (), **fields: Any) -> Graph:
    """``x`` 5x4x2 to ``y`` 5x4x3, if not told otherwise."""
    maps = maps or (feature_map("x", 5, 4, 2), feature_map("y", 5, 4, 3))
    values: dict[str, Any] = {"inputs": ("x",), "outputs": ("y",), "feature_maps": {each.name: each for each in maps}}
    return Graph("net", layers=layers or (convolution(),), **{**values, **fields})


def test_counts_producers_and_consumers() -> None:
    net = graph()
    (layer,) = net.layers
    assert net.macs() == net.macs(layer) == 5 * 4 * 3 * 3 * 3 * 2
    assert net.parameter_count == 3 * 3 * 3 * 2 + 3
    assert net.producer("y") is layer
    assert net.producer("x") is None
    assert net.consumers("x") == (layer,)
    assert net.consumers("y") == ()


def test_outputs_are_seen_through_the_host_layers() -> None:
    score = Quantisation(1 / 256, -128)
    maps = (
        feature_map("x", 5, 4, 2),
        feature_map("y", 5, 4, 3),
        feature_map("flat", 1, 1, 60),
        feature_map("p", 1, 1, 60, quantisation=score),
    )
    host = (Flatten("f", ("y",), "flat"), Softmax("s", ("flat",), "p"))
    net = graph(maps=maps, host_layers=host, outputs=("p", "y"))
    assert net.accelerator_outputs == ("y",)
    assert [layer.name for layer in net] == ["conv", "f", "s"]


def test_layers_are_compared_by_value_and_frozen() -> None:
    assert convolution() == convolution()
    assert hash(convolution()) == hash(convolution())
    assert convolution() != convolution(bias=np.ones(3, np.int32))
    assert convolution() != convolution(weight_scales=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        convolution().weights[0] = 1


def test_depthwise_is_recognised() -> None:
    layer = convolution(out=4, weights=np.ones((4, 3, 3, 1), np.int8), groups=2)
    net = graph(layer, maps=(feature_map("x", 5, 4, 2), feature_map("y", 5, 4, 4)))
    assert layer.is_depthwise(net.feature_maps)
    assert not convolution().is_depthwise(net.feature_maps)


@pytest.mark.parametrize(
    "scale, zero, message",
    [
        (0.0, 0, "scale must be a positive float32 value, not 0.0"),
        (float("nan"), 0, "scale"),
        (0.1, 0, "scale must be a positive float32 value, not 0.1"),
        (0.5, 128, "zero point must be in -128..127, not 128"),
    ],
)
def test_quantisation_errors(scale: float, zero: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Quantisation(scale, zero)


def test_feature_map_error() -> None:
    with pytest.raises(ModelError, match=r"feature map 'x': every dimension must be at least 1, not \(5, 0, 2\)"):
        feature_map("x", 5, 0, 2)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"weights": np.ones((3, 3, 2), np.int8)}, r"weights must be \[out, kernel_h, kernel_w, in / groups\]"),
        ({"weights": np.ones((3, 3, 3, 2), np.int16)}, r"weights must be int8 \(3, 3, 3, 2\), not int16"),
        ({"bias": np.zeros(2, np.int32)}, r"bias must be int32 \(3,\), not int32 \(2,\)"),
        ({"bias": np.zeros(3, np.int64)}, "bias must be int32"),
        ({"weight_scales": np.ones(2, np.float32)}, r"weight_scales must be float32 \(3,\)"),
        ({"weight_scales": -np.ones(1, np.float32)}, "weight scales must be finite and not negative"),
        ({"multiplier": np.array([1, -1, 1], np.int32)}, "multipliers must not be negative"),
        ({"shift": np.array([0, 31, -32], np.int32)}, r"shifts must be in -31..30, not -32..31"),
        ({"groups": 2}, "3 output channels cannot be split into 2 groups"),
        ({"stride": (0, 1)}, "impossible window"),
        ({"padding": Padding(-1, 0, 0, 0)}, "impossible window"),
        ({"activation_min": 5, "activation_max": 4}, r"activation range 5..4 is not within int8"),
    ],
)
def test_convolution_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"layer 'conv': {message}"):
        convolution(**fields)


X, Y = feature_map("x", 5, 4, 2), feature_map("y", 5, 4, 3)
OTHER = Quantisation(0.25, -3)
SCORE = Quantisation(1 / 256, -128)

UNFIT: list[tuple[Any, FeatureMap, str]] = [
    (convolution(), feature_map("y", 5, 5, 3), r"output 'y' should be \(5, 4, 3\), not \(5, 5, 3\)"),
    (convolution(weights=np.ones((3, 3, 3, 4), np.int8)), Y, "2 input channels, but weights for 4"),
    (convolution(padding=Padding(), dilation=(3, 1)), Y, r"window \(3, 3\) with dilation \(3, 1\) does not fit"),
    (convolution(fully_connected=True), Y, r"its kernel \(3, 3\) does not cover its input \(5, 4, 2\)"),
    (Add("conv", ("x", "x"), "y", **SUM), Y, r"cannot add 'x' \(5, 4, 2\) to a \(5, 4, 3\) map"),
    (Add("conv", ("x",), "y", **SUM), Y, "Add cannot have 1 inputs"),
    (Concatenation("conv", ("x", "x"), "y"), Y, r"output 'y' should be \(5, 4, 4\)"),
    (Concatenation("conv", ("x",), "y"), replace(X, name="y", quantisation=OTHER), "must share one quantisation"),
    (AveragePool("conv", ("x",), "y", (2, 2), (1, 1)), Y, r"output 'y' should be \(4, 3, 2\)"),
    (MaxPool("conv", ("x",), "y", (1, 1), (1, 1)), replace(X, name="y", quantisation=OTHER), "share one quantisation"),
    (
        MaxPool("conv", ("x",), "y", (1, 2), (1, 1), Padding(1, 0, 0, 0)),
        feature_map("y", 6, 3, 2),
        "leaves a window .* without values",
    ),
    (Pad("conv", ("x",), "y", Padding(1, 0, 0, 0)), Y, r"output 'y' should be \(6, 4, 2\)"),
    (Pad("conv", ("x",), "y", Padding(-1, 0, 0, 0)), Y, "padding must not be negative"),
]


@pytest.mark.parametrize("layer, target, message", UNFIT)
def test_layer_that_does_not_fit_its_maps(layer: Any, target: FeatureMap, message: str) -> None:
    with pytest.raises(ModelError, match=f"layer 'conv': .*{message}"):
        graph(layer, maps=(X, target))


def test_maps_to_concatenate_have_one_size() -> None:
    maps = (X, feature_map("z", 4, 4, 2), Y)
    with pytest.raises(ModelError, match=r"layer 'join': input 'z' is \(4, 4, 2\), the first one 5x4"):
        graph(Concatenation("join", ("x", "z"), "y"), maps=maps, inputs=("x", "z"))


@pytest.mark.parametrize(
    "layer, target, message",
    [
        (Softmax("host", ("y",), "p"), feature_map("p", 5, 4, 3), "output must have scale 1/256, zero point -128"),
        (Softmax("host", ("y",), "p"), feature_map("p", 5, 4, 2, quantisation=SCORE), "output 'p' should be"),
        (Flatten("host", ("y",), "p"), feature_map("p", 1, 1, 59), r"output 'p' should be \(1, 1, 60\)"),
        (Pad("host", ("y",), "p", Padding()), feature_map("p", 5, 4, 3), "a Pad cannot run there"),
    ],
)
def test_host_layer_errors(layer: Any, target: FeatureMap, message: str) -> None:
    with pytest.raises(ModelError, match=f"layer 'host': {message}"):
        graph(maps=(X, Y, target), host_layers=(layer,), outputs=("p",))


def test_softmax_of_too_many_channels() -> None:
    wide = feature_map("y", 1, 1, 4096)
    maps = (feature_map("x", 1, 1, 4096), wide, replace(wide, name="p", quantisation=SCORE))
    pool = MaxPool("pool", ("x",), "y", (1, 1), (1, 1))
    with pytest.raises(ModelError, match="layer 's': the fixed-point sum of a softmax holds fewer than 4096 channels"):
        graph(pool, maps=maps, host_layers=(Softmax("s", ("y",), "p"),), outputs=("p",))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"layers": ()}, "needs at least one input, one output and one layer"),
        ({"outputs": ("z",)}, "network 'net' has no feature map 'z'"),
        ({"outputs": ("y", "y")}, r"inputs \('x',\) or outputs \('y', 'y'\) repeat a map"),
        ({"feature_maps": {"x": X, "y": X}}, "feature map 'x' is listed as 'y'"),
        ({"feature_maps": {"x": X, "y": Y, "z": replace(X, name="z")}}, "feature map 'z' is produced by no layer"),
        (
            {"feature_maps": {"x": X, "y": Y, "z": replace(X, name="z")}, "inputs": ("x", "z")},
            "no layer reads input 'z'",
        ),
        ({"layers": (Softmax("s", ("x",), "y"),)}, "layer 's': a Softmax cannot run there"),
        ({"layers": (convolution(), convolution())}, "layer 'conv': another layer has the same name"),
        ({"layers": (convolution(), convolution("two"))}, "layer 'two': 'y' already has a producer"),
        ({"layers": (convolution(source="z"),)}, "layer 'conv': unknown feature map 'z'"),
        ({"layers": (convolution(source="y"),)}, "layer 'conv': reads 'y' before it is produced"),
        ({"outputs": ("x",)}, "layer 'conv': nothing reads its output 'y'"),
    ],
)
def test_graph_errors(fields: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {
        "inputs": ("x",),
        "outputs": ("y",),
        "layers": (convolution(),),
        "feature_maps": {"x": X, "y": Y},
    }
    with pytest.raises(ModelError, match=message):
        Graph("net", **{**values, **fields})


def test_output_must_pass_through_the_accelerator() -> None:
    maps = (X, Y, replace(X, name="p", quantisation=SCORE))
    with pytest.raises(ModelError, match="output of 'x' does not pass through the accelerator"):
        graph(maps=maps, host_layers=(Softmax("s", ("x",), "p"),), outputs=("y", "p"))
