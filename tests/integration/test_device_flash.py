"""The driver against the RTL with a flash: weights that are fetched, and what goes wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from random_graphs import Limits, random_frames, random_graph

from emberline.arch.architecture import Architecture
from emberline.arch.flash import is_double_rate
from emberline.arch.isa import Fault, Opcode
from emberline.arch.listing import decode
from emberline.arch.packets import PAYLOAD_LIMIT
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.compiler.network_plan import WeightPlace
from emberline.driver.device import Device
from emberline.driver.protocol import LinkSettings
from emberline.driver.targets import Target
from emberline.errors import BuildError, DeviceError, FaultError
from emberline.model import network
from emberline.simulation.board import SimulatedBoard, simulate_architecture
from emberline.simulation.flash import FLASH_BYTES, IDENTITY, SINGLE_IDENTITY

ARCHITECTURE = Architecture("flash-test", 4, 4, 2048, 256, 2048, 1, weight_word_cycles=16)
DOUBLE = replace(ARCHITECTURE, name="double-rate-test", weight_word_cycles=8)
PAIR = replace(ARCHITECTURE, name="pair-test", weight_word_cycles=4)
PAGED = replace(ARCHITECTURE, name="paged-test", program_depth_words=128)
SETTINGS = LinkSettings(timeout_s=0.005, byte_s=2e-8, payload_bytes=PAYLOAD_LIMIT)
LIMITS = Limits(max_size=10, max_blocks=3, max_channels=12)
FRAMES = 3

Codes = NDArray[np.int8]


@pytest.fixture(scope="module", params=[ARCHITECTURE, DOUBLE, PAIR], ids=["single", "double", "pair"])
def architecture(request: pytest.FixtureRequest) -> Architecture:
    machine: Architecture = request.param
    return machine


@pytest.fixture(scope="module")
def board(architecture: Architecture) -> Iterator[SimulatedBoard]:
    with simulate_architecture(architecture) as board:
        yield board


@pytest.fixture
def device(board: SimulatedBoard, architecture: Architecture) -> Device:
    """A device whose flash is whole."""
    board.replace_flash(IDENTITY)
    return Device(Target("rtl", board, architecture, SETTINGS, board.write_flash))


def network_of(architecture: Architecture, seed: int) -> tuple[Program, Codes, list[dict[str, Codes]]]:
    """A random network whose weights are fetched: its program, frames, and the outputs that numpy gives."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, LIMITS)
    frames = random_frames(rng, graph, FRAMES)
    outputs = network.run(graph, frames)
    expected = [{name: outputs[name][index] for name in graph.outputs} for index in range(FRAMES)]
    return compile_graph(graph, architecture, weights=WeightPlace.FLASH), frames, expected


def check(device: Device, frames: Codes, expected: list[dict[str, Codes]]) -> None:
    for result, outputs in zip(device.stream(frames), expected, strict=True):
        assert result.stall_cycles or result.cycles == result.predicted_cycles
        for name, codes in outputs.items():
            np.testing.assert_array_equal(result.outputs[name], codes, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_networks_with_fetched_weights_give_numpys_outputs(
    device: Device, architecture: Architecture, seed: int
) -> None:
    program, frames, expected = network_of(architecture, seed)
    assert program.stream and not program.weights
    device.load(program)
    check(device, frames, expected)


def spoil(program: Program, kind: str, board: SimulatedBoard) -> None:
    """Make something wrong with the flash of a board that runs the program."""
    if kind == "flipped bit":
        flip(program, len(program.stream) // 4, board)
    elif kind == "truncated":
        at = len(program.stream) // 2 // 4 * 4
        board.write_flash(program.stream_offset + at, b"\xff" * (len(program.stream) - at))
    elif kind == "empty":
        board.write_flash(program.stream_offset, b"\xff" * len(program.stream))
    elif kind == "another program's":
        board.write_flash(program.stream_offset, other_weights(program).stream)
    else:
        board.replace_flash({"absent": 0, "stuck": 0xFFFFFF, "unknown": 0x123456}[kind])


def flip(program: Program, at: int, board: SimulatedBoard) -> None:
    """Flip a bit of the word that byte ``at`` of the stored weights is in."""
    at = at // 4 * 4
    word = bytearray(program.stream[at : at + 4])
    word[1] ^= 8
    board.write_flash(program.stream_offset + at, bytes(word))


def other_weights(program: Program) -> Program:
    """The same network with its output channels in another order: nearly the same blocks in nearly the same places."""
    rng = np.random.default_rng(1)
    graph = random_graph(rng, LIMITS)
    layers = [
        replace(layer, weights=layer.weights[::-1].copy()) if hasattr(layer, "weights") else layer
        for layer in graph.layers
    ]
    other = compile_graph(replace(graph, layers=tuple(layers)), program.architecture, weights=WeightPlace.FLASH)
    assert other.stream != program.stream
    return other


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("absent", Fault.FLASH_ABSENT, r"fault 4 \(flash_absent\): the flash with the weights does not answer"),
        ("stuck", Fault.FLASH_ABSENT, r"fault 4 \(flash_absent\): the flash with the weights does not answer"),
        ("unknown", Fault.FLASH_UNKNOWN, r"fault 5 \(flash_unknown\): it is not known how this make of flash"),
        ("flipped bit", Fault.WEIGHTS, r"fault 7 \(weights\): the flash holds damaged weights, or none; it must hold"),
        (
            "truncated",
            Fault.WEIGHTS,
            r"fault 7 \(weights\): .* those of 'random.*' from byte 0x400000 on[^;]*; reset it",
        ),
        ("empty", Fault.WEIGHTS, r"fault 7 \(weights\): the flash holds damaged weights, or none"),
        ("another program's", None, r"fault [78] \(weights.*\): the flash holds .* it must hold those of"),
    ],
)
def test_a_bad_flash_is_named_gives_no_result_and_is_left_by_a_restart(
    board: SimulatedBoard, device: Device, kind: str, fault: Fault | None, words: str
) -> None:
    program, frames, expected = network_of(device.architecture, 1)
    device.load(program)
    check(device, frames[:1], expected[:1])
    spoil(program, kind, board)
    device.reset()
    with pytest.raises(FaultError, match=rf"^rtl: the machine stopped with {words}") as caught:
        next(device.stream(frames))
    assert fault is None or caught.value.fault is fault
    board.replace_flash(IDENTITY)
    board.write_flash(program.stream_offset, program.stream)
    check(device, frames, expected)


def test_a_flash_that_goes_bad_in_a_frame_costs_that_frame_only(board: SimulatedBoard, device: Device) -> None:
    """Results from before are right, and so are those after the restart."""
    program, frames, expected = network_of(device.architecture, 1)
    device.load(program)
    results = device.stream(frames)
    first = next(results)
    spoil(program, "flipped bit", board)
    given = [first]
    with pytest.raises(FaultError):
        given.extend(results)
    assert len(given) < FRAMES
    for result, outputs in zip(given, expected, strict=False):
        for name, codes in outputs.items():
            np.testing.assert_array_equal(result.outputs[name], codes)
    board.write_flash(program.stream_offset, program.stream)
    check(device, frames, expected)


def test_a_flipped_bit_is_found_or_changes_nothing(board: SimulatedBoard, device: Device) -> None:
    program, frames, expected = network_of(device.architecture, 1)
    device.load(program)
    found = 0
    for at in range(0, len(program.stream), 236):
        flip(program, at, board)
        device.reset()
        try:
            result = device.run(frames[0])
        except FaultError:
            found += 1
        else:
            for name, codes in expected[0].items():
                np.testing.assert_array_equal(result.outputs[name], codes, err_msg=f"byte {at}")
        board.write_flash(program.stream_offset, program.stream)
    assert found > 4


def test_a_machine_with_another_flash_than_announced_is_refused() -> None:
    """A slower one would cost stalls; a program that counts on a faster one is not even loaded."""
    expected = replace(ARCHITECTURE, name="expected", weight_word_cycles=32)
    with simulate_architecture(ARCHITECTURE) as board, pytest.raises(DeviceError, match="weight_word_cycles 16 instea"):
        Device(Target("rtl", board, expected, SETTINGS, board.write_flash))
    with pytest.raises(BuildError, match="'hasty' cannot be built: .* multiple of 4, not 6"):
        Device.open("rtl", replace(ARCHITECTURE, name="hasty", weight_word_cycles=6))


def test_a_flash_without_double_rate_is_named_where_that_is_needed(board: SimulatedBoard, device: Device) -> None:
    """It is never read wrongly: at single rate it gives its weights, at double rate a fault."""
    program, frames, expected = network_of(device.architecture, 1)
    device.load(program)
    board.replace_flash(SINGLE_IDENTITY)
    device.reset()
    if is_double_rate(device.architecture):
        words = r"fault 9 \(flash_rate\): this make of flash is not known to give data at both edges of its clock"
        with pytest.raises(FaultError, match=words) as caught:
            next(device.stream(frames))
        assert caught.value.fault is Fault.FLASH_RATE
        board.replace_flash(IDENTITY)
    check(device, frames, expected)


def test_programs_that_fetch_one_after_the_other(device: Device) -> None:
    """Each has its own weights in the flash; LOADs are in both."""
    for seed in (0, 2, 0):
        program, frames, expected = network_of(device.architecture, seed)
        assert any(each.opcode is Opcode.LOAD for each in decode(program.instructions))
        device.load(program)
        check(device, frames[:1], expected[:1])


@pytest.fixture(scope="module")
def small_board() -> Iterator[SimulatedBoard]:
    """With an instruction memory that the program does not fit."""
    with simulate_architecture(PAGED) as board:
        yield board


@pytest.mark.parametrize("page", [1, 2, -1])
def test_a_bad_page_is_named_gives_no_result_and_is_left_by_a_restart(small_board: SimulatedBoard, page: int) -> None:
    program, frames, expected = network_of(PAGED, 1)
    assert len(program.pages) > 3
    device = Device(Target("rtl", small_board, PAGED, SETTINGS, small_board.write_flash))
    device.load(program)
    check(device, frames, expected)
    loads = [each.fields for each in decode(program.instructions) if each.opcode is Opcode.LOAD and each.fields["page"]]
    load = loads[page - 1 if page > 0 else page]
    flip(program, load["source"] - program.stream_offset + load["length"] // 2, small_board)
    device.reset()
    with pytest.raises(FaultError, match=r"fault 7 \(weights\): the flash holds damaged weights") as caught:
        next(device.stream(frames))
    assert caught.value.fault is Fault.WEIGHTS
    small_board.write_flash(program.stream_offset, program.stream)
    check(device, frames, expected)


def test_the_emulated_board_runs_pages() -> None:
    program, frames, expected = network_of(PAGED, 1)
    with Device.open("emulator", PAGED) as device:
        device.load(program)
        check(device, frames, expected)


def test_a_flash_that_was_empty_is_written_before_the_machine_finds_out_how_to_read_it(
    board: SimulatedBoard, architecture: Architecture
) -> None:
    """However long the writing takes: at double rate few positions are right, and an empty flash tells none of them."""
    program, frames, expected = network_of(architecture, 1)
    board.replace_flash(IDENTITY)
    board.write_flash(0, b"\xff" * FLASH_BYTES)

    def write_slowly(offset: int, data: bytes) -> None:
        board.advance(40_000)
        board.write_flash(offset, data)

    device = Device(Target("rtl", board, architecture, SETTINGS, write_slowly))
    device.load(program)
    check(device, frames, expected)
