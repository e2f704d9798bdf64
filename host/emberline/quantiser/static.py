"""A float ONNX network quantised by onnxruntime's own static quantiser, with ranges that suit the accelerator.

Maps that meet in a concatenation, and those on both sides of a pool or a reshape, get one range, so that no values have
to be requantised where nothing is computed. The range of an activation function's result is also that of its input.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.onnx_records import PREPROCESSING_KEY
from emberline.driver.images import IMAGE_SUFFIXES, list_folder, load_pixels
from emberline.driver.preprocessing import Preprocessing
from emberline.errors import ImageError, ModelError
from emberline.quantiser.calibration import Calibrator, Method, Progress, Range, choose_range, merge
from emberline.quantiser.preparation import fixed_input, import_onnxruntime, load_float_model
from emberline.quantiser.rate import choose, measure, with_weights

_SAME_CODES = (
    *("Concat", "MaxPool", "AveragePool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split", "Slice"),
    *("Pad", "Resize", "Upsample", "Identity", "Dropout"),
)
_ACTIVATIONS = ("Relu", "Clip")
_LEFT_FLOAT = ("Softmax", "LogSoftmax")
_RATE_SHARE = 8
"""One of so many calibration frames is used to weigh weights; every layer runs all of those."""


@dataclass(frozen=True)
class Options:
    """How a network is quantised.

    Parameters:
        method, percentile: how ranges are chosen (``calibration``).
        symmetric: activations with zero point 0; otherwise with any.
        per_channel: weights with a scale for each output channel.
        outputs: where the network ends, if not at its own outputs.
        slope: weights in the steps that `rate.choose` finds, one a layer; None for as fine ones as int8 allows.
    """

    method: Method = Method.PERCENTILE
    percentile: float = 99.99
    symmetric: bool = False
    per_channel: bool = True
    outputs: tuple[str, ...] = ()
    slope: float | None = None


def quantise(
    path: Path,
    output: Path,
    frames: Sequence[NDArray[np.float32]] | Path,
    preprocessing: Preprocessing,
    options: Options,
    progress: Progress = lambda items, what: items,
    limit: int | None = None,
) -> dict[str, Range]:
    """Write a quantised model; return the range of every tensor.

    Parameters:
        frames: real ``[1, C, H, W]`` inputs, or a folder of images.
        limit: only the first so many.

    Raises ``ModelError`` for a model that cannot be quantised, ``ImageError`` for a folder without images.
    """
    model = load_float_model(path, options.outputs)
    _, shape = fixed_input(model)
    if isinstance(frames, Path):
        frames = load_calibration(frames, shape, preprocessing, limit)
    steps: dict[str, float] = {}
    if options.slope is not None:
        layers = measure(model, frames[: max(1, len(frames) // _RATE_SHARE)], progress)
        choices = choose(layers, options.slope)
        model = with_weights(model, {name: each.values for name, each in choices.items()}, layers)
        steps = {name: each.step for name, each in choices.items()}
    ranges = find_ranges(model, frames, options, progress)
    quantised = apply_ranges(model, ranges, options, steps)
    quantised.metadata_props.add(key=PREPROCESSING_KEY, value=json.dumps(preprocessing.to_json()))
    output.write_bytes(quantised.SerializeToString())
    return ranges


def load_calibration(
    folder: Path, shape: tuple[int, int, int], preprocessing: Preprocessing, limit: int | None = None
) -> list[NDArray[np.float32]]:
    """The images of a folder as real inputs ``[1, C, H, W]``. Raises ``ImageError``, naming what is missing."""
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder with calibration images")
    if shape[2] != preprocessing.channels:
        raise ImageError(
            f"order {preprocessing.order} is for {preprocessing.channels} channels, but the network takes {shape[2]}"
        )
    files, _ = list_folder(folder, IMAGE_SUFFIXES)
    pixels = (load_pixels(file, shape, preprocessing) for file in files[:limit])
    return [np.ascontiguousarray(preprocessing.to_real(each).transpose(2, 0, 1)[None]) for each in pixels]


def find_ranges(
    model: Any, frames: Sequence[NDArray[np.float32]], options: Options, progress: Progress
) -> dict[str, Range]:
    """The range of every float activation, from calibration frames."""
    calibrator = Calibrator(model, _activations(model))
    calibrator.run(frames, progress)
    limits, histograms = merge(_groups(model), calibrator.limits, calibrator.histograms)
    ranges = {
        name: choose_range(
            histograms[name], limits[name], options.method, options.percentile, symmetric=options.symmetric
        )
        for name in limits
    }
    for node in reversed(model.graph.node):
        if node.op_type in _ACTIVATIONS:
            ranges[node.input[0]] = ranges[node.output[0]]
    return ranges


def _activations(model: Any) -> list[str]:
    constants = {each.name for each in model.graph.initializer}
    names = [each.name for each in model.graph.input if each.name not in constants]
    for node in model.graph.node:
        if node.op_type in _LEFT_FLOAT or node.op_type == "Constant":
            continue
        names.extend(name for name in node.output if name)
    return names


def _groups(model: Any) -> list[list[str]]:
    """Tensors that must share a quantisation, by the operators between them."""
    constants = {each.name for each in model.graph.initializer}
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for node in model.graph.node:
        if node.op_type in _SAME_CODES:
            count = len(node.input) if node.op_type == "Concat" else 1
            names = [name for name in (*node.input[:count], *node.output) if name and name not in constants]
            for name in names[1:]:
                leader[find(name)] = find(names[0])
    groups: dict[str, list[str]] = {}
    for name in leader:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def apply_ranges(model: Any, ranges: dict[str, Range], options: Options, steps: Mapping[str, float]) -> Any:
    """The model quantised by onnxruntime with these ranges, and weights in these steps where there are some."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    left = [node.name for node in model.graph.node if node.op_type in _LEFT_FLOAT]
    overrides = {
        name: [{"quant_type": QuantType.QInt8, "scale": np.float32(step), "zero_point": np.int8(0)}]
        for name, step in steps.items()
    }
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    try:
        quantizer = QDQQuantizer(
            model,
            options.per_channel and not steps,
            False,
            QuantType.QInt8,
            QuantType.QInt8,
            TensorsData(CalibrationMethod.MinMax, data),
            [],
            left,
            sorted({*QDQRegistry, *QLinearOpsRegistry}),
            {"ActivationSymmetric": options.symmetric, "WeightSymmetric": True, "ForceQuantizeNoInputCheck": True}
            | ({"TensorQuantOverrides": overrides} if overrides else {}),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(f"onnxruntime cannot quantise it: {error}") from error
    return quantizer.model.model
