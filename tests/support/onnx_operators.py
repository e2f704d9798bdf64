"""One ONNX operator between quantised maps, as a file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx_models import OnnxNetwork

from emberline.model.graph import Quantisation

INPUT = Quantisation(0.0625, -3)
RESULT = Quantisation(0.125, 5)


def one_operator(
    operator: Callable[[OnnxNetwork, str], str], shape: tuple[int, int, int] = (4, 6, 5), **options: object
) -> bytes:
    """Input ``[1, C, H, W]`` → QDQ → operator → QDQ."""
    network = OnnxNetwork(**options)  # type: ignore[arg-type]
    x = network.requantised(network.input("x", (1, *shape)), INPUT)
    return network.model([network.requantised(operator(network, x), RESULT)])


def convolution(network: OnnxNetwork, x: str, channels: int = 4, kernel: int = 1, **attributes: object) -> str:
    rng = np.random.default_rng(5)
    depth = 4 // int(attributes.get("group", 1))  # type: ignore[call-overload]
    codes = rng.integers(-127, 128, (channels, depth, kernel, kernel), dtype=np.int8)
    weights = network.weights(codes, rng.uniform(0.002, 0.01, channels))
    bias = network.constant(rng.normal(size=channels).astype(np.float32))
    return network.node("Conv", x, weights, bias, **attributes)
