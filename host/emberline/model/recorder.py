"""The machine with a record of what every ROW writes: what a simulation's writes are compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.model.machine import Machine
from emberline.model.outputs import pack_frame

RowWrites = tuple[NDArray[np.int64], NDArray[np.int8]]
"""Addresses of groups, rising, and the groups, ``[n, lanes_out]``."""


class Recorder(Machine):
    """Executes frames of a program and keeps what each of their ROWs writes."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.architecture)
        self._program = program
        self._writes: dict[int, list[RowWrites]] = {}
        self.load_program(list(program.instructions))
        self.load_weights(program.weights)
        self.load_flash(program.stream, program.stream_offset)

    def _write(self, places: NDArray[np.int64], values: NDArray[np.int8]) -> None:
        super()._write(places, values)
        groups = np.broadcast_to(values, (*places.shape, self.architecture.lanes_out))
        self._writes.setdefault(self._sequence, []).append((places.ravel(), groups.reshape(places.size, -1).copy()))

    def record(self, frame: NDArray[np.int8]) -> list[RowWrites]:
        """The writes of one frame, int8 ``[H, W, C]``, ROW by ROW in their order of execution."""
        self._writes.clear()
        self.run_frame(pack_frame(self._program, frame))
        return [_sorted(parts) for _, parts in sorted(self._writes.items())]


def split_writes(data: bytes, architecture: Architecture) -> RowWrites:
    """Writes as a simulation tells them (`emberline.driver.targets.Target.take_tapped`), in their order."""
    size = architecture.lanes_out
    address_bytes = -(-(architecture.activation_depth_groups - 1).bit_length() // 8)
    items = np.frombuffer(data, np.uint8).reshape(-1, size + address_bytes)
    addresses = items[:, size:].astype(np.int64) @ (1 << 8 * np.arange(address_bytes, dtype=np.int64))
    return addresses, items[:, :size].view(np.int8)


def _sorted(parts: list[RowWrites]) -> RowWrites:
    places = np.concatenate([part[0] for part in parts])
    order = np.argsort(places, kind="stable")
    return places[order], np.concatenate([part[1] for part in parts])[order]
