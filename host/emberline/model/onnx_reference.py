"""onnxruntime as the outside oracle of networks that came as ONNX files.

Needs the optional package ``onnxruntime``. Left to itself, it computes convolutions of int8 activations in float on
x86; here it is told to use its integer kernels, which differ from the model only where ``onnx_requantisation`` says so.
Results are compared as codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.errors import EmberlineError, ModelError
from emberline.model.graph import FeatureMap, Graph

try:
    import onnxruntime as _onnxruntime
except ImportError:  # an optional dependency
    _onnxruntime = None

Frames = NDArray[np.int8]


def available() -> bool:
    """Whether ``onnxruntime`` is installed."""
    return _onnxruntime is not None


class OnnxRuntimeReference:
    """An ONNX model in onnxruntime, one frame at a time, fed with the codes of a graph's input.

    Parameters: the model's path or bytes; ``graph``, which ``read_onnx`` made of it, gives names and quantisations.

    Raises ``EmberlineError`` where onnxruntime is not installed, ``ModelError`` where it cannot load the model.
    """

    def __init__(self, source: str | Path | bytes, graph: Graph) -> None:
        if _onnxruntime is None:
            raise EmberlineError("onnxruntime is not installed: pip install 'emberline[onnx]'")
        _onnxruntime.set_default_logger_severity(3)
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            self._session = _open(content)
        except Exception as error:  # onnxruntime's errors have no common type
            raise ModelError(f"onnxruntime cannot load the model: {error}") from error
        self._graph = graph

    def run_all(self, frames: Frames) -> list[Frames]:
        """Every output as codes ``[N, H, W, C]`` of the graph's own output maps, in order."""
        (name,) = self._graph.inputs
        source = self._graph.feature_maps[name]
        maps = [self._graph.feature_maps[output] for output in self._graph.outputs]
        given = self._session.get_inputs()[0]
        results: list[list[Frames]] = [[] for _ in maps]
        for frame in frames:
            planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[None])
            value = _as_given(planes, source, given.type).reshape([1, *given.shape[1:]])
            for kept, target, output in zip(results, maps, self._session.run(None, {given.name: value}), strict=True):
                kept.append(_as_codes(output, target))
        return [
            np.stack(kept) if kept else np.zeros((0, *target.shape), np.int8)
            for kept, target in zip(results, maps, strict=True)
        ]


def _open(content: bytes) -> Any:
    """A session on integer kernels.

    Of uint8 activations, the fast kernels for processors without VNNI saturate sums of two products at 16 bits; exact
    ones are chosen, which do not exist for int8 activations.
    """
    for entries in (("session.qdqisint8allowed", "session.x64quantprecision"), ("session.qdqisint8allowed",)):
        options = _onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for entry in entries:
            options.add_session_config_entry(entry, "1")
        try:
            return _onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except _onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
            continue
    return _onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _as_given(codes: Frames, source: FeatureMap, kind: str) -> NDArray[Any]:
    if kind == "tensor(int8)":
        return codes
    if kind == "tensor(uint8)":
        return (codes.astype(np.int16) + 128).astype(np.uint8)
    centred = codes.astype(np.float32) - np.float32(source.quantisation.zero_point)
    return centred * np.float32(source.quantisation.scale)


def _as_codes(values: NDArray[Any], target: FeatureMap) -> Frames:
    """``[H, W, C]`` codes of an output, which is in the order of channels, rows, columns, or of pixels."""
    if values.dtype == np.uint8:
        values = (values.astype(np.int16) - 128).astype(np.int8)
    elif values.dtype != np.int8:
        steps = np.rint(values.astype(np.float32) / np.float32(target.quantisation.scale))
        values = np.clip(steps + target.quantisation.zero_point, -128, 127).astype(np.int8)
    height, width, channels = target.shape
    if values.ndim == 4 and values.shape[1:] == (channels, height, width):
        return values[0].transpose(1, 2, 0)
    return values.reshape(target.shape)
