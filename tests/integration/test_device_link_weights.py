"""The driver against the RTL that gets its weights over the link: exact while it keeps up, late and right where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from link_networks import BUSY_SEED, LINKED, SEEDS, Case, foreign, network_of, other_weights
from lossy_transport import LossyTransport

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault, Opcode
from emberline.arch.link_rate import link_word_cycles
from emberline.arch.listing import decode, encode
from emberline.arch.packets import PAYLOAD_LIMIT, SUPPLY_WORDS
from emberline.arch.program import Program
from emberline.arch.timing import predict
from emberline.driver.device import Device
from emberline.driver.protocol import LinkSettings
from emberline.driver.targets import Target
from emberline.driver.transport import Transport
from emberline.errors import BuildError, DeviceError, FaultError
from emberline.model.emulator import Emulator
from emberline.simulation.board import SimulatedBoard, simulate_architecture

SETTINGS = LinkSettings(timeout_s=0.005, byte_s=2e-8, payload_bytes=PAYLOAD_LIMIT)
PAGED = replace(LINKED, name="linked-paged", program_depth_words=256)
IMPATIENT = replace(SETTINGS, timeout_s=0.0005, attempts=30)


@pytest.fixture(scope="module")
def board() -> Iterator[SimulatedBoard]:
    with simulate_architecture(LINKED) as board:
        yield board


def connect(transport: Transport, settings: LinkSettings = SETTINGS) -> Device:
    return Device(Target("rtl", transport, LINKED, settings))


def check(device: Device, case: Case, *, punctual: bool) -> int:
    """Every output of every frame is numpy's; the stalled cycles, which are none if the link is ``punctual``."""
    stalls = 0
    for number, (result, outputs) in enumerate(zip(device.stream(case.frames), case.expected, strict=True)):
        for name, codes in outputs.items():
            np.testing.assert_array_equal(result.outputs[name], codes, err_msg=f"frame {number}, {name}")
        if punctual:
            assert (result.cycles, result.stall_cycles) == (result.predicted_cycles, 0), f"frame {number}"
        # A late LOAD's time is a stall; that the next one therefore overlaps with other rows may cost a little, too.
        assert result.cycles - result.stall_cycles <= 1.1 * result.predicted_cycles <= 1.1 * result.cycles
        stalls += result.stall_cycles
    return stalls


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_keeps_up_costs_no_cycle(board: SimulatedBoard, seed: int) -> None:
    case = network_of(seed)
    assert case.program.fetched_bytes > 4 * SUPPLY_WORDS and not case.program.weights
    device = connect(board)
    device.load(case.program)
    check(device, case, punctual=True)
    check(device, case, punctual=True)


@pytest.fixture(scope="module")
def paged_board() -> Iterator[SimulatedBoard]:
    with simulate_architecture(PAGED) as board:
        yield board


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_pages_come_over_the_link_between_the_weights(paged_board: SimulatedBoard, seed: int) -> None:
    case = network_of(seed, PAGED)
    assert len(case.program.pages) > 3 and len(case.program.instructions) > PAGED.program_depth_words
    device = Device(Target("rtl", paged_board, PAGED, SETTINGS))
    device.load(case.program)
    check(device, case, punctual=True)


def test_the_emulator_gives_the_same_bytes_and_cycles(board: SimulatedBoard) -> None:
    case = network_of(2)
    emulator = Emulator(LINKED)
    emulator.load(case.program)
    device = connect(board)
    device.load(case.program)
    for frame, result in zip(case.frames, device.stream(case.frames), strict=True):
        emulated = emulator.run(frame)
        assert result.cycles == emulated.cycles
        for name, codes in emulated.results.items():
            np.testing.assert_array_equal(result.outputs[name], codes)


def hurried(program: Program) -> Program:
    """The program that announces its LOADs to come in an eighth of the time that they take."""
    instructions: list[int] = []
    for instruction in decode(program.instructions):
        fields = dict(instruction.fields)
        if instruction.opcode is Opcode.LOAD:
            fields["cycles"] = -(-fields["cycles"] // 8)
        instructions += encode(instruction.opcode, fields)
    predicted = predict(program.architecture, instructions).cycles
    return replace(program, instructions=tuple(instructions), predicted_cycles=predicted)


def test_a_link_slower_than_announced_costs_stalls_and_no_result(board: SimulatedBoard) -> None:
    case = network_of(3)
    case = replace(case, program=hurried(case.program))
    device = connect(board)
    device.load(case.program)
    assert check(device, case, punctual=False) > len(case.frames) * case.program.predicted_cycles // 4


def test_a_link_that_rows_and_results_fill_costs_stalls_and_no_result(board: SimulatedBoard) -> None:
    """All three take turns."""
    case = network_of(BUSY_SEED)
    device = connect(board)
    device.load(case.program)
    assert check(device, case, punctual=False) > 0


def test_a_line_that_pauses_costs_stalls_and_no_result(board: SimulatedBoard) -> None:
    board.stall(0.75, 0.5, seed=4, burst_log2=3)
    case = network_of(3)
    device = connect(board)
    device.load(case.program)
    assert check(device, case, punctual=False) > 0
    board.stall()


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_line_delays_and_nothing_else(board: SimulatedBoard, seed: int) -> None:
    """Flipped bits are found by the packets' checks, and what is lost or repeated by their place in the stream."""
    line = LossyTransport(board, seed, 0.2)
    case = network_of(SEEDS[seed])
    device = connect(line, IMPATIENT)
    device.load(case.program)
    check(device, case, punctual=False)
    assert line.accidents > 3


@pytest.mark.parametrize(
    ("spoil", "fault", "words"),
    [
        (foreign, Fault.WEIGHTS_CHECK, r"fault 8 \(weights_check\): another program's weights were sent; reset it"),
        (other_weights, None, r"fault [78] \(weights.*\): (another program's|the weights that were sent are damaged)"),
        (
            lambda case: replace(case.program, stream=bytes(len(case.program.stream))),
            Fault.WEIGHTS,
            r"fault 7 \(weights\): the weights that were sent are damaged, or none; reset it",
        ),
    ],
    ids=["foreign", "other", "zeros"],
)
def test_bad_weights_are_named_give_no_result_and_are_left_by_a_restart(
    board: SimulatedBoard, spoil: Callable[[Case], Program], fault: Fault | None, words: str
) -> None:
    case = network_of(3)
    device = connect(board)
    device.load(spoil(case))
    with pytest.raises(FaultError, match=rf"^rtl: the machine stopped with {words}") as caught:
        next(device.stream(case.frames))
    assert fault is None or caught.value.fault is fault
    device.load(case.program)
    check(device, case, punctual=True)


def test_a_host_that_sends_no_more_weights_leaves_a_machine_that_answers(
    board: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = network_of(4)
    device = connect(board)
    device.load(case.program)
    sent: list[int] = []

    def send_some(others_wait: bool) -> bool:
        feed = device._feed
        assert feed is not None
        if len(sent) == 3 or not feed.send(others_wait):
            return False
        sent.append(0)
        return True

    monkeypatch.setattr(device, "_send_weights", send_some)
    with pytest.raises(DeviceError, match="made no progress for .*; the machine waits for weights from the link"):
        device.run(case.frames[0])
    status = device.status()
    assert (status["running"], status["weights_awaited"], status["fault"]) == (1, 1, 0)
    assert status["free_weight_words"] == SUPPLY_WORDS
    monkeypatch.undo()
    check(device, case, punctual=True)


def test_programs_one_after_the_other_leave_each_other_nothing(board: SimulatedBoard) -> None:
    """What was sent ahead for the one before is forgotten."""
    device = connect(board)
    for seed in (3, 2, 3):
        case = network_of(seed)
        device.load(case.program)
        check(device, case, punctual=True)


def test_an_abandoned_stream_does_not_disturb_the_next_frame(board: SimulatedBoard) -> None:
    case = network_of(3)
    device = connect(board)
    device.load(case.program)
    next(device.stream(case.frames))
    check(device, case, punctual=True)


def test_a_link_that_cannot_be_that_fast_is_not_built() -> None:
    with pytest.raises(BuildError, match="'hasty' cannot be built: the link takes a byte in two cycles, .* 8, not 7"):
        Device.open("rtl", replace(LINKED, name="hasty", weight_word_cycles=7))


def test_the_serial_pins_bring_them_at_the_rate_that_is_announced(board: SimulatedBoard) -> None:
    del board  # built first: the two do not compete for the processor
    line = Architecture("linked-line", 4, 4, 2048, 256, 2048, 1, uart_baud=12_500_000, board="line")
    pace = link_word_cycles(line)
    assert 320 < pace < 340
    machine = replace(line, weight_source="link", weight_word_cycles=pace)
    case = network_of(2, machine)
    with Device.open("rtl", machine, link="uart") as device:
        device.load(case.program)
        stalls = check(device, case, punctual=False)
    assert stalls < 0.25 * len(case.frames) * case.program.predicted_cycles
