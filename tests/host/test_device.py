"""The device that people call, on the emulated board: right results, one clear error for every mistake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lossy_transport import LossyTransport
from numpy.typing import NDArray
from random_graphs import Limits, random_frames, random_graph

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault
from emberline.arch.packets import RequestType
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.driver.device import Device
from emberline.driver.emulated_board import EmulatedBoard, EmulatedMachine
from emberline.driver.protocol import LinkSettings
from emberline.driver.targets import Target
from emberline.errors import DeviceError, ImageError, ProgramError
from emberline.model import network

ARCHITECTURE = Architecture("test", 8, 4, 4096, 1024, 1024, 2)
LIMITS = Limits(max_size=8, max_blocks=2, max_channels=8, softmax=True)
FRAMES = 4


class Bench:
    """A compiled random network, frames, the outputs that numpy gives for them, and a board that can be watched."""

    def __init__(self, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, LIMITS)
        self.program = compile_graph(graph, ARCHITECTURE)
        self.frames = random_frames(rng, graph, FRAMES)
        self.expected = [
            {name: maps[name][0] for name in graph.outputs}
            for maps in (network.run(graph, frame[None]) for frame in self.frames)
        ]
        self.machine = EmulatedMachine(ARCHITECTURE)
        self.board = RecordingBoard(ARCHITECTURE, self.machine)

    def open(self, architecture: Architecture | None = None, **options: object) -> Device:
        return Device(Target("bench", self.board, architecture, LinkSettings(**options)))


class RecordingBoard(EmulatedBoard):
    """Notes the types of the requests that come in one piece."""

    def __init__(self, architecture: Architecture, machine: EmulatedMachine) -> None:
        super().__init__(architecture, machine)
        self.requests: list[RequestType] = []

    def write(self, data: bytes) -> None:
        self.requests.append(RequestType(data[2] & 0xF))
        super().write(data)


def same(outputs: dict[str, NDArray[np.int8]], expected: dict[str, NDArray[np.int8]]) -> bool:
    return outputs.keys() == expected.keys() and all(np.array_equal(outputs[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def compiled() -> Bench:
    return Bench()


@pytest.fixture
def bench(compiled: Bench) -> Bench:
    """The compiled network in front of a new board."""
    compiled.machine = EmulatedMachine(ARCHITECTURE)
    compiled.board = RecordingBoard(ARCHITECTURE, compiled.machine)
    return compiled


@pytest.fixture
def device(bench: Bench) -> Iterator[Device]:
    with bench.open() as device:
        device.load(bench.program)
        yield device


def test_run_gives_outputs_cycles_and_numbers(bench: Bench, device: Device) -> None:
    for number, frame in enumerate(bench.frames):
        result = device.run(frame)
        assert same(result.outputs, bench.expected[number])
        assert (result.frame, result.stall_cycles) == (number, 0)
        assert result.cycles == result.predicted_cycles == bench.program.predicted_cycles


def test_values_are_the_real_numbers_behind_the_codes(bench: Bench, device: Device) -> None:
    result = device.run(bench.frames[0])
    maps = {output.map.name: output.map for output in bench.program.outputs}
    maps |= {layer.output.name: layer.output for layer in bench.program.host_layers}
    for name, codes in result.outputs.items():
        assert np.allclose(result.values[name], maps[name].scale * (codes.astype(float) - maps[name].zero_point))


def test_stream_reads_a_result_before_it_sends_more_rows(bench: Bench, device: Device) -> None:
    bench.board.requests.clear()
    results = list(device.stream(bench.frames))
    assert all(same(result.outputs, expected) for result, expected in zip(results, bench.expected, strict=True))
    requests = [each for each in bench.board.requests if each in (RequestType.FRAME_ROWS, RequestType.READ_RESULT)]
    assert requests == [RequestType.FRAME_ROWS, RequestType.READ_RESULT] * FRAMES


def test_stream_of_nothing_is_nothing(device: Device) -> None:
    assert list(device.stream([])) == []


def test_an_abandoned_stream_does_not_disturb_the_next_frame(bench: Bench, device: Device) -> None:
    next(device.stream(bench.frames))
    assert same(device.run(bench.frames[2]).outputs, bench.expected[2])


def test_rows_are_sent_in_as_many_requests_as_needed(bench: Bench) -> None:
    with bench.open(payload_bytes=4) as device:
        device.load(bench.program)
        assert same(device.run(bench.frames[1]).outputs, bench.expected[1])
        assert device.status()["rows_entered"] == bench.program.input.map.height


def test_a_program_that_is_there_is_not_sent_again(bench: Bench, device: Device) -> None:
    bench.board.requests.clear()
    with bench.open() as other:
        other.load(bench.program)
        assert RequestType.WRITE_WEIGHTS not in bench.board.requests
        assert same(other.run(bench.frames[0]).outputs, bench.expected[0])
        other.load(replace(bench.program, weights=bytes(len(bench.program.weights))))
        assert RequestType.WRITE_WEIGHTS in bench.board.requests


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0, 0.3))
def test_results_are_right_on_a_bad_line(compiled: Bench, seed: int, rate: float) -> None:
    line = LossyTransport(EmulatedBoard(ARCHITECTURE), seed, rate)
    with Device(Target("bench", line, None, LinkSettings(attempts=100))) as device:
        device.load(compiled.program)
        results = list(device.stream(compiled.frames))
    assert all(same(result.outputs, expected) for result, expected in zip(results, compiled.expected, strict=True))


@pytest.mark.parametrize("seed", range(2, 6))
def test_random_networks(seed: int) -> None:
    bench = Bench(seed)
    with bench.open() as device:
        device.load(bench.program)
        results = list(device.stream(bench.frames))
    assert all(same(result.outputs, expected) for result, expected in zip(results, bench.expected, strict=True))


def test_open_emulator_by_name(bench: Bench) -> None:
    with Device.open("emulator", ARCHITECTURE) as device:
        assert device.architecture == ARCHITECTURE
        device.load(bench.program)
        assert same(device.run(bench.frames[0]).outputs, bench.expected[0])


def test_a_board_says_what_it_is(bench: Bench) -> None:
    with bench.open() as device:
        assert device.architecture.fingerprint == ARCHITECTURE.fingerprint
        assert device.architecture.name == "test"


def test_another_board_than_expected_is_named(bench: Bench) -> None:
    expected = replace(ARCHITECTURE, name="other", weight_depth_words=512)
    with pytest.raises(DeviceError, match="the board is 'test', not 'other': weight_depth_words 1024 instead of 512"):
        bench.open(expected)


def test_a_program_for_another_machine_is_refused(bench: Bench) -> None:
    other = replace(bench.program, architecture=replace(ARCHITECTURE, name="big", activation_depth_words=8192))
    with bench.open() as device:
        with pytest.raises(ProgramError, match="compiled for 'big', not for 'test': activation_depth_words 8192"):
            device.load(other)


def test_run_needs_a_program(bench: Bench) -> None:
    with bench.open() as device, pytest.raises(DeviceError, match="no program is loaded"):
        device.run(bench.frames[0])


@pytest.mark.parametrize("spoil", [lambda x: x[:-1], lambda x: x.astype(np.uint8), lambda x: x[..., None]])
def test_a_wrong_frame_is_refused_and_the_next_one_is_right(bench: Bench, device: Device, spoil) -> None:
    with pytest.raises(ImageError, match="takes int8"):
        device.run(spoil(bench.frames[0]))
    assert same(device.run(bench.frames[1]).outputs, bench.expected[1])


def test_a_fault_is_named_and_reset_recovers(bench: Bench, device: Device) -> None:
    bench.machine.fault, bench.machine.running = Fault.OPCODE, False
    with pytest.raises(DeviceError, match=r"bench: the machine stopped with fault 1 \(opcode\)"):
        device.run(bench.frames[0])
    device.reset()
    assert same(device.run(bench.frames[0]).outputs, bench.expected[0])


def test_a_board_that_was_reset_by_someone_else_is_noticed(bench: Bench, device: Device) -> None:
    device.run(bench.frames[0])
    bench.machine.clear()
    with pytest.raises(DeviceError, match="the machine does not run"):
        device.run(bench.frames[0])
    assert same(device.run(bench.frames[3]).outputs, bench.expected[3])


def test_a_machine_that_never_finishes_is_given_up(bench: Bench, device: Device) -> None:
    frames = device.stream(bench.frames)
    next(frames)
    bench.machine.enter_rows = lambda data: None
    with pytest.raises(DeviceError, match="made no progress for"):
        next(frames)


def test_a_program_that_does_not_start_as_it_says_is_refused(bench: Bench) -> None:
    program: Program = bench.program
    wrong = replace(program, input=replace(program.input, pixel_bytes=program.input.pixel_bytes + 1))
    with bench.open() as device, pytest.raises(DeviceError, match="row_bytes is .* after the start, the program says"):
        device.load(wrong)


def test_a_missing_serial_port_is_named() -> None:
    with pytest.raises(DeviceError, match="/dev/no-such-port: the serial port cannot be opened"):
        Device.open("/dev/no-such-port")


def test_a_port_without_a_board_is_given_up() -> None:
    with pytest.raises(DeviceError, match="loop://: IDENTITY failed after 2 attempts: bytes that are no answer"):
        Device.open("loop://", settings=LinkSettings(timeout_s=0.02, attempts=2))
