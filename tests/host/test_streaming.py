"""Weights that are fetched while rows are computed: where they lie, when they come, what happens if they are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fetched import LIMITS, MACHINE, chain, equal_to_model, refused
from random_graphs import random_frames, random_graph

from emberline.arch.isa import LOAD_QUEUE, NO_WAIT, Opcode
from emberline.arch.listing import encode
from emberline.arch.program import Program
from emberline.arch.timing import predict
from emberline.compiler.compile import compile_graph
from emberline.compiler.fetch import Fetcher, Part
from emberline.compiler.network_plan import WeightPlace
from emberline.compiler.streaming import WeightsDoNotFitError
from emberline.errors import CompileError, ProgramError


def weight_words(program: Program) -> int:
    return len(program.weights) // program.architecture.multipliers


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_with_fetched_weights_equal_the_model(seed: int) -> None:
    """In a memory that is made smaller until nothing fits."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, LIMITS)
    frames = random_frames(rng, graph, 2)
    resident = compile_graph(graph, replace(MACHINE, weight_depth_words=65536), weights=WeightPlace.RESIDENT)
    words, programs = weight_words(resident), 0
    for share in (1.0, 0.7, 0.5, 0.35, 0.25):
        machine = replace(MACHINE, weight_depth_words=max(16, int(words * share)))
        try:
            program = compile_graph(graph, machine, weights=WeightPlace.FLASH)
        except CompileError:
            break
        equal_to_model(program, graph, frames)
        assert not program.weights
        assert sum(layer.stored_bytes for layer in program.layers) == len(program.stream) <= program.fetched_bytes
        timing = predict(machine, program.instructions)
        assert timing.cycles == program.predicted_cycles == sum(layer.spent.total for layer in program.layers)
        programs += 1
    assert programs


def test_weights_that_fit_stay_and_others_are_fetched_once() -> None:
    graph = chain()
    large = replace(MACHINE, weight_depth_words=4096)
    assert compile_graph(graph, large).fetched_bytes == 0
    program = compile_graph(graph, replace(MACHINE, weight_depth_words=512), weights=WeightPlace.FLASH)
    assert not program.weights
    assert program.fetched_bytes == len(program.stream) > 0
    equal_to_model(program, graph, random_frames(np.random.default_rng(0), graph, 2))


def test_weights_of_the_first_layers_stay_where_that_saves_cycles() -> None:
    """They are in the memory before the first frame, no LOAD writes over them, and their rows wait for none."""
    graph = chain()
    machine = replace(MACHINE, weight_depth_words=768)
    program = compile_graph(graph, machine)
    fetched = compile_graph(graph, machine, weights=WeightPlace.FLASH)
    words = weight_words(program)
    assert 0 < words <= machine.weight_depth_words // 8
    assert program.predicted_cycles < fetched.predicted_cycles
    assert program.layers[0].spent.weights == 0 < fetched.layers[0].spent.weights
    listing = program.listing()
    loads = [each.fields for each in listing if each.opcode is Opcode.LOAD]
    assert loads and all(fields["address"] >= words for fields in loads)
    rows = [each.fields for each in listing if each.opcode is Opcode.ROW]
    assert rows[0]["weight_address"] < words and rows[0]["loads"] == NO_WAIT
    assert program.layers[0].stored_bytes == 0 < fetched.layers[0].stored_bytes
    assert sum(layer.stored_bytes for layer in program.layers) == len(program.stream) == program.fetched_bytes
    assert program.fetched_bytes < fetched.fetched_bytes
    assert sum(layer.weight_bytes for layer in program.layers) == sum(layer.weight_bytes for layer in fetched.layers)
    equal_to_model(program, graph, random_frames(np.random.default_rng(0), graph, 3))


def test_fetching_takes_no_time_where_rows_take_longer() -> None:
    """But for the first weights: those of later layers come meanwhile."""
    graph = chain()
    spent = {}
    for pace in (1, 16):
        machine = replace(MACHINE, weight_depth_words=512, weight_word_cycles=pace)
        program = compile_graph(graph, machine, weights=WeightPlace.FLASH)
        spent[pace] = [layer.spent.weights for layer in program.layers]
    assert sum(spent[1][1:]) < 0.2 * sum(spent[16][1:])
    assert spent[1][0] > 0


def test_no_more_loads_wait_than_the_queue_holds() -> None:
    """Where the sequencer would wait for the queue, a LOAD comes later in the program."""
    graph = chain(layers=10, channels=8)
    program = compile_graph(graph, replace(MACHINE, weight_depth_words=2048), weights=WeightPlace.FLASH)
    first = next(index for index, each in enumerate(program.listing()) if each.opcode is Opcode.ROW)
    before = [each.opcode for each in program.listing()[:first]]
    assert 1 <= before.count(Opcode.LOAD) <= LOAD_QUEUE


def test_what_does_not_fit_is_named() -> None:
    graph = chain()
    with pytest.raises(WeightsDoNotFitError, match="the weights need .* in all, .* available on 'test'"):
        compile_graph(graph, MACHINE, weights=WeightPlace.RESIDENT)
    with pytest.raises(WeightsDoNotFitError, match="the weights need"):
        compile_graph(graph, replace(MACHINE, weight_word_cycles=0))
    with pytest.raises(CompileError, match="'test' is built without a source of weights"):
        compile_graph(graph, replace(MACHINE, weight_word_cycles=0), weights=WeightPlace.FLASH)
    with pytest.raises(CompileError, match="layer 'conv.*': needs .* of weights .* available on 'test'"):
        compile_graph(graph, replace(MACHINE, weight_depth_words=32))


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_graph(chain(), replace(MACHINE, weight_depth_words=512))


def test_damaged_weights_are_refused(program: Program) -> None:
    stream = bytearray(program.stream)
    stream[len(stream) // 2] ^= 4
    refused(replace(program, stream=bytes(stream)), r"word \d+: LOAD of \d+ bytes from byte \d+ .*: weight block \d+: ")
    refused(replace(program, stream=program.stream[:-4]), "LOAD of .*: there is nothing")
    refused(replace(program, stream=bytes(len(stream))), "weight block 0: identifier 0x0 instead of")


def test_another_programs_weights_are_refused(program: Program) -> None:
    load = next(each for each in program.listing() if each.opcode is Opcode.LOAD)
    size = program.architecture.multipliers * load.fields["words"]
    fetch = Fetcher(program.architecture).fetch([Part("other", bytes(size), 0)])
    stream = bytearray(program.stream)
    first = load.fields["source"] - program.stream_offset
    words = list(program.instructions)
    changed = {**load.fields, "length": len(fetch.data)}
    words[load.address : load.address + load.word_count] = encode(Opcode.LOAD, changed)
    stream[first : first + len(fetch.data)] = fetch.data
    refused(replace(program, stream=bytes(stream), instructions=tuple(words)), "the blocks are another program's")
    changed["check"] = fetch.check
    changed["words"] -= 1
    words[load.address : load.address + load.word_count] = encode(Opcode.LOAD, changed)
    refused(replace(program, stream=bytes(stream), instructions=tuple(words)), "decodes to .* bytes instead of")


def test_a_row_that_does_not_wait_for_its_weights_is_refused(program: Program) -> None:
    words = list(program.instructions)
    row = next(each for each in program.listing() if each.opcode is Opcode.ROW and each.fields["loads"] < LOAD_QUEUE)
    words[row.address : row.address + row.word_count] = encode(Opcode.ROW, {**row.fields, "loads": 15})
    refused(replace(program, instructions=tuple(words)), "uses weight words .* of which a LOAD may not be complete")


def test_the_program_file_holds_the_stream(program: Program) -> None:
    data = program.to_bytes()
    again = Program.load(data)
    assert (again.stream, again.stream_offset) == (program.stream, program.stream_offset)
    assert again == program
    for changes in ({"stream": program.stream[:-4]}, {"stream_offset": program.stream_offset + 4}):
        with pytest.raises(ProgramError, match=r"word \d+: LOAD fetches what is not in the program's \d+ bytes"):
            Program.load(replace(program, **changes).to_bytes())


@pytest.mark.parametrize("pace", [1, 4, 5, 16])
def test_the_announced_cycles_are_those_of_the_slower_side(pace: int) -> None:
    """Two readers wait for each other now and then."""
    machine = replace(MACHINE, weight_word_cycles=pace)
    weights = np.random.default_rng(0).laplace(scale=8, size=1 << 16).round().clip(-127, 127).astype(np.int8)
    fetch = Fetcher(machine).fetch([Part("layer", weights.tobytes(), 0)])
    slower = max(pace * len(fetch.data) // 4, len(weights) // (2 if machine.decodes_wide else 1))
    assert slower < fetch.cycles < (1.1 if pace == 1 else 1.02) * slower
