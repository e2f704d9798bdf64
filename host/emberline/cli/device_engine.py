"""A board, simulated or real, through the one driver."""

from __future__ import annotations

from collections.abc import Iterator

from emberline.arch.program import Program
from emberline.cli.engines import Codes, FrameResult
from emberline.driver.device import Device


class DeviceEngine:
    """A device with a program loaded.

    Parameters:
        device: open; ``close`` closes it, and so does an error while the program is loaded.
        program: compiled for its architecture.
    """

    def __init__(self, device: Device, program: Program) -> None:
        self._program, self._device = program, device
        try:
            self._device.load(program)
        except BaseException:
            self._device.close()
            raise

    def run(self, frames: Codes) -> Iterator[FrameResult]:
        for result in self._device.stream(frames):
            outputs = tuple(result.outputs[name] for name in self._program.results)
            yield FrameResult(outputs, result.cycles - result.stall_cycles, result.stall_cycles)

    def close(self) -> None:
        self._device.close()
