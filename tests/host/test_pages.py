"""Programs that are longer than the instruction memory: how they are cut, when pages come, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fetched import LIMITS, MACHINE, chain, equal_to_model, refused
from random_graphs import random_frames, random_graph

from emberline.arch import timing
from emberline.arch.isa import LOAD_QUEUE, Opcode
from emberline.arch.listing import decode, encode, unroll, validate
from emberline.arch.pages import pages
from emberline.arch.program import Program
from emberline.arch.timing import predict
from emberline.cli.report import compile_report
from emberline.compiler.compile import compile_graph
from emberline.compiler.loops import Loop, Token
from emberline.compiler.network_plan import WeightPlace
from emberline.compiler.pages import make_pages
from emberline.errors import CompileError, EmulationError, ProgramError
from emberline.model.emulator import Emulator

SMALL = replace(MACHINE, program_depth_words=128, weight_depth_words=512)


@pytest.mark.parametrize("seed", [1, 2, 4, 9])
@pytest.mark.parametrize("place", [WeightPlace.RESIDENT, WeightPlace.FLASH])
def test_random_networks_in_pages_equal_the_model(seed: int, place: WeightPlace) -> None:
    """Several frames, through memories of a few instructions."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, LIMITS)
    frames = random_frames(rng, graph, 3)
    machine = replace(MACHINE, weight_depth_words=4096 if place is WeightPlace.RESIDENT else 512)
    whole = compile_graph(graph, machine, weights=place)
    for depth in (160, 96):
        program = compile_graph(graph, replace(machine, program_depth_words=depth), weights=place)
        if len(whole.instructions) <= depth:
            assert program.instructions == whole.instructions
            continue
        assert len(program.pages) > 1
        equal_to_model(program, graph, frames)
        cycles = predict(program.architecture, program.instructions).cycles
        assert cycles == program.predicted_cycles == sum(layer.spent.total for layer in program.layers)
        assert Program.load(program.to_bytes()) == program


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_graph(chain(), SMALL)


def test_pages_take_turns_behind_the_first(program: Program) -> None:
    first, *others = program.pages
    assert first.address == 0
    assert [page.address for page in others] == [44, 86] * (len(others) // 2) + [44] * (len(others) % 2)
    assert all(page.end <= SMALL.program_depth_words for page in program.pages)
    assert program.resident_instructions == program.instructions[: first.words]
    assert sum(page.words for page in program.pages) == len(program.instructions)
    report = compile_report(program, None)
    assert (report["pages"], report["instructions"]) == (len(program.pages), len(program.instructions))


def test_a_program_that_fits_has_one_page_and_a_machine_without_a_flash_refuses_others() -> None:
    graph = chain(3)
    resident = replace(MACHINE, weight_depth_words=4096)
    whole = compile_graph(graph, resident)
    assert len(whole.pages) == 1 and not whole.stream
    exact = replace(resident, program_depth_words=len(whole.instructions))
    assert compile_graph(graph, exact).instructions == whole.instructions
    tight = replace(exact, program_depth_words=len(whole.instructions) - 1)
    assert len(compile_graph(graph, tight).pages) > 1
    with pytest.raises(CompileError, match="layer 'conv.*': the program needs .* of instruction memory available"):
        compile_graph(graph, replace(tight, weight_word_cycles=0))


def test_a_long_loop_is_unrolled_and_a_longer_instruction_is_refused(program: Program) -> None:
    fields = next(each.fields for each in program.listing() if each.opcode is Opcode.ROW)
    row = Token("conv", tuple(encode(Opcode.ROW, fields)), is_row=True)
    begin = Token("", tuple(encode(Opcode.BEGIN, {"wait_rows": 0})))
    words = make_pages([begin, Loop(5, [row] * 3), Loop(7, [row])], SMALL, 0).words  # 41 and 15 words, 36 a page
    found = decode(words)
    assert [each.fields["count"] for each in found if each.opcode is Opcode.LOOP] == [7]
    assert sum(each.opcode is Opcode.ROW for each in unroll(found)) == 5 * 3 + 7
    nodes = [begin, Token("wide", (7,) * 25)]
    reason = "layer 'wide': an instruction of 25 words is longer than a page .* of 'test' can hold, 15 words"
    with pytest.raises(CompileError, match=reason):
        make_pages(nodes, replace(MACHINE, program_depth_words=64), 0)
    nodes = [*[Token("", tuple(encode(Opcode.SET, {"pointer": 0, "value": 0})))] * 30, *nodes[:1]]
    with pytest.raises(CompileError, match="the prologue alone fills a third of the instruction memory of 'test'"):
        make_pages(nodes, replace(MACHINE, program_depth_words=64), 0)


def changed(program: Program, opcode: Opcode, number: int, **changes: int) -> list[int]:
    """The program's words, with changes to one of its JUMPs or pages' LOADs."""
    words = list(program.instructions)
    found = [
        each for each in program.listing() if each.opcode is opcode and (opcode is Opcode.JUMP or each.fields["page"])
    ]
    each = found[number]
    words[each.address : each.address + each.word_count] = encode(opcode, {**each.fields, **changes})
    return words


@pytest.mark.parametrize(
    ("opcode", "number", "changes", "reason"),
    [
        (Opcode.JUMP, 0, {"address": 43}, r"word \d+: JUMP goes to \d+ words at 43, LOAD fetches \d+ to 44"),
        (Opcode.LOAD, 0, {"words": 7}, r"word \d+: JUMP goes to \d+ words at 44, LOAD fetches 7 to 44"),
        (Opcode.LOAD, 1, {"page": 0}, r"word \d+: JUMP follows 0 LOADs of a page instead of one"),
        (Opcode.JUMP, 1, {"address": 120}, r"the page from word \d+ on needs \d+ program words, the machine holds 128"),
    ],
)
def test_pages_that_are_not_where_they_are_executed_are_refused(
    program: Program, opcode: Opcode, number: int, changes: dict[str, int], reason: str
) -> None:
    words = changed(program, opcode, number, **changes)
    with pytest.raises(ProgramError, match=f"^{reason}"):
        validate(words, SMALL)


def test_pages_that_overwrite_others_are_refused(program: Program) -> None:
    for number, address in ((0, 10), (1, program.pages[1].address)):
        words = changed(program, Opcode.JUMP, number, address=address)
        load = [each for each in decode(words) if each.fields.get("page")][number]
        words[load.address : load.address + load.word_count] = encode(Opcode.LOAD, {**load.fields, "address": address})
        with pytest.raises(ProgramError, match=r"word \d+: JUMP goes to a page that overwrites the one at \d+"):
            validate(words, SMALL)


def test_jumps_belong_between_begin_and_end_outside_loops(program: Program) -> None:
    words = list(program.instructions)
    loop, following = encode(Opcode.LOOP, {"count": 2}), encode(Opcode.NEXT, {})
    jump = next(each for each in program.listing() if each.opcode is Opcode.JUMP)
    inside = [*words[: jump.address], *loop, *words[jump.address : jump.address + 1], *following]
    with pytest.raises(ProgramError, match=r"word \d+: JUMP of a page belongs between BEGIN and END, outside loops"):
        validate([*inside, *words[jump.address + 1 :]], replace(SMALL, program_depth_words=512))
    begin = next(each for each in program.listing() if each.opcode is Opcode.BEGIN)
    early = [*words[: begin.address], *words[jump.address : jump.address + 1], *words[begin.address :]]
    with pytest.raises(ProgramError, match=r"word \d+: JUMP belongs between BEGIN and END"):
        validate(early, SMALL)
    with pytest.raises(ProgramError, match="JUMP 'test' is built without a source of pages"):
        validate([*words[: begin.address + 1], words[jump.address], 0], replace(SMALL, weight_word_cycles=0))


def test_a_damaged_or_missing_page_is_refused(program: Program) -> None:
    load = next(each for each in program.listing() if each.opcode is Opcode.LOAD and each.fields["page"])
    at = load.fields["source"] - program.stream_offset
    stream = bytearray(program.stream)
    stream[at + load.fields["length"] // 2] ^= 4
    reason = rf"word {load.address}: LOAD of \d+ bytes from byte \d+ of the flash on: weight block 0: "
    refused(replace(program, stream=bytes(stream)), reason)
    emulator = Emulator(SMALL)
    emulator.load(program)
    emulator.machine._instruction_memory[:] = 0
    other = list(program.instructions)
    other[program.pages[1].first] ^= 1 << 20
    emulator.machine._words = other
    with pytest.raises(EmulationError, match=r"word \d+: JUMP goes on where word 44 of the instruction memory is not"):
        emulator.run(np.zeros(program.input.map.shape, np.int8))


def test_the_clock_counts_pages_and_weights_apart() -> None:
    """A ROW waits for LOADs of weights only, a JUMP for those of pages, behind weights that come before."""
    head = timing.HEAD_CYCLES + 4
    clock = timing.FrameClock(SMALL)
    clock.load({"cycles": 1000, "page": 0})
    clock.load({"cycles": 2000, "page": 1})
    row = {"add": 0, "pool": 0, "fence": 0, "depthwise": 0, "hold_weight": 0, "idle": 6, "lead": 0, "loads": 0} | {
        "kernel_rows": 3, "kernel_columns": 3, "channel_words": 1, "columns": 10, "groups": 2
    }  # fmt: skip
    first = clock.row(row)
    weights = 1 + head + timing.LOAD_START + 1000
    assert first.fetch + first.weights == weights + timing.LOADED_ROW
    clock.jump()
    second = clock.row(row)
    jumped = weights + timing.LOAD_START + 2000 + timing.LOADED_JUMP + 1
    ready = jumped + timing.HEAD_CYCLES + 12 + 2 + timing.POINTER_CYCLES
    assert first.total + second.fetch + second.weights - 1 == ready
    assert second.fetch < 20 and second.weights > 1000
    clock.jump()  # nothing is waited for any more
    assert clock.row(row).fetch == 0


def test_a_pages_load_stands_where_the_queue_has_room(program: Program) -> None:
    """Behind the rows during which the first of four LOADs becomes complete; at once where none is under way."""
    fields = {**next(each.fields for each in program.listing() if each.opcode is Opcode.ROW), "loads": 15, "fence": 0}
    load = next(each.fields for each in program.listing() if each.opcode is Opcode.LOAD and not each.fields["page"])
    row = Token("conv", tuple(encode(Opcode.ROW, fields)), is_row=True)
    loads = [Token("conv", tuple(encode(Opcode.LOAD, {**load, "cycles": 1000})))] * LOAD_QUEUE
    begin = Token("", tuple(encode(Opcode.BEGIN, {"wait_rows": 0})))
    machine = replace(SMALL, program_depth_words=390)
    words = make_pages([begin, *[row] * 7, *loads, *[row] * 12], machine, 0).words
    instructions = decode(words)
    second = [each for each in instructions if each.address >= pages(instructions)[1].first]
    places = [
        next(index for index, each in enumerate(part) if each.opcode is Opcode.LOAD and each.fields["page"])
        for part in (instructions, second)
    ]
    cycles = timing.row_cycles(machine, fields)
    assert places[0] == 1  # behind BEGIN
    assert places[1] == pytest.approx(1000 / cycles, abs=2) and places[1] > 1
