"""Float networks as the commands take them: found, converted to ONNX, quantised in passing, and run as they are."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from emberline.cli import console
from emberline.cli.networks import Network, load_network
from emberline.driver.images import list_folder, load_pixels
from emberline.driver.preprocessing import Preprocessing
from emberline.errors import EmberlineError, ImageError, ModelError
from emberline.model.graph import Graph
from emberline.zoo import Reader, ZooEntry, data_root, find_by_contents, find_by_name

SLOPE_IMAGES = 50
"""After how many images weights are chosen by rate against distortion: it runs the network once for each layer."""


def find_entry(model: str) -> ZooEntry | None:
    """The zoo's entry of a name, or of a file with the same contents."""
    path = Path(model)
    return find_by_contents(path.read_bytes()) if path.is_file() else find_by_name(model)


def find_float_model(model: str, entry: ZooEntry | None, folder: Path) -> Path:
    """The float ONNX file behind the argument; one of another format is converted in ``folder``."""
    if entry is None:
        if not Path(model).is_file():
            raise ModelError(f"'{model}' is neither a file nor a network of the zoo")
        return Path(model)
    if entry.reader is Reader.ONNX_FLOAT:
        return entry.path()
    if entry.reader is Reader.DEEP_COMPRESSION:
        from emberline.compiler.frontends.deep_compression import read_weights, to_onnx

        path = folder / f"{entry.name}.onnx"
        path.write_bytes(to_onnx(read_weights(entry.path())))
        return path
    raise ModelError(f"network '{entry.name}' is quantised already")


def find_preprocessing(entry: ZooEntry | None, preprocess: str | None) -> Preprocessing:
    """What pixels mean: as given, or as the zoo says. ``EmberlineError`` where neither says."""
    if preprocess is not None:
        return Preprocessing.from_text(preprocess)
    if entry is None:
        raise EmberlineError("--preprocess is needed: the file does not say what pixels mean to the network")
    return Preprocessing.from_json(entry.preprocessing)


def quantised_network(entry: ZooEntry, images: Path, folder: Path, slope: float | None = None) -> Network:
    """A float network of the zoo, quantised with the default options of ``emberline quantize`` into ``folder``.

    With a ``slope`` by mean square errors, after 50 images.
    """
    from emberline.compiler.frontends.onnx_reader import read_onnx
    from emberline.quantiser.calibration import Method
    from emberline.quantiser.static import Options, quantise

    path = folder / f"{entry.name}_int8.onnx"
    source = find_float_model(entry.name, entry, folder)
    preprocessing = Preprocessing.from_json(entry.preprocessing)
    if slope is None:
        quantise(source, path, images, preprocessing, Options(outputs=entry.outputs))
    else:
        options = Options(Method.MSE, outputs=entry.outputs, slope=slope)
        quantise(source, path, images, preprocessing, options, limit=SLOPE_IMAGES)
    graph = read_onnx(path.read_bytes(), entry.name)
    return Network(entry.name, path, graph, None, entry.class_names(), entry.preprocessing, entry.label_offset)


def load_quantised(model: str, slope: float | None = None) -> Network:
    """The network that ``model`` names; a float one of the zoo quantised with the images that are here, and with the
    entry's slope where none is given.

    Raises ``EmberlineError`` as `load_network` does, and for a ``slope`` of a network that is not float.
    """
    entry = find_entry(model)
    if entry is None or not entry.reader.is_float:
        return load_network(model)
    root = data_root()
    images = root / entry.images if root and entry.images else None
    if images is None or not images.exists():
        raise ModelError(
            f"network '{entry.name}' is float, and there are no images to quantise it with: quantise it "
            f"first (emberline quantize {entry.name} ...)"
        )
    console.note(f"quantising {entry.name}")
    with TemporaryDirectory() as folder:
        return quantised_network(entry, images, Path(folder), entry.slope if slope is None else slope)


def is_float(model: str) -> bool:
    """Whether a zoo name or a model file is a float network. Whatever cannot be read is not."""
    from emberline.cli.networks import is_onnx
    from emberline.quantiser.preparation import is_quantised

    entry = find_entry(model)
    if entry is not None:
        return entry.reader.is_float
    path = Path(model)
    return path.is_file() and is_onnx(path) and not is_quantised(path)


def quantised_for_its_shapes(source: Path, name: str, outputs: tuple[str, ...]) -> Graph:
    """The graph of a float network quantised after one frame of noise: right in everything but its numbers."""
    from emberline.compiler.frontends.onnx_reader import read_onnx
    from emberline.quantiser.calibration import Method
    from emberline.quantiser.preparation import fixed_input, load_float_model
    from emberline.quantiser.static import Options, quantise

    _, (height, width, channels) = fixed_input(load_float_model(source, outputs))
    noise = np.random.default_rng(0).normal(0, 1, (1, channels, height, width)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantise(source, path, [noise], Preprocessing(), Options(Method.MINMAX, outputs=outputs))
        return read_onnx(path.read_bytes(), name)


def float_accuracy(model: str, images: Path, preprocess: str | None, limit: int | None = None) -> tuple[float, float]:
    """The shares of a folder's images whose label is the float network's best class, and among its best five.

    Raises ``EmberlineError``: no such model, no labels, or onnxruntime is missing.
    """
    from emberline.cli.comparison import accuracy

    entry = find_entry(model)
    preprocessing = find_preprocessing(entry, preprocess)
    if not images.is_dir():
        raise ImageError(f"{images}: no such folder of images")
    files, labels = list_folder(images)
    if labels is None:
        raise ImageError(f"{images}: no labels.csv, so there is no accuracy")
    with TemporaryDirectory() as folder:
        scores = float_scores(find_float_model(model, entry, Path(folder)), files[:limit], preprocessing)
    expected = [label + (entry.label_offset if entry else 0) for label in labels[:limit]]
    return accuracy(scores, expected), accuracy(scores, expected, 5)


def float_scores(path: Path, files: list[Path], preprocessing: Preprocessing) -> list[NDArray[np.float32]]:
    """The first output of a float ONNX file for each image, in onnxruntime on one thread."""
    from emberline.quantiser.preparation import fixed_input, import_onnxruntime, load_float_model

    onnxruntime = import_onnxruntime()
    model = load_float_model(path)
    name, shape = fixed_input(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    scores = []
    for file in files:
        real = preprocessing.to_real(load_pixels(file, shape, preprocessing)).transpose(2, 0, 1)[None]
        scores.append(session.run(None, {name: np.ascontiguousarray(real)})[0].reshape(-1))
    return scores
