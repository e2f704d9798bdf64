"""What a network's weights take where they are stored: its weight image, compressed layer by layer.

A layer's weights, and the requantisation parameters behind them, are blocks of their own, in the order of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emberline.arch.architecture import Architecture
from emberline.arch.weight_code import CHUNK_BYTES
from emberline.compiler.checks import check_graph
from emberline.compiler.legalise import legalise
from emberline.compiler.lower import lower
from emberline.compiler.network_plan import plan_places
from emberline.compiler.weight_encoder import Block, WeightEncoder
from emberline.compiler.weights import WeightImage
from emberline.model.graph import Graph
from emberline.model.weight_decoder import WeightDecoder

_MOST_WORDS = 1 << 16


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer's part of the weight image.

    Parameters:
        name: of the layer.
        weights: of the network, without what fills up the lanes' words.
        nonzero: how many of them are not zero.
        image: the bytes of its weights and those of its parameters.
        weight_blocks, parameter_blocks: the same, compressed.
    """

    name: str
    weights: int
    nonzero: int
    image: tuple[bytes, bytes]
    weight_blocks: tuple[Block, ...]
    parameter_blocks: tuple[Block, ...]

    @property
    def stored_bytes(self) -> int:
        return self.weight_bytes + self.parameter_bytes

    @property
    def weight_bytes(self) -> int:
        return sum(block.size for block in self.weight_blocks)

    @property
    def parameter_bytes(self) -> int:
        return sum(block.size for block in self.parameter_blocks)

    @property
    def decoder_cycles(self) -> int:
        """Cycles in which the decoder gives the weights' tokens, one in each, or two of a wide block."""
        return sum(block.pairs if block.wide else 2 * block.pairs for block in self.weight_blocks)


def store_weights(graph: Graph, architecture: Architecture) -> list[StoredLayer]:
    """Every layer with weights; whether they fit the machine does not matter.

    Raises ``CompileError``, naming the layer, for what the machine cannot do.
    """
    sizes = {layer.name: getattr(layer, "weights", None) for layer in graph.layers}
    architecture = replace(architecture, weight_depth_words=_MOST_WORDS)
    graph = legalise(graph)
    check_graph(graph, architecture)
    steps, places = plan_places(graph, architecture)
    rows = lower(graph, steps, places, architecture)
    image = WeightImage(architecture)
    parts: dict[str, tuple[bytearray, bytearray]] = {}
    for operation in (operation for step in rows for operation in step.operations):
        part = parts.setdefault(operation.layer, (bytearray(), bytearray()))
        before = len(image.data)
        image.add_weights(operation.weights)
        between = len(image.data)
        image.add_parameters(operation.parameters)
        part[0].extend(image.data[before:between])
        part[1].extend(image.data[between:])
    encoder = WeightEncoder(wide=architecture.decodes_wide)
    stored = []
    for name, (weights, parameters) in parts.items():
        blocks = [
            tuple(encoder.encode(bytes(part), distance=distance)) if part else ()
            for part, distance in ((weights, 0), (parameters, architecture.lanes_in // CHUNK_BYTES))
        ]
        values = sizes.get(name.split(" + ")[0])
        count, nonzero = (0, 0) if values is None else (values.size, int(np.count_nonzero(values)))
        stored.append(StoredLayer(name, count, nonzero, (bytes(weights), bytes(parameters)), blocks[0], blocks[1]))
    return stored


def to_bytes(layers: Sequence[StoredLayer]) -> bytes:
    """All blocks, in order, as they are stored: little-endian words."""
    blocks = [block for layer in layers for block in (*layer.weight_blocks, *layer.parameter_blocks)]
    return b"".join(block.words.astype("<u4").tobytes() for block in blocks)


def check_round_trip(layers: Sequence[StoredLayer]) -> None:
    """Decode everything again. ``AssertionError`` where it is not what was encoded."""
    words = np.frombuffer(to_bytes(layers), "<u4").astype(np.uint32)
    decoded = b"".join(WeightDecoder().decode(words))
    if decoded != b"".join(part for layer in layers for part in layer.image):
        raise AssertionError("the weights do not come back from their code")
