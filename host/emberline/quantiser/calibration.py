"""Ranges of a float network's activations over calibration images.

Two passes over the images: extremes, then a histogram between them. From each histogram a method chooses the range
that is quantised: all of it, all but a share of the values on either side, or what has the least mean squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.compiler.frontends.onnx_records import import_onnx
from emberline.quantiser.preparation import import_onnxruntime

Range = tuple[float, float]
Progress = Callable[[Iterable[NDArray[np.float32]], str], Iterable[NDArray[np.float32]]]
_BINS = 4096
_SHRINKS = np.linspace(0.2, 1.0, 81)


class Method(StrEnum):
    """How a range is chosen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


class Calibrator:
    """Runs images through a float model and keeps a histogram of each tensor.

    Parameters: ``tensors`` are the float tensors to watch; inputs may be among them.
    """

    def __init__(self, model: Any, tensors: Sequence[str]) -> None:
        onnx, onnxruntime = import_onnx(), import_onnxruntime()
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        self._input = watched.graph.input[0].name
        self._outputs = [name for name in tensors if name != self._input]
        present = {each.name for each in watched.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._outputs if name not in present)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.limits: dict[str, Range] = {}
        self.histograms: dict[str, NDArray[np.int64]] = {}

    def run(self, frames: Sequence[NDArray[np.float32]], progress: Progress) -> None:
        """Both passes over frames ``[1, C, H, W]``."""
        for frame in progress(frames, "ranges"):
            for name, values in self._tensors(frame).items():
                low, high = self.limits.get(name, (0.0, 0.0))
                self.limits[name] = (min(low, float(values.min())), max(high, float(values.max())))
        for frame in progress(frames, "histograms"):
            for name, values in self._tensors(frame).items():
                counts = _count(values, self.limits[name])
                self.histograms[name] = self.histograms[name] + counts if name in self.histograms else counts

    def _tensors(self, frame: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        values = self._session.run(self._outputs, {self._input: frame})
        return {self._input: frame, **dict(zip(self._outputs, values, strict=True))}


def choose_range(
    histogram: NDArray[np.int64], limits: Range, method: Method, percentile: float, *, symmetric: bool
) -> Range:
    """The range to quantise; it always contains 0.

    Parameters: ``percentile`` is the share of values, in percent, that must lie within each bound.
    """
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if low == high:
        return low, high
    if method is Method.PERCENTILE:
        edges = np.linspace(limits[0], limits[1], _BINS + 1)
        share = np.concatenate([[0.0], np.cumsum(histogram)]) / max(int(histogram.sum()), 1)
        low = min(0.0, float(np.interp(1 - percentile / 100, share, edges))) if low < 0 else low
        high = max(0.0, float(np.interp(percentile / 100, share, edges))) if high > 0 else high
    elif method is Method.MSE:
        return _least_error(histogram, limits, (low, high), symmetric)
    return low, high


def _least_error(histogram: NDArray[np.int64], limits: Range, widest: Range, symmetric: bool) -> Range:
    """Of ranges shrunk by one factor, the one with the least squared error over the histogram."""
    edges = np.linspace(limits[0], limits[1], _BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    best, least = widest, np.inf
    for shrink in _SHRINKS:
        low, high = widest[0] * shrink, widest[1] * shrink
        step = 2 * max(-low, high) / 254 if symmetric else (high - low) / 255
        zero = 0.0 if symmetric else np.rint(-128 - low / step)
        codes = np.clip(np.rint(centres / step) + zero, -128, 127)
        error = float(histogram @ ((codes - zero) * step - centres) ** 2)
        if error < least:
            best, least = (low, high), error
    return best


def merge(
    groups: Iterable[Sequence[str]], limits: Mapping[str, Range], histograms: Mapping[str, NDArray[np.int64]]
) -> tuple[dict[str, Range], dict[str, NDArray[np.int64]]]:
    """Limits and histograms with every group of tensors treated as one tensor."""
    new_limits, new_histograms = dict(limits), dict(histograms)
    for group in groups:
        names = [name for name in group if name in limits]
        if not names:
            continue
        whole = (min(limits[name][0] for name in names), max(limits[name][1] for name in names))
        total = np.zeros(_BINS, np.int64)
        for name in names:
            total += _rebin(histograms[name], limits[name], whole)
        for name in group:
            new_limits[name], new_histograms[name] = whole, total
    return new_limits, new_histograms


def _count(values: NDArray[np.float32], limits: Range) -> NDArray[np.int64]:
    low, high = limits
    if low == high:
        counts = np.zeros(_BINS, np.int64)
        counts[0] = values.size
        return counts
    bins = ((values.reshape(-1) - np.float32(low)) * np.float32(_BINS / (high - low))).astype(np.int32)
    return np.bincount(np.clip(bins, 0, _BINS - 1), minlength=_BINS)


def _rebin(histogram: NDArray[np.int64], limits: Range, whole: Range) -> NDArray[np.int64]:
    """A histogram's counts in the bins of a wider range."""
    if limits == whole:
        return histogram
    width = (limits[1] - limits[0]) / _BINS
    centres = limits[0] + width * (np.arange(_BINS) + 0.5)
    bins = ((centres - whole[0]) * (_BINS / (whole[1] - whole[0]))).astype(np.int64)
    total = np.zeros(_BINS, np.int64)
    np.add.at(total, np.clip(bins, 0, _BINS - 1), histogram)
    return total
