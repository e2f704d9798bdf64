"""Float models that cannot be quantised or inspected: one message that names the file and the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke
from PIL import Image

onnx = pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")

from onnx_models import OnnxNetwork  # noqa: E402


def float_model(operator: str = "Relu", shape: tuple[int | str, ...] = (1, 3, 6, 6)) -> Any:
    """A convolution and an operator behind it."""
    network = OnnxNetwork()
    weights = network.constant(np.ones((4, 3, 3, 3), np.float32))
    x = network.node(operator, network.node("Conv", network.input("image", shape), weights))
    return onnx.load_from_string(network.model([x]))


def make_external(model: Any) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def make_cyclic(model: Any) -> None:
    model.graph.node[0].input[0] = model.graph.node[1].output[0]


def add_input(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1, 3, 6, 6]))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (6, 6), "red").save(folder / "a.png")
    return folder


def refused(capfd: pytest.CaptureFixture[str], data: bytes, photographs: Path, message: str) -> None:
    path, output = photographs.parent / "float.onnx", photographs.parent / "int8.onnx"
    path.write_bytes(data)
    quantise = ("quantize", path, "--calibration", photographs, "--preprocess", "order=RGB", "-o", output)
    for arguments in (quantise, ("inspect", path)):
        finished = invoke(capfd, *arguments)
        assert finished.status == 1, finished.out
        assert finished.out == ""
        assert "float.onnx: " in finished.err
        assert message in finished.err
        assert "Traceback" not in finished.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (make_external, "external data"),
        (make_cyclic, "onnxruntime cannot load it"),
        (add_input, "it has 2 inputs; one is supported"),
    ],
)
def test_damaged_float_model(
    capfd: pytest.CaptureFixture[str], photographs: Path, change: Callable[[Any], None], message: str
) -> None:
    model = float_model()
    change(model)
    refused(capfd, model.SerializeToString(), photographs, message)


def test_dynamic_float_model(capfd: pytest.CaptureFixture[str], photographs: Path) -> None:
    model = float_model(shape=(1, 3, "height", 6))
    refused(capfd, model.SerializeToString(), photographs, "dynamic or unsupported shape")


def test_unknown_operator_is_named_before_anything_is_compiled(
    capfd: pytest.CaptureFixture[str], photographs: Path
) -> None:
    path = photographs.parent / "float.onnx"
    path.write_bytes(float_model("Sigmoid").SerializeToString())
    finished = invoke(capfd, "inspect", path)
    assert finished.status == 1
    assert "operator Sigmoid is not supported" in finished.err


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_float_model(capfd: pytest.CaptureFixture[str], photographs: Path, share: float) -> None:
    data = float_model().SerializeToString()
    path = photographs.parent / "cut.onnx"
    path.write_bytes(data[: int(share * len(data))])
    arguments = ("--calibration", photographs, "--preprocess", "order=RGB", "-o", photographs.parent / "int8.onnx")
    for command in (("quantize", path, *arguments), ("inspect", path)):
        finished = invoke(capfd, *command)
        assert finished.status == 1
        assert "cut.onnx: " in finished.err
        assert len(finished.err.strip().splitlines()) == 1


def test_calibration_images_are_converted(capfd: pytest.CaptureFixture[str], photographs: Path) -> None:
    """Grey, transparent and turned photographs calibrate a network for RGB."""
    path, output = photographs.parent / "float.onnx", photographs.parent / "int8.onnx"
    path.write_bytes(float_model().SerializeToString())
    Image.new("L", (9, 8), 40).save(photographs / "grey.png")
    Image.new("RGBA", (9, 8), (255, 0, 0, 128)).save(photographs / "clear.png")
    Image.new("CMYK", (9, 8)).save(photographs / "print.jpg")
    arguments = ("--calibration", photographs, "--preprocess", "order=RGB", "-o", output)
    finished = invoke(capfd, "quantize", path, *arguments)
    assert finished.status == 0, finished.err
    assert invoke(capfd, "inspect", output, "--json").json()["supported"]
