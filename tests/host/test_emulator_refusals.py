"""Programs executed word by word: whatever is illegal in them is refused, by its name."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from emulator_cases import machine
from graph_cases import Network, same
from random_graphs import random_frames

from emberline.arch.isa import Opcode
from emberline.arch.listing import encode
from emberline.arch.program import Program
from emberline.compiler.compile import compile_graph
from emberline.errors import EmulationError, ImageError, ProgramError
from emberline.model.emulator import Emulator
from emberline.model.machine import Machine


@pytest.fixture
def small() -> tuple[Program, Machine, bytes]:
    """Two layers and a sum, compiled for a machine that has just the memory; its bytes of a frame."""
    net = Network(4, 4, 4)
    a = net.convolution("input", 4, (3, 3), padding=same(3))
    graph = net.graph(net.add(a, net.convolution(a, 4, (3, 3), padding=same(3))))
    architecture = machine(4, 4, 2 * 16 + 7 * 4)
    program = compile_graph(graph, architecture)
    loaded = Machine(architecture)
    loaded.load_weights(program.weights)
    return program, loaded, random_frames(np.random.default_rng(0), graph, 1).tobytes()


def patched(program: Program, opcode: Opcode, number: int, **changes: int) -> list[int]:
    """The program with fields of the ``number``-th instruction of a kind replaced."""
    words: list[int] = []
    for instruction in program.listing():
        fields = instruction.fields
        if instruction.opcode is opcode:
            if number == 0:
                assert set(changes) <= set(fields)
                fields = fields | changes
            number -= 1
        words += encode(instruction.opcode, fields)
    return words


def rows(program: Program) -> list[dict[str, int]]:
    return [each.fields for each in program.listing() if each.opcode is Opcode.ROW]


def test_small_case_runs(small: tuple[Program, Machine, bytes]) -> None:
    program, loaded, frame = small
    loaded.load_program(list(program.instructions))
    assert loaded.run_frame(frame) == loaded.run_frame(frame)
    assert len(rows(program)) == 6


ILLEGAL = [
    (Opcode.ROW, 3, {"fence": 0}, "needs a fence, as the ROW before it has no residual addition"),
    (Opcode.ROW, 3, {"hold_result": 0}, "writes the result without hold_result"),
    (Opcode.ROW, 5, {"row_words": 100, "columns": 16, "idle": 9}, "reads up to group .*, beyond its ring"),
    (Opcode.ROW, 0, {"row_words": 100, "columns": 16, "kernel_rows": 1}, "reads a frame row that .* released"),
    (Opcode.ROW, 0, {"target_pixel_step": 60}, "target row ends at group .* beyond its ring"),
    (Opcode.ROW, 3, {"target_start": 0, "target_end": 8}, "target pointer . is .*, outside 0..8"),
    (Opcode.ROW, 3, {"residual_pixel_step": 40}, "residual row ends at group .* beyond its ring"),
    (Opcode.ROW, 3, {"source_step": 1, "columns": 1}, "reads up to group .*, beyond its ring"),
    (
        Opcode.ROW,
        0,
        {"release_rows": 3},
        "releases 3 frame rows before they arrived|reads a frame row that .* released",
    ),
    (Opcode.ROW, 0, {"wait_rows": 100}, "waits for 100 frame rows"),
    (Opcode.BEGIN, 0, {"wait_rows": 1}, "reads frame row 1 of the 1 that it has waited for"),
    (Opcode.ROW, 2, {"release_rows": 0}, "released 2 rows of a frame of 4|of the"),
]


@pytest.mark.parametrize("opcode, number, changes, message", ILLEGAL, ids=[str(each[2]) for each in ILLEGAL])
def test_illegal_programs_are_named(
    small: tuple[Program, Machine, bytes], opcode: Opcode, number: int, changes: dict[str, int], message: str
) -> None:
    program, loaded, frame = small
    loaded.load_program(patched(program, opcode, number, **changes))
    with pytest.raises(EmulationError, match=message):
        loaded.run_frame(frame)


def test_missing_fence_and_too_little_idle() -> None:
    net = Network(4, 4, 4)
    graph = net.graph(net.convolution(net.average_pool("input", (4, 4)), 4, (1, 1)))
    architecture = machine(4, 4, requantisers=1)
    program = compile_graph(graph, architecture)
    frame = random_frames(np.random.default_rng(0), graph, 1).tobytes()
    loaded = Machine(architecture)
    loaded.load_weights(program.weights)
    loaded.load_program(patched(program, Opcode.ROW, 1, fence=0))
    with pytest.raises(EmulationError, match="reads source group .* while it is being written: no fence"):
        loaded.run_frame(frame)
    loaded.load_program(patched(program, Opcode.ROW, 1, idle=0))
    with pytest.raises(EmulationError, match="idle 0 is below the minimum"):
        loaded.run_frame(frame)


@pytest.fixture(scope="module")
def pair() -> tuple[Program, Machine, bytes]:
    """Depthwise rows: the first, the two between, the last; then a pool whose second row combines with its first."""
    net = Network(4, 6, 8)
    x = net.convolution("input", 8, (3, 3), groups=8, padding=same(3))
    graph = net.graph(x, net.max_pool(net.convolution(x, 8, (1, 1)), (2, 2), (2, 2)))
    architecture = machine(8, 8, requantisers=8)
    program = compile_graph(graph, architecture)
    loaded = Machine(architecture)
    loaded.load_weights(program.weights)
    return program, loaded, random_frames(np.random.default_rng(0), graph, 1).tobytes()


def test_pair_of_rows_runs(pair: tuple[Program, Machine, bytes]) -> None:
    program, loaded, frame = pair
    found = [(row["depthwise"], row["kernel_rows"], row["copy"]) for row in rows(program)]
    assert found[:3] == [(1, 2, 0), (1, 4, 1), (1, 2, 0)]
    loaded.load_program(list(program.instructions))
    assert loaded.run_frame(frame) == loaded.run_frame(frame)


WRONG_PAIRS = [
    (1, {"copy_step": 1, "copy_start": 0, "copy_end": 9}, "copy pointer . is .*, outside 0..9"),
    (0, {"copy_step": 0}, "copies into its own target row"),
    (1, {"idle": 0, "kernel_rows": 1}, "idle 0 is below the minimum 1"),
    (1, {"pool_first": 1, "pool_columns": 7, "columns": 8}, "from column 1 on, its kernel is 3 columns wide"),
]


@pytest.mark.parametrize("number, changes, message", WRONG_PAIRS)
def test_wrong_pairs_are_named(
    pair: tuple[Program, Machine, bytes], number: int, changes: dict[str, int], message: str
) -> None:
    program, loaded, frame = pair
    loaded.load_program(patched(program, Opcode.ROW, number, **changes))
    with pytest.raises(EmulationError, match=message):
        loaded.run_frame(frame)


def test_errors_name_the_instruction(small: tuple[Program, Machine, bytes]) -> None:
    program, loaded, frame = small
    loaded.load_program(patched(program, Opcode.BEGIN, 0, wait_rows=1))
    address = next(each.address for each in program.listing() if each.opcode is Opcode.ROW)
    with pytest.raises(EmulationError, match=f"^word {address}: ROW reads"):
        loaded.run_frame(frame)


def test_row_must_not_write_into_the_frame_ring(small: tuple[Program, Machine, bytes]) -> None:
    program, loaded, frame = small
    number = next(
        index
        for index, each in enumerate(each for each in program.listing() if each.opcode is Opcode.SET)
        if each.fields["pointer"] == rows(program)[0]["target_pointer"]
    )
    words = patched(program, Opcode.SET, number, value=0)
    changed = replace(program, instructions=tuple(words))
    loaded.load_program(patched(changed, Opcode.ROW, 0, target_start=0))
    with pytest.raises(EmulationError, match="into the frame ring"):
        loaded.run_frame(frame)


def test_frames_of_another_size(small: tuple[Program, Machine, bytes]) -> None:
    program, loaded, frame = small
    loaded.load_program(list(program.instructions))
    good = loaded.run_frame(frame)
    for wrong in (b"", frame[:-1], frame + b"\0"):
        with pytest.raises(EmulationError, match=re.escape(f"a frame of {len(wrong)} bytes is not whole rows of 16")):
            loaded.run_frame(wrong)
    assert loaded.run_frame(frame) == good


def test_before_anything_is_loaded() -> None:
    architecture = machine(4, 4)
    with pytest.raises(EmulationError, match="no program is loaded"):
        Machine(architecture).run_frame(b"1234")
    with pytest.raises(EmulationError, match="no program is loaded"):
        Emulator(architecture).run(np.zeros((1, 1, 1), np.int8))
    with pytest.raises(EmulationError, match="17 bytes of weights at word 0"):
        Machine(architecture).load_weights(bytes(17))


def test_emulator_checks_program_and_frame(small: tuple[Program, Machine, bytes]) -> None:
    program = small[0]
    with pytest.raises(ProgramError, match="activation_depth_words 60 instead of 61"):
        Emulator(replace(program.architecture, activation_depth_words=61)).load(program)
    emulator = Emulator(program.architecture)
    emulator.load(program)
    with pytest.raises(ImageError, match=r"takes int8 \(4, 4, 4\), not int8 \(4, 4, 3\)"):
        emulator.run(np.zeros((4, 4, 3), np.int8))
    with pytest.raises(ImageError, match="not uint8"):
        emulator.run(np.zeros((4, 4, 4), np.uint8))
