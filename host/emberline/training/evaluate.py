"""Accuracy of an int8 ``.tflite`` in LiteRT with its reference kernels: ``python -m emberline.training.evaluate FILE``.

The reference kernels (``BUILTIN_REF``) are the arithmetic that the accelerator reproduces; LiteRT's default ones
differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emberline.model.litert import LiteRTReference
from emberline.training.dataset import ImageSet, load_lossless, load_test


def encode_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The network's input codes: pixel - 128, same shape."""
    return (pixels.astype(np.int16) - 128).astype(np.int8)


def measure_int8_accuracy(model: bytes, images: ImageSet) -> float:
    """Fraction of images whose largest score is the label's; of equal scores the first counts."""
    scores = LiteRTReference(model).run(encode_pixels(images.pixels))
    return float((scores.reshape(len(images), -1).argmax(axis=1) == images.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model.read_bytes()
    for name, images in (("500 lossless test images", load_lossless()), ("10,000 JPEG test images", load_test())):
        print(f"{name}: {100 * measure_int8_accuracy(model, images):.2f} %")


if __name__ == "__main__":
    main()
