"""The program emulator: what a board with this program answers, frame by frame, and in how many cycles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.arch.timing import FrameTiming, predict
from emberline.errors import EmulationError
from emberline.model.machine import Machine
from emberline.model.outputs import apply_host_layers, decode_outputs, pack_frame


@dataclass(frozen=True)
class EmulatedFrame:
    """What one frame gave.

    Parameters:
        maps: the accelerator's output maps, int8 ``[H, W, C]`` by name.
        results: the network's own outputs, after the host layers.
        data: the result's bytes, as the link delivers them.
        cycles: predicted, from the frame's start until everything is written.
    """

    maps: dict[str, NDArray[np.int8]]
    results: dict[str, NDArray[np.int8]]
    data: bytes
    cycles: int


class Emulator:
    """An accelerator that takes programs and frames. State is kept from frame to frame, as in hardware."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.machine = Machine(architecture)
        self.program: Program | None = None
        self.timing: FrameTiming | None = None

    def load(self, program: Program) -> None:
        """Take a program and its weights; raises ``ProgramError`` if it is made for another machine or invalid."""
        program.check_architecture(self.architecture)
        self.machine.load_program(list(program.instructions))
        self.machine.load_weights(program.weights)
        self.machine.load_flash(program.stream, program.stream_offset)
        self.timing = predict(self.architecture, list(program.instructions))
        self.program = program

    def run(self, frame: NDArray[np.int8]) -> EmulatedFrame:
        """Compute one frame, int8 ``[H, W, C]``.

        Raises ``ImageError`` for a frame of another shape, ``EmulationError`` for an illegal program.
        """
        if self.program is None or self.timing is None:
            raise EmulationError("no program is loaded")
        data = self.machine.run_frame(pack_frame(self.program, frame))
        maps = decode_outputs(self.program, data)
        return EmulatedFrame(maps, apply_host_layers(self.program, maps), data, self.timing.cycles)
