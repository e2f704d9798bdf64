"""The compiler: a checked graph and an architecture in, a program out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emberline.arch.architecture import Architecture
from emberline.arch.flash import FLASH_OFFSET, flash_count
from emberline.arch.program import HostLayer, InputMap, LayerReport, MapInfo, OutputMap, Program, Region
from emberline.arch.timing import Spent, predict
from emberline.compiler.emit import Emission
from emberline.compiler.network_plan import NetworkPlan, WeightPlace, emit_plan, place_weights, plan_network
from emberline.compiler.placement import Places
from emberline.compiler.rows import Role, Schedule
from emberline.compiler.steps import Step
from emberline.compiler.streaming import PlacedWeights
from emberline.model.graph import FeatureMap, Graph, Softmax


def compile_graph(
    graph: Graph,
    architecture: Architecture,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    weights: WeightPlace = WeightPlace.AUTO,
    flash_offset: int = FLASH_OFFSET,
) -> Program:
    """Compile a network for a machine.

    Parameters:
        labels: class names to keep with the program.
        preprocessing: how photographs become frames, as JSON values, to keep with the program.
        weights: where they are.
        flash_offset: the first byte in the flash, or in each of two, of weights that are there; over the link they
            begin at 0.

    Raises ``CompileError``, naming the layer and the reason, for what the machine cannot do or hold.
    """
    return compile_plan(
        graph,
        plan_network(graph, architecture, weights),
        architecture,
        labels=labels,
        preprocessing=preprocessing,
        flash_offset=flash_offset,
    )


def compile_plan(
    graph: Graph,
    plan: NetworkPlan,
    architecture: Architecture,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    flash_offset: int = FLASH_OFFSET,
) -> Program:
    """The program of ``graph`` with a schedule that ``plan_network`` made for it; see ``compile_graph``."""
    macs = {layer.name: plan.graph.macs(layer) for layer in plan.graph.layers}
    macs |= {layer.name: graph.macs(layer) for layer in graph.layers}
    graph, steps, places, schedule = plan.graph, plan.steps, plan.places, plan.schedule
    offset = 0 if architecture.fetches_from_link else flash_offset * flash_count(architecture)
    placed = place_weights(plan, architecture, offset)
    emission = emit_plan(plan, placed, architecture)
    timing = predict(architecture, emission.words)
    return Program(
        network=graph.name,
        architecture=architecture,
        input=InputMap(_describe(graph.feature_maps[graph.inputs[0]]), places.packing.channels),
        outputs=tuple(
            _describe_output(graph, name, places, schedule, architecture) for name in graph.accelerator_outputs
        ),
        results=graph.outputs,
        host_layers=tuple(_describe_host_layers(graph)),
        predicted_cycles=timing.cycles,
        layers=tuple(_report(macs, steps, emission, timing.spent, placed)),
        memory=tuple(_memory_map(schedule, architecture)),
        instructions=tuple(emission.words),
        weights=placed.resident,
        stream=emission.stream,
        stream_offset=offset if emission.stream else 0,
        labels=tuple(labels or ()),
        preprocessing=dict(preprocessing or {}),
    )


def _describe(x: FeatureMap) -> MapInfo:
    return MapInfo(x.name, x.height, x.width, x.channels, x.quantisation.scale, x.quantisation.zero_point)


def _describe_output(
    graph: Graph, name: str, places: Places, schedule: Schedule, architecture: Architecture
) -> OutputMap:
    place = places.placements[name]
    storage, lanes_in = place.storage, architecture.lanes_in
    start = min(each.start for each in schedule.storages if each.role is Role.RESULT)
    return OutputMap(
        _describe(graph.feature_maps[name]),
        (storage.start - start) * architecture.lanes_out,
        storage.row_words * lanes_in,
        storage.pixel_words * lanes_in,
        place.bytes_in_pixel(architecture.lanes_out),
    )


def _describe_host_layers(graph: Graph) -> list[HostLayer]:
    return [
        HostLayer(
            layer.name,
            type(layer).__name__.lower(),
            layer.inputs[0],
            _describe(graph.feature_maps[layer.output]),
            layer.beta if isinstance(layer, Softmax) else 1.0,
        )
        for layer in graph.host_layers
    ]


def _report(
    macs: Mapping[str, int],
    steps: list[Step],
    emission: Emission,
    row_spent: Mapping[int, Spent],
    placed: PlacedWeights,
) -> list[LayerReport]:
    """The table of layers; steps of one name, as the copies of a concatenation, make one line."""
    spent: dict[str, Spent] = {}
    addresses: dict[str, tuple[int, ...]] = {}
    for address, layer in emission.row_layers.items():
        spent[layer] = spent.get(layer, Spent()) + row_spent.get(address, Spent())
        addresses[layer] = (*addresses.get(layer, ()), address)
    reports = {}
    for step in steps:
        where = spent.get(step.name, Spent())
        reports[step.name] = LayerReport(
            step.name,
            step.kind,
            macs.get(step.layer.name, 0),
            where.total,
            placed.layer_bytes.get(step.name, 0),
            where,
            addresses.get(step.name, ()),
            placed.stored_bytes.get(step.name, 0),
        )
    return list(reports.values())


def _memory_map(schedule: Schedule, architecture: Architecture) -> list[Region]:
    """Every storage with the layers, by their place in the table, between which it is in use."""
    order = list(dict.fromkeys(operation.layer for operation in schedule.operations))
    spans: dict[int, list[int]] = {}
    for operation in schedule.operations:
        layer = order.index(operation.layer)
        for access in (operation.source, operation.target, operation.residual):
            if access is not None:
                spans.setdefault(id(access.storage), [layer, layer])[1] = layer
    regions = []
    for storage in (schedule.frame, *schedule.storages):
        end = storage.start + storage.words * architecture.groups_per_word
        first, last = (0, len(order) - 1) if storage.role is not Role.MAP else spans[id(storage)]
        regions.append(Region(storage.name, storage.role.value, storage.start, end, first, last))
    return regions
