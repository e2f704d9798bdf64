"""Weights that the driver sends over the link while frames are computed, on the emulated board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_networks import BUSY_SEED, LINKED, SEEDS, Case, foreign, network_of, other_weights, same
from lossy_transport import LossyTransport

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault, Opcode
from emberline.arch.link_rate import link_word_cycles, with_link_weights
from emberline.arch.listing import decode
from emberline.arch.packets import SUPPLY_PIECE_WORDS, SUPPLY_WORDS, RequestType, identity, identity_fields
from emberline.arch.presets import preset
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.compiler.network_plan import WeightPlace
from emberline.driver.device import Device
from emberline.driver.emulated_board import EmulatedBoard, EmulatedMachine
from emberline.driver.protocol import LinkSettings
from emberline.driver.targets import Target
from emberline.driver.transport import Transport
from emberline.driver.weight_feed import ROWS_BYTES
from emberline.errors import CompileError, DeviceError, FaultError, ProgramError
from emberline.model.emulator import Emulator


class Recorder(EmulatedBoard):
    """Notes the requests that come in one piece, and may answer some of them with silence."""

    def __init__(self, architecture: Architecture = LINKED) -> None:
        super().__init__(architecture)
        self.requests: list[tuple[RequestType, int]] = []
        self.deaf: Callable[[RequestType], bool] = lambda request: False

    def write(self, data: bytes) -> None:
        request = RequestType(data[2] & 0xF)
        self.requests.append((request, int.from_bytes(data[8:10], "little")))
        if not self.deaf(request):
            super().write(data)


def connect(transport: Transport, **options: int) -> Device:
    return Device(Target("bench", transport, LINKED, LinkSettings(**options)))


def check(device: Device, case: Case) -> None:
    for result, expected in zip(device.stream(case.frames), case.expected, strict=True):
        assert same(result.outputs, expected)
        assert (result.cycles, result.stall_cycles) == (result.predicted_cycles, 0)


@pytest.fixture(scope="module")
def case() -> Case:
    """A network whose weights are more than a board keeps."""
    case = network_of(3)
    assert case.program.fetched_bytes > 2 * 4 * SUPPLY_WORDS
    return case


@pytest.mark.parametrize("seed", [*SEEDS, BUSY_SEED])
def test_random_networks_give_numpys_outputs_frame_after_frame(seed: int) -> None:
    case = network_of(seed)
    assert case.program.stream and not case.program.weights
    with Device.open("emulator", LINKED) as device:
        device.load(case.program)
        check(device, case)
        check(device, case)


def test_a_frame_takes_the_stream_in_the_order_of_its_loads(case: Case) -> None:
    program = case.program
    assert len(program.fetched_stream) == program.fetched_bytes
    emulator = Emulator(LINKED)
    emulator.load(program)
    fetched = emulator.machine.fetch_sent_weights()
    fetched.append(2 * program.fetched_stream)
    for frame, expected in zip(case.frames[:2], case.expected, strict=False):
        assert same(emulator.run(frame).results, expected)


def test_weights_and_rows_take_turns_and_neither_is_too_long(case: Case) -> None:
    """Two pieces of weights for each turn of rows, the next frame's weights while a result waits."""
    board = Recorder()
    with connect(board) as device:
        device.load(case.program)
        board.requests.clear()
        check(device, case)
    weights, rows = RequestType.WEIGHT_STREAM, RequestType.FRAME_ROWS
    kinds = [kind for kind, _ in board.requests]
    assert kinds[:3] == [weights, weights, rows]
    assert (rows, weights) in pairwise(kinds)
    assert weights in kinds[: kinds.index(RequestType.READ_RESULT)][::-1][:2]
    assert {size for kind, size in board.requests if kind is weights} == {4 * SUPPLY_PIECE_WORDS}
    row_bytes = case.program.input.row_bytes
    assert max(size for kind, size in board.requests if kind is rows) <= max(ROWS_BYTES, row_bytes)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0, 0.3))
def test_results_are_right_on_a_bad_line(case: Case, seed: int, rate: float) -> None:
    with connect(LossyTransport(EmulatedBoard(LINKED), seed, rate), attempts=100) as device:
        device.load(case.program)
        check(device, case)


def test_an_abandoned_stream_does_not_disturb_the_next_frame(case: Case) -> None:
    with connect(EmulatedBoard(LINKED)) as device:
        device.load(case.program)
        next(device.stream(case.frames))
        assert same(device.run(case.frames[2]).outputs, case.expected[2])


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
def test_bad_weights_are_a_fault_give_no_result_and_are_left_by_a_restart(
    case: Case, spoil: Callable[[Case], Program], fault: Fault | None, words: str
) -> None:
    with connect(EmulatedBoard(LINKED)) as device:
        device.load(spoil(case))
        with pytest.raises(FaultError, match=rf"^bench: the machine stopped with {words}") as caught:
            next(device.stream(case.frames))
        assert fault is None or caught.value.fault is fault
        device.load(case.program)
        check(device, case)


def test_a_line_that_loses_every_weight_is_named(case: Case) -> None:
    board = Recorder()
    with connect(board, attempts=3) as device:
        device.load(case.program)
        check(device, case)
        board.deaf = lambda request: request is RequestType.WEIGHT_STREAM
        with pytest.raises(DeviceError, match="WEIGHT_STREAM failed after 3 attempts: no answer; the machine waits"):
            device.run(case.frames[0])
        board.deaf = lambda request: False
        check(device, case)


def test_a_machine_that_gets_no_weights_is_said_to_wait_for_them(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(EmulatedBoard(LINKED)) as device:
        device.load(case.program)
        monkeypatch.setattr(device, "_send_weights", lambda others_wait: False)
        with pytest.raises(DeviceError, match="made no progress for .*; the machine waits for weights from the link"):
            device.run(case.frames[0])
        assert device.status()["weights_awaited"] == 1
        monkeypatch.undo()
        check(device, case)


def test_weights_out_of_step_are_noticed(case: Case) -> None:
    machine = EmulatedMachine(LINKED)
    board = EmulatedBoard(LINKED, machine)
    with connect(board) as device, connect(board) as other:
        device.load(case.program)
        other.load(case.program)
        other.run(case.frames[0])
        with pytest.raises(DeviceError, match="is not the next one the board expects: it was reset or fed by someone"):
            device.run(case.frames[0])


def test_programs_for_the_other_source_are_refused(case: Case) -> None:
    """LOADs are announced for their source; which one a board has, it says."""
    flash = replace(LINKED, name="flashed", weight_source="flash")
    with Device.open("emulator", flash) as device:
        assert device.architecture.weight_source == "flash"
        with pytest.raises(
            ProgramError, match="compiled for 'linked', not for 'flashed': weight_source link instead of f"
        ):
            device.load(case.program)
    with pytest.raises(DeviceError, match="the board is 'linked', not 'flashed': weight_source link instead of flash"):
        Device(Target("bench", EmulatedBoard(LINKED), flash, LinkSettings()))
    with Device(Target("bench", EmulatedBoard(LINKED), None, LinkSettings())) as device:
        assert device.architecture.fingerprint == LINKED.fingerprint != flash.fingerprint
    with pytest.raises(CompileError, match="'linked' fetches weights from the link"):
        compile_graph(case.graph, LINKED, weights=WeightPlace.FLASH)
    with pytest.raises(CompileError, match="'flashed' fetches weights from the flash"):
        compile_graph(case.graph, flash, weights=WeightPlace.LINK)


def test_a_board_with_an_unknown_source_is_impossible() -> None:
    record = identity(LINKED)
    assert identity_fields(record)["weight_source"] == "link"
    with pytest.raises(ValueError, match="weight_source 2 is unknown"):
        identity_fields(record | {"weight_source": 2})


def test_architectures_are_checked() -> None:
    with pytest.raises(ValueError, match="weight_source must be one of flash, link, not 'card'"):
        replace(LINKED, weight_source="card")
    with pytest.raises(ValueError, match="weight_source 'link' needs weight_word_cycles above 0"):
        replace(LINKED, weight_word_cycles=0)
    with pytest.raises(ValueError, match=r"weight_word_cycles must be in 0..1024, not 5000"):
        replace(LINKED, weight_source="flash", weight_word_cycles=5000)


def test_the_rate_is_the_links() -> None:
    """Ten bits a byte on a serial line, and what a packet takes beside its payload."""
    assert link_word_cycles(preset("tiny-4x4")) == 16
    board = preset("ulx3s-85f")
    line = 40 * board.clock_hz / board.uart_baud
    assert line < link_word_cycles(board) < 1.05 * line
    linked = with_link_weights(board)
    assert (linked.name, linked.weight_source) == ("ulx3s-85f-link", "link")
    assert linked.weight_word_cycles == link_word_cycles(board)
    assert with_link_weights(linked) is linked


@pytest.mark.parametrize("pace", [5343, 1 << 16])
def test_no_load_takes_longer_than_it_can_announce(pace: int) -> None:
    """On a slow line a LOAD brings fewer words."""
    machine = replace(LINKED, weight_word_cycles=pace)
    case = network_of(3, machine)
    loads = [each.fields["cycles"] for each in decode(case.program.instructions) if each.opcode is Opcode.LOAD]
    assert pace * case.program.fetched_bytes // 4 < sum(loads)
    assert max(loads) < 1 << 24 and (pace < 1 << 16 or sum(loads) > 1 << 27)
    emulator = Emulator(machine)
    emulator.load(case.program)
    assert same(emulator.run(case.frames[0]).results, case.expected[0])


def test_the_program_file_keeps_the_source(case: Case) -> None:
    again = Program.load(case.program.to_bytes())
    assert again == case.program and again.architecture.weight_source == "link"
    assert again.stream_offset == 0
    np.testing.assert_array_equal(list(again.fetched_stream), list(case.program.fetched_stream))
