"""Pass: the graph as steps, each the work of one kind of row operation, in execution order.

Residual additions are fused with the convolution before them, additions that have none become identity
convolutions, concatenations become nothing, or copies of the parts that cannot be placed; selections of channels become
nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from emberline.compiler.checks import refuse
from emberline.model.graph import (
    Add,
    AveragePool,
    Concatenation,
    Convolution,
    Graph,
    Layer,
    MaxPool,
    Pad,
    Select,
    Upsample,
)


@dataclass(frozen=True)
class Step:
    """Read ``source`` (and ``residual``), write ``target``.

    Parameters:
        layer: what is computed: a convolution, an average pool, a pad; an ``Add`` or a ``Concatenation`` passes its
            source through unchanged.
        addition: the ADD whose other operand is ``residual``; ``operand`` is the index of its computed operand.
        computed: the map that ``layer`` itself would have written; it has its own place only if nothing is fused.
        pool: maxima of what ``layer`` computes are written; a pool that stands alone is its own ``layer``.
    """

    layer: Layer
    source: str
    target: str
    computed: str
    addition: Add | None = None
    residual: str | None = None
    operand: int = 0
    pool: MaxPool | None = None

    @property
    def name(self) -> str:
        """The layer's name, with that of an addition or pool fused into it."""
        return " + ".join([self.layer.name, *(layer.name for layer in self.fused)])

    @property
    def kind(self) -> str:
        return "+".join(type(layer).__name__ for layer in (self.layer, *self.fused))

    @property
    def fused(self) -> list[Layer]:
        """The layers that are computed behind ``layer``."""
        return [layer for layer in (self.addition, self.pool) if layer not in (None, self.layer)]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.source,) if self.residual is None else (self.source, self.residual)


@dataclass(frozen=True)
class View:
    """Some channels of the map ``whole``, in this order.

    ``exclusive``: their groups must hold no others, as a sum may be written over them.
    """

    whole: str
    channels: tuple[int, ...]
    exclusive: bool = False


@dataclass(frozen=True)
class Plan:
    """What is computed, and which maps lie inside others.

    Parameters:
        steps: in execution order.
        members: maps that consist of others, side by side in their pixels: concatenations, and sums that are computed
            in pieces.
        copies: maps that repeat another one, because it could not be placed in a second concatenation.
        views: names for some channels of a map.
    """

    steps: list[Step]
    members: dict[str, tuple[str, ...]]
    copies: dict[str, str]
    views: dict[str, View]


def plan_steps(graph: Graph, whole_sums: frozenset[str] = frozenset()) -> Plan:
    """The steps of a graph; the additions in ``whole_sums`` are not computed in pieces."""
    return _Planner(graph, whole_sums).plan()


class _Planner:
    def __init__(self, graph: Graph, whole_sums: frozenset[str]) -> None:
        self.graph = graph
        self.fusions = _fusions(graph)
        self.pieces = {
            layer.name: parts
            for layer in graph.layers
            if isinstance(layer, Add) and layer.name not in self.fusions and layer.name not in whole_sums
            if (parts := _sum_in_pieces(graph, layer)) is not None
        }
        self.result = Plan([], {}, {}, {})

    def plan(self) -> Plan:
        fused = {producer.name for producer in self.fusions.values()}
        fused |= {convolution.name for parts in self.pieces.values() for convolution in parts.convolutions}
        pooled = pools_on_write(self.graph)
        fused |= {producer.name for producer in pooled.values()}
        divided = {parts.concatenation.name for parts in self.pieces.values()}
        placed: set[str] = set(self.graph.inputs)
        for layer in self.graph.layers:
            match layer:
                case Concatenation() if layer.name not in divided:
                    self._concatenate(layer, placed)
                case Add() if layer.name in self.pieces:
                    self._add_in_pieces(layer, self.pieces[layer.name])
                case Add():
                    self.result.steps.append(_addition_step(self.graph, layer, self.fusions.get(layer.name)))
                case MaxPool():
                    first = pooled.get(layer.name, layer)
                    self.result.steps.append(Step(first, first.inputs[0], layer.output, first.output, pool=layer))
                case Select():
                    self.result.views[layer.output] = View(layer.inputs[0], layer.channels)
                    placed.add(layer.output)
                case Convolution() | AveragePool() | Pad() | Upsample():
                    if layer.name not in fused:
                        self.result.steps.append(Step(layer, layer.inputs[0], layer.output, layer.output))
                case Concatenation():
                    pass  # its parts are computed with the addition that follows
                case _:
                    raise refuse(layer, f"{type(layer).__name__} has no hardware yet")
        return self.result

    def _concatenate(self, layer: Concatenation, placed: set[str]) -> None:
        """Each map becomes part of one concatenation at most, and once; the frame of none. The rest is copied."""
        members = []
        for index, name in enumerate(layer.inputs):
            if name in placed:
                copy = f"{layer.name}[{index}]"
                self.result.copies[copy] = name
                self.result.steps.append(Step(layer, name, copy, copy))
                name = copy
            placed.add(name)
            members.append(name)
        self.result.members[layer.output] = tuple(members)

    def _add_in_pieces(self, layer: Add, pieces: _Pieces) -> None:
        """``concatenation(a, b) + r`` as the concatenation of ``a + r's first channels`` and ``b + r's others``."""
        operand = layer.inputs.index(pieces.concatenation.output)
        residual, first = layer.inputs[1 - operand], 0
        members = []
        for convolution in pieces.convolutions:
            end = first + convolution.output_channels
            view, target = f"{residual}[{first}:{end}]", f"{layer.output}[{first}:{end}]"
            self.result.views[view] = View(residual, tuple(range(first, end)), exclusive=True)
            step = Step(convolution, convolution.inputs[0], target, convolution.output, layer, view, operand)
            self.result.steps.append(step)
            members.append(target)
            first = end
        self.result.members[layer.output] = tuple(members)


@dataclass(frozen=True)
class _Pieces:
    """A concatenation whose only reader is an addition, and the convolutions whose only reader it is."""

    concatenation: Concatenation
    convolutions: tuple[Convolution, ...]


def _sum_in_pieces(graph: Graph, layer: Add) -> _Pieces | None:
    for name in layer.inputs:
        whole, other = graph.producer(name), layer.inputs[1 - layer.inputs.index(name)]
        if isinstance(whole, Concatenation) and _has_one_reader(graph, name) and other not in (name, *graph.inputs):
            producers = [graph.producer(part) for part in whole.inputs]
            convolutions = tuple(each for each in producers if isinstance(each, Convolution))
            alone = all(_has_one_reader(graph, part) for part in whole.inputs)
            if alone and len(convolutions) == len(whole.inputs) == len(set(whole.inputs)):
                return _Pieces(whole, convolutions)
    return None


def pools_on_write(graph: Graph) -> dict[str, Convolution]:
    """By the pools' names the convolutions whose rows are pooled as they are written."""
    found = {}
    for layer in graph.layers:
        if isinstance(layer, MaxPool) and layer.window[0] <= layer.stride[0] + 1 and not ends_crowded(graph, layer):
            producer = graph.producer(layer.inputs[0])
            if isinstance(producer, Convolution) and _has_one_reader(graph, producer.output):
                found[layer.name] = producer
    return found


def ends_crowded(graph: Graph, pool: MaxPool) -> bool:
    """Whether two windows of a row end with its last column or beyond: a row as it is gives one maximum there."""
    columns, pooled = graph.feature_maps[pool.inputs[0]].width, graph.feature_maps[pool.output].width
    last = pool.window[1] - 1 - pool.padding.left + (pooled - 1) * pool.stride[1]
    return pooled > 1 and last >= columns - 1 and last - pool.stride[1] >= columns - 1


def _has_one_reader(graph: Graph, name: str) -> bool:
    return len(graph.consumers(name)) == 1 and name not in graph.outputs


def _fusions(graph: Graph) -> dict[str, Convolution]:
    """By the additions' names the convolutions that they are computed behind.

    Of two candidates the one with more taps: an addition takes ``lanes_out / adders`` cycles for a pixel's group, which
    only cost time where there are fewer taps. Of equal ones the later.
    """
    position = {layer.output: index for index, layer in enumerate(graph.layers)}

    def preference(name: str) -> tuple[int, int]:
        producer = graph.producer(name)
        taps = producer.weights[0].size if isinstance(producer, Convolution) else 0
        return -taps, -position.get(name, -1)

    found: dict[str, Convolution] = {}
    for layer in graph.layers:
        if isinstance(layer, Add):
            for name in sorted(set(layer.inputs), key=preference):
                producer, other = graph.producer(name), layer.inputs[1 - layer.inputs.index(name)]
                if isinstance(producer, Convolution) and _has_one_reader(graph, name):
                    if other not in (name, *graph.inputs):
                        found[layer.name] = producer
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
