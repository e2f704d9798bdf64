"""``emberline verify --maps``: every row of every map that the schedule stores, as the RTL writes it.

Two comparisons. The groups that each ROW writes are those that the emulator's writes, bytes that belong to no channel
included. And when the last ROW of a map's row has written, what it left in the activation buffer is the model's row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.cli.device_engine import DeviceEngine
from emberline.cli.engines import FrameResult, check_simulation
from emberline.cli.networks import Network
from emberline.compiler.compile import compile_plan
from emberline.compiler.network_plan import NetworkPlan, plan_network
from emberline.compiler.rows import RowOperation, Storage
from emberline.compiler.schedule.rings import rows_written
from emberline.compiler.steps import Step
from emberline.driver.device import Device
from emberline.driver.targets import open_target
from emberline.errors import EmberlineError, VerificationError
from emberline.model import network
from emberline.model.graph import Concatenation
from emberline.model.recorder import Recorder, RowWrites, split_writes

Codes = NDArray[np.int8]


@dataclass
class StoredMaps:
    """What was compared, over all frames.

    Parameters:
        rows, writes: ROWs, and groups that they wrote.
        maps: values compared of each map, by name.
        codes: the maps of the last frame as the RTL stored them, ``[H, W, C]``.
    """

    rows: int = 0
    writes: int = 0
    maps: dict[str, int] = field(default_factory=dict)
    codes: dict[str, Codes] = field(default_factory=dict)

    @property
    def values(self) -> int:
        return sum(self.maps.values())


class MapChecker:
    """Follows the writes of a program's frames.

    Parameters: ``plan`` is what ``program`` was made of; ``found`` is counted up.
    """

    def __init__(self, plan: NetworkPlan, program: Program, found: StoredMaps) -> None:
        self._plan, self._program = plan, program
        self._architecture = program.architecture
        self._recorder = Recorder(program)
        self._groups = np.zeros((self._architecture.activation_depth_groups, self._architecture.lanes_out), np.int8)
        self._completes = _completions(plan.schedule.operations)
        self.found = found

    def check(self, frame: Codes, addresses: NDArray[np.int64], groups: Codes) -> int:
        """Compare the writes of one frame, which come first in ``addresses`` and ``groups``; how many they are.

        Raises ``VerificationError``, naming layer, row, column and channel of the first difference.
        """
        expected = _stored_values(self._plan, frame)
        rows = self._recorder.record(frame)
        operations = self._plan.schedule.operations
        if len(rows) != len(operations):
            raise EmberlineError(f"the program executes {len(rows)} ROWs, its schedule has {len(operations)}")
        first = 0
        for index, (operation, row) in enumerate(zip(operations, rows, strict=True)):
            end = first + len(row[0])
            self._check_row(index, operation, row, (addresses[first:end], groups[first:end]))
            for step, y in self._completes.get(index, ()):
                self._check_values(step, y, expected[step])
            first = end
        self.found.rows += len(rows)
        self.found.writes += first
        return first

    def _check_row(self, index: int, operation: RowOperation, expected: RowWrites, actual: RowWrites) -> None:
        first, last = operation.target.row, operation.target.row + operation.rows - 1
        computed = f"row {first}" if first == last else f"rows {first} to {last}"
        where = f"layer '{operation.layer}', ROW {index} ({computed})"
        order = np.argsort(actual[0], kind="stable")
        places, groups = actual[0][order], actual[1][order]
        self._groups[places] = groups
        if len(places) != len(expected[0]):
            raise VerificationError(f"{where}: {len(places)} groups were written instead of {len(expected[0])}")
        if (places != expected[0]).any():
            at = int(np.flatnonzero(places != expected[0])[0])
            raise VerificationError(f"{where}: group {places[at]} was written instead of {expected[0][at]}")
        wrong = np.argwhere(groups != expected[1])
        if len(wrong):
            at, lane = (int(value) for value in wrong[0])
            raise VerificationError(
                f"{where}: {self._describe(operation, int(places[at]), lane)}: "
                f"{groups[at, lane]} was written, the emulator writes {expected[1][at, lane]}"
            )

    def _describe(self, operation: RowOperation, group: int, lane: int) -> str:
        """Map, row, column and channel of a byte of the buffer that a ROW writes."""
        step = self._plan.steps[operation.step]
        for access in (operation.target, operation.copy):
            if access is None:
                continue
            for y in range(access.row, access.row + operation.rows):
                found = np.argwhere(self._row_bytes(step, y) == group * self._architecture.lanes_out + lane)
                if len(found):
                    return f"map '{step.target}', row {y}, column {found[0][0]}, channel {found[0][1]}"
        return f"byte {lane} of group {group}, no channel of '{step.target}'"

    def _check_values(self, step: int, y: int, expected: Codes) -> None:
        name = self._plan.steps[step].target
        actual = self._groups.reshape(-1)[self._row_bytes(self._plan.steps[step], y)]
        wrong = np.argwhere(actual != expected[y])
        if len(wrong):
            x, channel = (int(value) for value in wrong[0])
            raise VerificationError(
                f"layer '{self._plan.steps[step].name}', map '{name}', row {y}, column {x}, channel {channel}: "
                f"{actual[x, channel]} is stored, the model computes {expected[y, x, channel]}"
            )
        self.found.maps[name] = self.found.maps.get(name, 0) + actual.size
        self.found.codes.setdefault(name, np.zeros_like(expected))[y] = actual

    def _row_bytes(self, step: Step, y: int) -> NDArray[np.int64]:
        """The bytes of the buffer that are the channels of a row of a step's target: ``[columns, channels]``."""
        place = self._plan.places.placements[step.target]
        first, pixel = row_start(place.storage, y, self._architecture)
        positions = np.array(place.bytes_in_pixel(self._architecture.lanes_out))
        width = self._widths(step)
        return first + pixel * np.arange(width)[:, None] + positions

    def _widths(self, step: Step) -> int:
        maps = self._plan.graph.feature_maps
        if step.target in maps:
            return maps[step.target].width
        return maps[step.source if step.addition is None else step.addition.output].width


def row_start(storage: Storage, y: int, architecture: Architecture) -> tuple[int, int]:
    """The first byte of a row in its ring, and the bytes of a pixel."""
    words = (y % storage.ring_rows) * storage.row_words
    return storage.start * architecture.lanes_out + words * architecture.lanes_in, (
        storage.pixel_words * architecture.lanes_in
    )


def _completions(operations: Sequence[RowOperation]) -> dict[int, list[tuple[int, int]]]:
    """By the operation that is the last to write it: steps and rows of their targets."""
    last: dict[tuple[int, int], int] = {}
    for index, operation in enumerate(operations):
        for _, y in rows_written(operation):
            last[operation.step, y] = index
    found: dict[int, list[tuple[int, int]]] = {}
    for (step, y), index in last.items():
        found.setdefault(index, []).append((step, y))
    return found


def _stored_values(plan: NetworkPlan, frame: Codes) -> list[Codes]:
    """What every step's target holds by the model, ``[H, W, C]``."""
    maps = network.run(plan.graph, frame[None], keep=True)
    summed: dict[str, int] = {}
    found = []
    for step in plan.steps:
        if step.target in maps:
            found.append(maps[step.target][0])
        elif isinstance(step.layer, Concatenation):  # a copy of one of its parts
            found.append(maps[step.source][0])
        else:  # a piece of a sum
            assert step.addition is not None
            whole, channels = step.addition.output, plan.graph.feature_maps[step.computed].channels
            first = summed.get(whole, 0)
            summed[whole] = first + channels
            found.append(maps[whole][0][..., first : first + channels])
    return found


def compile_with_plan(model: Network, architecture: Architecture) -> tuple[NetworkPlan, Program]:
    """A network's schedule and the program made of it; raises ``CompileError`` where it does not fit."""
    graph = model.need_graph("comparing its maps")
    plan = plan_network(graph, architecture)
    return plan, compile_plan(graph, plan, architecture)


def run_checked(plan: NetworkPlan, program: Program, frames: Codes, found: StoredMaps) -> Iterator[FrameResult]:
    """Results of frames in the RTL, each after all that was stored for it has been compared; ``found`` counts it.

    Raises ``VerificationError`` for the first difference.
    """
    check_simulation()
    architecture = program.architecture
    target = open_target("rtl", architecture, flash_bytes=len(program.stream), tap="writes")
    assert target.take_tapped is not None
    engine = DeviceEngine(Device(target), program)
    checker = MapChecker(plan, program, found)
    waiting = b""
    try:
        for frame, result in zip(frames, engine.run(frames), strict=True):
            waiting += target.take_tapped()
            addresses, groups = split_writes(waiting, architecture)
            count = checker.check(frame, addresses, groups)
            waiting = waiting[count * (len(waiting) // max(1, len(addresses))) :]
            yield result
    finally:
        engine.close()


def stored_map(plan: NetworkPlan, found: StoredMaps, name: str) -> Codes | None:
    """A map of the last frame as the RTL stored it, perhaps in parts; ``None`` if the schedule never stores it."""
    if name in found.codes:
        return found.codes[name]
    layer = plan.graph.producer(name) if name in plan.graph.feature_maps else None
    if not isinstance(layer, Concatenation):
        return None
    parts = [stored_map(plan, found, part) for part in layer.inputs]
    return None if any(part is None for part in parts) else np.concatenate([p for p in parts if p is not None], axis=2)
