"""LiteRT's own reference kernels (BUILTIN_REF) as the outside oracle of the numpy model.

Needs the optional package ``ai-edge-litert``. The default kernels (XNNPACK) round differently: never compare with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emberline.errors import EmberlineError, ModelError
from emberline.model.graph import unique_names

try:
    from ai_edge_litert import interpreter as _litert
except ImportError:  # an optional dependency
    _litert = None

Frames = NDArray[np.int8]


def available() -> bool:
    """Whether ``ai-edge-litert`` is installed."""
    return _litert is not None


class LiteRTReference:
    """A TFLite model in LiteRT, run by its reference kernels, one frame at a time; uint8 codes as int8, 128 less.

    Parameters: the model's path or bytes; ``keep_tensors`` keeps every intermediate tensor readable.

    Raises ``EmberlineError`` where ai-edge-litert is not installed, ``ModelError`` where it cannot load the model.
    """

    def __init__(self, source: str | Path | bytes, *, keep_tensors: bool = False) -> None:
        if _litert is None:
            raise EmberlineError("LiteRT is not installed: pip install ai-edge-litert")
        try:
            self._interpreter = _litert.Interpreter(
                model_content=source if isinstance(source, bytes) else Path(source).read_bytes(),
                experimental_op_resolver_type=_litert.OpResolverType.BUILTIN_REF,
                experimental_preserve_all_tensors=keep_tensors,
                num_threads=1,
            )
            self._interpreter.allocate_tensors()
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT cannot load the model: {error}") from error
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()

    def run(self, frames: Frames) -> Frames:
        """The first output of N frames, int8 ``[N, ...]`` in the model's own output shape without the batch.

        ``frames`` are int8 ``[N, ...]`` with as many values a frame as the model's only input.
        """
        return self.run_all(frames)[0]

    def run_all(self, frames: Frames) -> list[Frames]:
        """Every output, in the model's order, each as ``run`` returns it."""
        results: list[list[Frames]] = [[] for _ in self._outputs]
        for frame in frames:
            self._invoke(frame)
            for kept, details in zip(results, self._outputs, strict=True):
                kept.append(_signed(self._interpreter.get_tensor(details["index"])[0]))
        return [
            np.stack(kept) if kept else np.zeros((0, *details["shape"][1:]), np.int8)
            for kept, details in zip(results, self._outputs, strict=True)
        ]

    def tensors(self, frame: Frames) -> dict[str, Frames]:
        """Every int8 activation and constant after one frame, by tensor name, without the batch where it is 1.

        The names are those of the feature maps that ``read_tflite`` makes of the same file. Needs ``keep_tensors``.
        """
        self._invoke(frame)
        details: list[dict[str, Any]] = sorted(self._interpreter.get_tensor_details(), key=lambda each: each["index"])
        found = {}
        for name, each in zip(unique_names(each["name"] for each in details), details, strict=True):
            if each["dtype"] in (np.int8, np.uint8):
                value = _signed(self._interpreter.get_tensor(each["index"]))
                found[name] = value[0] if value.ndim > 1 and value.shape[0] == 1 else value
        return found

    def _invoke(self, frame: Frames) -> None:
        details = self._inputs[0]
        codes = frame.reshape(details["shape"]).astype(np.int8, copy=False)
        if details["dtype"] is np.uint8:
            codes = (codes.astype(np.int16) + 128).astype(np.uint8)
        self._interpreter.set_tensor(details["index"], codes)
        self._interpreter.invoke()


def _signed(values: NDArray[Any]) -> NDArray[Any]:
    """uint8 codes as int8 ones, which are 128 less; others as they are."""
    return (values.astype(np.int16) - 128).astype(np.int8) if values.dtype == np.uint8 else values
