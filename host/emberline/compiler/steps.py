"""Pass: the graph as steps, each the work of one kind of row operation, in execution order.

Residual additions are fused with the convolution before them, additions that have none become identity
convolutions, concatenations become nothing, or copies of the parts that cannot be placed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from emberline.model.graph import Add, AveragePool, Concatenation, Convolution, Graph, Layer, Pad


@dataclass(frozen=True)
class Step:
    """Read ``source`` (and ``residual``), write ``target``.

    Parameters:
        layer: what is computed: a convolution, an average pool, a pad; an ``Add`` or a ``Concatenation`` passes its
            source through unchanged.
        addition: the ADD whose other operand is ``residual``; ``operand`` is the index of its computed operand.
        computed: the map that ``layer`` itself would have written; it has its own place only without ``addition``.
    """

    layer: Layer
    source: str
    target: str
    computed: str
    addition: Add | None = None
    residual: str | None = None
    operand: int = 0

    @property
    def name(self) -> str:
        """The layer's name, with that of an addition fused into it."""
        return f"{self.layer.name} + {self.addition.name}" if self.fused and self.addition else self.layer.name

    @property
    def kind(self) -> str:
        kind = type(self.layer).__name__
        return f"{kind}+Add" if self.fused else kind

    @property
    def fused(self) -> bool:
        return self.addition is not None and self.addition is not self.layer

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.source,) if self.residual is None else (self.source, self.residual)


@dataclass(frozen=True)
class Part:
    """A map that lies inside a concatenation's pixels: the ``index``-th of ``whole``'s parts."""

    whole: str
    index: int


def plan_steps(graph: Graph) -> tuple[list[Step], dict[str, Part], dict[str, str]]:
    """The steps, the maps that are parts of concatenations, and the maps that copies were made of.

    A copy's name is ``concatenation layer[index]``; the third result gives the map that it repeats.
    """
    parts, copies = _place_parts(graph)
    fusions = {addition.name: producer for addition, producer in _fusions(graph)}
    fused = {producer.name for producer in fusions.values()}
    steps: list[Step] = []
    for layer in graph.layers:
        match layer:
            case Concatenation():
                for index, source in enumerate(layer.inputs):
                    copy = f"{layer.name}[{index}]"
                    if copies.get(copy) == source:
                        steps.append(Step(layer, source, copy, copy))
            case Add():
                steps.append(_addition_step(graph, layer, fusions.get(layer.name)))
            case Convolution() | AveragePool() | Pad() if layer.name not in fused:
                steps.append(Step(layer, layer.inputs[0], layer.output, layer.output))
    return steps, parts, copies


def _place_parts(graph: Graph) -> tuple[dict[str, Part], dict[str, str]]:
    """Each map becomes part of one concatenation at most, and once; the frame of none. The rest is copied."""
    parts: dict[str, Part] = {}
    copies: dict[str, str] = {}
    for layer in graph.layers:
        if isinstance(layer, Concatenation):
            for index, name in enumerate(layer.inputs):
                if name in parts or name in graph.inputs:
                    copy = f"{layer.name}[{index}]"
                    copies[copy] = name
                    name = copy
                parts[name] = Part(layer.output, index)
    return parts, copies


def _fusions(graph: Graph) -> list[tuple[Add, Convolution]]:
    """The additions that are computed behind a convolution, with it.

    Of two candidates the one with more taps: an addition takes a pixel's group ``lanes_out`` cycles, which only cost
    time where there are fewer taps. Of equal ones the later.
    """
    position = {layer.output: index for index, layer in enumerate(graph.layers)}

    def preference(name: str) -> tuple[int, int]:
        producer = graph.producer(name)
        taps = producer.weights[0].size if isinstance(producer, Convolution) else 0
        return -taps, -position.get(name, -1)

    found = []
    for layer in graph.layers:
        if isinstance(layer, Add):
            for name in sorted(set(layer.inputs), key=preference):
                producer, other = graph.producer(name), layer.inputs[1 - layer.inputs.index(name)]
                alone = graph.consumers(name) == (layer,) and name not in graph.outputs
                if isinstance(producer, Convolution) and alone and other != name and other not in graph.inputs:
                    found.append((layer, producer))
                    break
    return found


def _addition_step(graph: Graph, layer: Add, producer: Convolution | None) -> Step:
    if producer is not None:
        operand = layer.inputs.index(producer.output)
        return Step(
            producer, producer.inputs[0], layer.output, producer.output, layer, layer.inputs[1 - operand], operand
        )
    # The operand that passes through the lanes: the frame if it is one, else the one that is read again later.
    readers = Counter(name for other in graph.layers for name in set(other.inputs))
    operand = max((0, 1), key=lambda index: (layer.inputs[index] in graph.inputs, readers[layer.inputs[index]]))
    return Step(layer, layer.inputs[operand], layer.output, layer.output, layer, layer.inputs[1 - operand], operand)
