"""Accuracy of an int8 ``.tflite`` in LiteRT with its reference kernels: ``python -m emberline.training.evaluate FILE``.

The reference kernels (``BUILTIN_REF``) are the arithmetic that the accelerator reproduces; LiteRT's default ones differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emberline.training.dataset import ImageSet, load_lossless, load_test


def encode_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The network's input codes: pixel - 128, same shape."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)


def run_litert(model: bytes, frames: NDArray[np.int8], batch_size: int = 100) -> NDArray[np.int8]:
    """The only output of a network with one input, for int8 frames ``[N, H, W, C]``, with the reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
    source = interpreter.get_input_details()[0]["index"]
    outputs = []
    for start in range(0, len(frames), batch_size):
        batch = frames[start : start + batch_size]
        interpreter.resize_tensor_input(source, batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, batch)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy())
    return np.concatenate(outputs)


def measure_int8_accuracy(model: bytes, images: ImageSet) -> float:
    """Fraction of images whose largest score is the label's; of equal scores the first counts."""
    scores = run_litert(model, encode_pixels(images.pixels))
    return float((scores.reshape(len(images), -1).argmax(axis=1) == images.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model.read_bytes()
    for name, images in (("500 lossless test images", load_lossless()), ("10,000 JPEG test images", load_test())):
        print(f"{name}: {100 * measure_int8_accuracy(model, images):.2f} %")


if __name__ == "__main__":
    main()
