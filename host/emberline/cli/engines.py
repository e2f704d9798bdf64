"""Where a network runs: numpy, the emulator, the simulated board or a real one, behind one interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.cli.networks import Network
from emberline.errors import EmberlineError, SimulationError

Codes = NDArray[np.int8]


@dataclass(frozen=True)
class FrameResult:
    """What one frame gave.

    Parameters:
        outputs: the network's outputs in its order.
        cycles: in which the machine worked on it; ``None`` where there is no machine.
        stall_cycles: in which the machine waited for the host, to send the frame or to fetch a result.
    """

    outputs: tuple[Codes, ...]
    cycles: int | None = None
    stall_cycles: int = 0

    def takes(self, predicted: int) -> bool:
        """Whether these are the cycles of a prediction, which has no wait for the host. Such a wait may hide others,
        for weights or for a row to be written."""
        return self.cycles is not None and self.cycles <= predicted <= self.cycles + self.stall_cycles


class Engine(Protocol):
    """Runs frames of one network, one at a time, in order."""

    def run(self, frames: Codes) -> Iterator[FrameResult]:
        """Results of int8 frames ``[N, H, W, C]``, each as soon as it is there."""


class ModelEngine:
    """The network itself, in numpy: knows no cycles."""

    def __init__(self, network: Network) -> None:
        self._graph = network.need_graph("running it on 'model'")
        self._names = network.output_names

    def run(self, frames: Codes) -> Iterator[FrameResult]:
        from emberline.cli.comparison import batches
        from emberline.model import network

        for piece in batches(len(frames), 16):
            outputs = network.run(self._graph, frames[piece])
            for index in range(piece.stop - piece.start):
                yield FrameResult(tuple(outputs[name][index] for name in self._names))


class EmulatorEngine:
    """The compiled program, executed instruction by instruction in numpy; its cycles are the predicted ones."""

    def __init__(self, program: Program) -> None:
        from emberline.model.emulator import Emulator

        self._names = program.results
        self._emulator = Emulator(program.architecture)
        self._emulator.load(program)

    def run(self, frames: Codes) -> Iterator[FrameResult]:
        for frame in frames:
            result = self._emulator.run(frame)
            yield FrameResult(tuple(result.results[name] for name in self._names), result.cycles)


class LiteRTEngine:
    """The model file in LiteRT, with its reference kernels: the oracle."""

    def __init__(self, network: Network) -> None:
        from emberline.model.litert import LiteRTReference

        network.need_graph("comparing with LiteRT")
        self._reference = LiteRTReference(network.path)

    def run(self, frames: Codes) -> Iterator[FrameResult]:
        for frame in frames:
            yield FrameResult(tuple(output[0] for output in self._reference.run_all(frame[None])))


class OnnxRuntimeEngine:
    """The model file in onnxruntime."""

    def __init__(self, network: Network) -> None:
        from emberline.model.onnx_reference import OnnxRuntimeReference

        self._reference = OnnxRuntimeReference(network.path, network.need_graph("comparing with onnxruntime"))

    def run(self, frames: Codes) -> Iterator[FrameResult]:
        for frame in frames:
            yield FrameResult(tuple(output[0] for output in self._reference.run_all(frame[None])))


@contextmanager
def open_engine(on: str, network: Network, architecture: Architecture | None) -> Iterator[Engine]:
    """The engine that ``on`` names, with the network loaded; closed at the end.

    Raises ``EmberlineError`` where it cannot run or cannot take the network.
    """
    if on == "model":
        yield ModelEngine(network)
        return
    program = network.compile(architecture)
    if on == "emulator":
        yield EmulatorEngine(program)
        return
    if on == "rtl":
        check_simulation()
    from emberline.cli.device_engine import DeviceEngine
    from emberline.driver.device import Device

    device = Device.open(on, program.architecture, flash_bytes=len(program.stream))
    engine = DeviceEngine(device, program)
    try:
        yield engine
    finally:
        engine.close()


def check_simulation() -> None:
    """Raise ``SimulationError``, naming what is missing, unless the RTL can be simulated here."""
    from emberline.cli.toolchain import missing_for_simulation

    missing = missing_for_simulation()
    if missing:
        raise SimulationError(missing)


def open_reference(against: str, network: Network) -> Engine:
    """What results are compared with: ``litert``, ``onnxruntime`` or ``model``."""
    if against == "litert":
        return LiteRTEngine(network)
    if against == "onnxruntime":
        return OnnxRuntimeEngine(network)
    if against == "model":
        return ModelEngine(network)
    raise EmberlineError(f"--against takes litert, onnxruntime or model, not '{against}'")
