"""The commands inspect, quantize and zoo, and ONNX files through verify."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke
from PIL import Image

from emberline.arch.presets import preset
from emberline.cli.float_network import is_float
from emberline.cli.inspect import build_report, with_largest_memories
from emberline.cli.networks import load_network
from emberline.cli.zoo import download
from emberline.compiler.compile import compile_graph
from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.errors import EmberlineError
from emberline.model.graph import NO_PADDING, FeatureMap, Graph, MaxPool, Quantisation
from emberline.zoo import PACKAGE_FOLDER, ZOO

Capture = pytest.CaptureFixture[str]


def test_inspect_counts_what_the_graph_has(capfd: Capture) -> None:
    report = invoke(capfd, "inspect", "ember_cifar10", "--json").json()
    graph = read_tflite(PACKAGE_FOLDER / "ember_cifar10.tflite")
    assert report["macs"] == graph.macs() == sum(row["macs"] for row in report["layers"])
    assert report["parameters"] == graph.parameter_count
    assert [row["name"] for row in report["layers"]] == [layer.name for layer in graph]
    assert report["supported"]
    assert report["layers"][-1]["where"] == "host"


@pytest.mark.parametrize("name", ["ember_cifar10", "resnet8", "vww_96", "mobilenet_v1_025"])
def test_inspect_gives_every_predicted_cycle_to_a_layer(name: str, data_folder: Path) -> None:
    graph, architecture = load_network(name).need_graph("testing"), preset("ulx3s-85f")
    report = build_report(graph, architecture)
    program = compile_graph(graph, architecture if report["fits"] else with_largest_memories(architecture))
    assert report["predicted_cycles"] == program.predicted_cycles
    assert sum(row["cycles"] or 0 for row in report["layers"]) == program.predicted_cycles
    assert sum(row["weight_bytes"] for row in report["layers"]) == len(program.weights) == report["weight_bytes"]
    cycles = {layer.name: layer.cycles for layer in program.layers}
    assert all(cycles[row["name"]] == row["cycles"] for row in report["layers"] if row["name"] in cycles)
    assert report["fits"] == (report["why_not"] is None) == (report["weight_bytes"] <= architecture.weight_bytes)


def test_inspect_names_what_an_addition_is_computed_behind(data_folder: Path) -> None:
    report = build_report(load_network("resnet8").need_graph("testing"), preset("ulx3s-85f"))
    behind = [row for row in report["layers"] if row["behind"]]
    assert [row["kind"] for row in behind] == ["Add"] * 3
    assert all(row["cycles"] == 0 for row in behind)


def test_inspect_of_a_float_network_is_that_of_its_int8_one(capfd: Capture, tmp_path: Path, photographs: Path) -> None:
    model, output = float_model(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    finished = invoke(capfd, "inspect", model, "--json")
    assert "is float: quantise it first (emberline quantize" in finished.err
    arguments = ("--calibration", photographs, "--preprocess", PREPROCESS, "-o", output)
    assert invoke(capfd, "quantize", model, *arguments).status == 0
    expected = invoke(capfd, "inspect", output, "--json").json()
    assert expected["quantised"] and not finished.json()["quantised"]
    for key in ("macs", "parameters", "predicted_cycles", "weight_bytes", "largest_activation_bytes"):
        assert finished.json()[key] == expected[key]


def test_float_networks_are_recognised(data_folder: Path) -> None:
    assert is_float(str(data_folder / "squeezenet_v1.0_deep_compression" / "compressed_SqueezeNet.net"))
    assert is_float("face_ultralight")
    assert is_float("squeezenet1.1") and is_float("squeezenet1.0-dc")
    assert not is_float("zynqnet") and not is_float("no such file")


def test_inspect_prints_a_table(capfd: Capture) -> None:
    finished = invoke(capfd, "inspect", "ember_cifar10")
    assert finished.status == 0
    assert "every layer is supported" in finished.out


def test_inspect_says_why_a_layer_is_unsupported() -> None:
    quantisation = Quantisation(0.5, 0)
    maps = {"x": FeatureMap("x", 2, 33, 3, quantisation), "y": FeatureMap("y", 2, 3, 3, quantisation)}
    graph = Graph("test", ("x",), ("y",), (MaxPool("pool", ("x",), "y", (1, 1), (1, 16), NO_PADDING),), maps)
    report = build_report(graph, preset("ulx3s-85f"))
    assert not report["supported"]
    assert report["layers"][0]["unsupported"] == "a maximum every 15 columns at most can run, not every 16"
    assert report["predicted_cycles"] is None


# --- zoo


def test_zoo_list_names_every_network(capfd: Capture) -> None:
    report = invoke(capfd, "zoo", "list", "--json").json()
    assert [row["name"] for row in report] == list(ZOO)
    assert next(row for row in report if row["name"] == "ember_cifar10")["here"]


def test_zoo_verify_compares_with_litert(capfd: Capture) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the optional package ai-edge-litert")
    rows = invoke(capfd, "zoo", "verify", "ember_cifar10", "--frames", "2", "--json").json()
    assert [(row["on"], row["against"], row["outputs"], row["differing_outputs"]) for row in rows] == [
        ("model", "litert", 20, 0),
        ("emulator", "model", 20, 0),
    ]
    assert rows[1]["arch"] == "ulx3s-85f"


def test_zoo_verify_without_the_data_compares_random_frames(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the optional package ai-edge-litert")
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    finished = invoke(capfd, "zoo", "verify", "--all", "--on", "model", "--json")
    assert finished.status == 0
    rows = {row["name"]: row for row in finished.json()}
    assert (rows["ember_cifar10"]["source"], rows["ember_cifar10"]["differing_outputs"]) == ("random codes", 0)
    assert "not here: " in rows["kws"]["note"]


def test_zoo_verify_fails_where_values_differ(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from emberline.cli import zoo_verify

    def wrong(against: str, network: object) -> object:
        engine = zoo_verify.ModelEngine(network)  # type: ignore[arg-type]
        return type("Wrong", (), {"run": lambda _, frames: engine.run(frames ^ 85)})()

    monkeypatch.setattr(zoo_verify, "open_reference", wrong)
    finished = invoke(capfd, "zoo", "verify", "ember_cifar10", "--on", "model", "--frames", "2")
    assert finished.status == 1
    assert "values differ, by at most" in finished.out


@pytest.mark.parametrize(
    ("cycles", "stalls", "fails"), [(100, 0, False), (99, 0, True), (101, 0, True), (98, 3, False), (96, 3, True)]
)
def test_zoo_verify_fails_where_cycles_are_not_the_predicted_ones(cycles: int, stalls: int, fails: bool) -> None:
    """A wait for the host may hide other waits: then the machine works less, and with the wait no less."""
    from emberline.cli.zoo_verify import Row

    row = Row("x", "rtl", "model", cycles=cycles, stall_cycles=stalls, predicted_cycles=100)
    assert row.failed == row.to_json()["failed"] == fails


def test_zynqnet_equals_its_published_activations(data_folder: Path) -> None:
    from emberline.cli.zoo_verify import golden_row

    row = golden_row(ZOO["zynqnet"], data_folder / "zynqnet")
    assert (row.outputs, row.differing_outputs, row.note) == (4_073_472, 0, "class 468")


def test_published_maps_that_a_schedule_stores_are_the_models(data_folder: Path) -> None:
    from emberline.cli.zoo_verify import same_maps
    from emberline.model import network
    from emberline.zoo import golden

    folder, graph = data_folder / "zynqnet", load_network("zynqnet").need_graph("testing")
    published, names = golden.golden_maps(folder), same_maps(graph, folder)
    assert [name for name in names if name.endswith("/concat")] == [n for n in published if n.endswith("/concat")]
    maps = network.run(graph, golden.golden_frame(published), keep=True)
    for name in names:
        np.testing.assert_array_equal(golden.in_published_order(maps[name]), published[name], err_msg=name)


@pytest.mark.parametrize(("name", "best"), [("mobilenet_v1_025", 1001), ("resnet8", 10)])
def test_labels_count_from_the_first_class_behind_the_background(name: str, best: int, data_folder: Path) -> None:
    network = load_network(name)
    assert network.label_offset == (1 if best == 1001 else 0)
    assert network.scores.size == best


@pytest.mark.parametrize("name", ["mobilenet_v1_025"])
def test_accuracy_is_that_of_the_labels(capfd: Capture, name: str, data_folder: Path) -> None:
    images = ("--images", data_folder / "imagenet_samples", "--limit", 20)
    report = invoke(capfd, "verify", name, *images, "--on", "model", "--against", "model", "--json").json()
    assert 0.2 < report["accuracy"] < report["top5"]


def test_zoo_verify_names_a_damaged_file(capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    path = tmp_path / ZOO["kws"].file
    path.parent.mkdir()
    path.write_bytes(b"something else")
    finished = invoke(capfd, "zoo", "verify", "kws")
    assert finished.status == 1
    assert "kws_int8.tflite has sha256" in finished.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify",), "name networks, or give --all"),
        (("verify", "nothing"), "no network of the zoo is called 'nothing'"),
        (("verify", "kws", "--on", "moon"), "--on takes model, emulator and rtl"),
        (("fetch", "nothing"), "no network of the zoo is called 'nothing'"),
    ],
)
def test_zoo_refuses_unknown_names(capfd: Capture, arguments: tuple[str, ...], message: str) -> None:
    finished = invoke(capfd, "zoo", *arguments)
    assert finished.status == 1
    assert message in finished.err


def test_zoo_cannot_fetch_what_is_not_published(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    finished = invoke(capfd, "zoo", "fetch", "squeezenet_v1.1")
    assert finished.status == 1
    assert "cannot be downloaded: it was made from" in finished.err


def test_download_is_checked_before_it_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_bytes(b"weights")
    with pytest.raises(EmberlineError, match="has sha256"):
        download(source.as_uri(), "0" * 64, target)
    assert not target.exists()
    assert download(source.as_uri(), hashlib.sha256(b"weights").hexdigest(), target).read_bytes() == b"weights"
    with pytest.raises(EmberlineError, match="cannot be downloaded"):
        download((tmp_path / "missing").as_uri(), "0" * 64, target)


# --- quantize


def float_model(path: Path) -> Path:
    """Convolution, batch normalisation, Relu, two branches that are concatenated, pool, mean."""
    onnx = pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
    pytest.importorskip("onnxruntime", reason="needs the optional packages onnx and onnxruntime")
    from onnx_models import OnnxNetwork

    rng = np.random.default_rng(0)
    network = OnnxNetwork(opset=11)

    def constant(*shape: int, low: float = -1.0) -> str:
        return network.constant(rng.uniform(low, 1, shape).astype(np.float32))

    x = network.input("image", ("N", 3, 16, 16))
    x = network.node("Conv", x, constant(8, 3, 3, 3), constant(8), strides=[2, 2], pads=[1] * 4)
    x = network.node("BatchNormalization", x, constant(8, low=0.5), constant(8), constant(8), constant(8, low=0.5))
    x = network.node("Relu", x)
    halves = [network.node("Relu", network.node("Conv", x, constant(4, 8, 1, 1), constant(4))) for _ in range(2)]
    x = network.node("MaxPool", network.node("Concat", *halves, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    x = network.node("Flatten", network.node("GlobalAveragePool", network.node("Conv", x, constant(5, 8, 1, 1))))
    path.write_bytes(network.model([x]))
    assert onnx.load(path).graph.node
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


PREPROCESS = "resize=18,order=BGR,mean=104/117/123,scale=0.02"


@pytest.mark.parametrize("options", [(), ("--symmetric",), ("--method", "percentile", "--per-tensor")])
def test_quantized_model_equals_onnxruntime(
    capfd: Capture, tmp_path: Path, photographs: Path, options: tuple[str, ...]
) -> None:
    output = tmp_path / "int8.onnx"
    arguments = ("--calibration", photographs, "--preprocess", PREPROCESS, "-o", output, "--json", *options)
    finished = invoke(capfd, "quantize", float_model(tmp_path / "float.onnx"), *arguments)
    assert finished.status == 0, finished.err
    assert finished.json()["preprocessing"]["resize"] == 18
    verify = ("verify", output, "--images", photographs, "--on", "model", "--against", "onnxruntime", "--json")
    report = invoke(capfd, *verify).json()
    assert (report["images"], report["outputs"], report["differing_outputs"]) == (4, 20, 0)
    layers = invoke(capfd, "inspect", output, "--json").json()["layers"]
    assert [row["kind"] for row in layers if row["kind"] != "Convolution"] == ["Concatenation", "MaxPool"]
    assert len(layers) == 7


def test_quantize_without_images_says_so(capfd: Capture, tmp_path: Path) -> None:
    model = float_model(tmp_path / "float.onnx")
    for folder, message in ((tmp_path / "nothing", "no such folder"), (tmp_path, "no images")):
        arguments = ("--calibration", folder, "--preprocess", PREPROCESS, "-o", tmp_path / "int8.onnx")
        finished = invoke(capfd, "quantize", model, *arguments)
        assert finished.status == 1
        assert message in finished.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--preprocess is needed"),
        (("--preprocess", "order=CMYK"), "order must be one of"),
        (("--preprocess", "order=L"), "order L is for 1 channels, but the network takes 3"),
        (("--preprocess", PREPROCESS, "--method", "guess"), "--method takes"),
        (("--preprocess", PREPROCESS, "--percentile", "0"), "--percentile takes"),
        (("--preprocess", PREPROCESS, "--outputs", "nowhere"), "no layer computes 'nowhere'"),
    ],
)
def test_quantize_refuses_impossible_options(
    capfd: Capture, tmp_path: Path, photographs: Path, options: tuple[str, ...], message: str
) -> None:
    model = float_model(tmp_path / "float.onnx")
    finished = invoke(capfd, "quantize", model, "--calibration", photographs, "-o", tmp_path / "int8.onnx", *options)
    assert finished.status == 1
    assert message in finished.err


def test_quantize_refuses_what_is_quantised(capfd: Capture, tmp_path: Path, photographs: Path) -> None:
    pytest.importorskip("onnx", reason="needs the optional packages onnx and onnxruntime")
    arguments = ("--calibration", photographs, "-o", tmp_path / "int8.onnx")
    finished = invoke(capfd, "quantize", "ember_cifar10", *arguments)
    assert finished.status == 1
    assert "is quantised already" in finished.err
