"""The driver against the RTL: the whole board from its byte stream inwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from lossy_transport import LossyTransport
from random_graphs import Limits, random_frames, random_graph

from emberline.arch.architecture import Architecture
from emberline.compiler.compile import compile_graph
from emberline.driver.device import Device
from emberline.driver.protocol import LinkSettings
from emberline.driver.targets import Target
from emberline.driver.transport import Transport
from emberline.errors import DeviceError
from emberline.model import network
from emberline.simulation.board import SimulatedBoard, simulate_architecture

ARCHITECTURE = Architecture("link-test", 4, 4, 2048, 1024, 1024, 1, uart_baud=12_500_000)
LIMITS = Limits(max_size=8, max_blocks=2, max_channels=8, softmax=True)
SETTINGS = LinkSettings(timeout_s=0.0005, byte_s=2e-8, attempts=30, payload_bytes=256)
FRAMES = 3


@pytest.fixture(scope="module")
def board() -> Iterator[SimulatedBoard]:
    with simulate_architecture(ARCHITECTURE) as board:
        yield board


def network_of(seed: int):
    """A random network: its program, frames, and the outputs that numpy gives."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, LIMITS)
    frames = random_frames(rng, graph, FRAMES)
    outputs = network.run(graph, frames)
    expected = [{name: outputs[name][index] for name in graph.outputs} for index in range(FRAMES)]
    return compile_graph(graph, ARCHITECTURE), frames, expected


def connect(transport: Transport, settings: LinkSettings = SETTINGS) -> Device:
    return Device(Target("rtl", transport, ARCHITECTURE, settings))


def check(device: Device, seed: int) -> None:
    program, frames, expected = network_of(seed)
    device.load(program)
    for number, result in enumerate(device.stream(frames)):
        # Waiting overlaps with what the pipeline still has to do, so its cycles do not simply add up.
        assert result.cycles - result.stall_cycles <= result.predicted_cycles <= result.cycles
        assert result.stall_cycles or result.cycles == result.predicted_cycles
        for name, codes in expected[number].items():
            np.testing.assert_array_equal(result.outputs[name], codes, err_msg=f"seed {seed}, frame {number}, {name}")


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5])
def test_networks_give_numpys_outputs_in_the_predicted_cycles(board: SimulatedBoard, seed: int) -> None:
    check(connect(board), seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_line_delays_and_nothing_else(board: SimulatedBoard, seed: int) -> None:
    line = LossyTransport(board, seed, 0.3)
    check(connect(line), 10 + seed)
    assert line.accidents > 3


def test_a_stalling_line_delays_and_nothing_else(board: SimulatedBoard) -> None:
    board.stall(0.5, 0.5, seed=4, burst_log2=3)
    check(connect(board), 20)
    board.stall()


def test_status_counts_what_the_line_did(board: SimulatedBoard) -> None:
    device = connect(board)
    before = device.status()
    board.write(b"\xe7\x4d garbage garbage")
    after = device.status()
    assert after["header_errors"] == before["header_errors"] + 1


def test_an_illegal_program_is_a_named_fault_and_the_next_one_is_right(board: SimulatedBoard) -> None:
    device = connect(board)
    program, *_ = network_of(30)
    spoilt = replace(program, instructions=(0xF, *program.instructions[1:]))
    with pytest.raises(DeviceError, match=r"rtl: the machine stopped with fault 1 \(opcode\); reset it"):
        device.load(spoilt)
    check(device, 30)


def test_frames_load_while_others_are_computed(board: SimulatedBoard) -> None:
    device = connect(board, replace(SETTINGS, payload_bytes=4096))
    seed = max(range(20), key=_busyness)
    program, frames, _ = network_of(seed)
    device.load(program)
    assert program.predicted_cycles > 1500 + program.input.frame_bytes, "the network must outlast its frame's packets"
    assert [result.stall_cycles for result in device.stream(frames)] == [0] * FRAMES


def _busyness(seed: int) -> int:
    program, *_ = network_of(seed)
    return program.predicted_cycles - program.input.frame_bytes


def test_the_serial_pins_carry_the_same(board: SimulatedBoard) -> None:
    del board  # built first: the two do not compete for the processor
    with simulate_architecture(ARCHITECTURE, link="uart") as serial:
        check(connect(serial, replace(SETTINGS, timeout_s=0.06, byte_s=10 / ARCHITECTURE.uart_baud)), 0)
