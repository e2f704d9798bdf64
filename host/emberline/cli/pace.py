"""Frames back to back in the RTL simulation: what a frame takes with all that it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emberline.cli.engines import Codes, FrameResult

if TYPE_CHECKING:
    from emberline.arch.program import Program
    from emberline.simulation.frame_events import FrameEvent

POLL_CYCLES = 256
"""After which a host that cannot send a row asks again whether it can."""


@dataclass(frozen=True)
class Pace:
    """Cycles of frames that follow each other, on one clock.

    Parameters:
        entered: in which each frame's last row was stored.
        finished: in which each result was there.
    """

    entered: Sequence[int]
    finished: Sequence[int]

    @property
    def cycles(self) -> int:
        """From one result to the next one, on the average."""
        return round((self.finished[-1] - self.finished[0]) / (len(self.finished) - 1))

    @property
    def latencies(self) -> list[int]:
        """From each frame's last row to its result."""
        return [end - row for row, end in zip(self.entered, self.finished, strict=True)]


def run_back_to_back(program: Program, frames: Codes) -> tuple[list[FrameResult], Pace]:
    """Results of frames, at least two, through the simulated board, from a host that sends every row as soon as it may.

    It sends rows one by one, and takes a result as soon as it is there.
    """
    from emberline.cli.device_engine import DeviceEngine
    from emberline.driver.device import Device
    from emberline.driver.protocol import LinkSettings
    from emberline.driver.targets import SIMULATED_TIMEOUT_S, open_target
    from emberline.simulation.frame_events import split_events

    architecture = program.architecture
    settings = LinkSettings(
        timeout_s=SIMULATED_TIMEOUT_S,
        byte_s=2 / architecture.clock_hz,
        payload_bytes=program.input.row_bytes,
        poll_s=POLL_CYCLES / architecture.clock_hz,
    )
    target = open_target("rtl", architecture, settings=settings, flash_bytes=len(program.stream), tap="frames")
    assert target.take_tapped is not None
    engine = DeviceEngine(Device(target), program)
    try:
        target.take_tapped()
        results = list(engine.run(frames))
        return results, find_pace(split_events(target.take_tapped()), program.input.map.height)
    finally:
        engine.close()


def find_pace(events: Iterator[FrameEvent], rows: int) -> Pace:
    """The pace of frames of so many rows."""
    entered, finished, come, before = [], [], 0, 0
    for event in events:
        come += event.rows
        if event.rows and come % rows == 0:
            entered.append(event.cycle)
        if event.frames_done != before:
            finished.append(event.cycle)
        before = event.frames_done
    return Pace(entered, finished)
