"""A board, simulated or real, through the one driver."""

from __future__ import annotations

from collections.abc import Iterator

from emberline.arch.program import Program
from emberline.cli.engines import Codes, FrameResult
from emberline.driver.device import Device


class DeviceEngine:
    """A device with a program loaded.

    Parameters:
        on: ``rtl`` or a serial port.
        program: decides what is simulated; a real board must be built for the same architecture.
    """

    def __init__(self, on: str, program: Program) -> None:
        self._program = program
        self._device = Device.open(on, program.architecture, flash_bytes=len(program.stream))
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
