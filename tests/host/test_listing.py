"""Decoding programs, and what a valid one is."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from graph_cases import Network, same
from hypothesis import given, settings
from hypothesis import strategies as st

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import Instruction, decode, encode, validate
from emberline.arch.presets import PRESETS
from emberline.compiler.compile import compile_graph
from emberline.errors import ProgramError

MACHINE = Architecture("test", 8, 4, activation_depth_words=512, weight_depth_words=256)


@pytest.fixture(scope="module")
def listing() -> list[Instruction]:
    net = Network(5, 5, 2)
    a = net.convolution("input", 4, (3, 3), padding=same(3))
    program = compile_graph(net.graph(net.add(a, net.convolution(a, 4, (3, 3), padding=same(3)))), MACHINE)
    return program.listing()


def assemble(listing: list[tuple[Opcode, dict[str, int]]]) -> list[int]:
    return [word for opcode, fields in listing for word in encode(opcode, fields)]


def pairs(listing: list[Instruction]) -> list[tuple[Opcode, dict[str, int]]]:
    return [(each.opcode, each.fields) for each in listing]


def test_encode_and_decode_are_inverse(listing: list[Instruction]) -> None:
    words = assemble(pairs(listing))
    assert decode(words) == listing
    assert validate(words, MACHINE, 5) == listing
    assert str(listing[-1]) == f"{listing[-1].address:5d}: END"


FIELDS = [
    (Opcode.SET, "value", 4096, "value 4096 is outside the 1024 groups"),
    (Opcode.LOOP, "count", 0, "count must be at least 1"),
    (Opcode.FRAME, "channels", 0, "channels must be at least 1"),
    (Opcode.FRAME, "kernel_row_bytes", 9, "kernel_row_bytes 9 is not kernel_columns \\* channels"),
    (Opcode.FRAME, "row_words", 1, "row_words 1 is not stored_columns \\* pixel_words"),
    (Opcode.FRAME, "kernel_rows", 200, "a window of .* bytes needs more than pixel_words"),
    (Opcode.FRAME, "held_rows", 4000, "held_rows 4000 need .* stored rows, the ring has"),
    (Opcode.FRAME, "start", 1, "start 1 is not word aligned"),
    (Opcode.FRAME, "end", 2, "is not whole rows"),
    (Opcode.FRAME, "end", 4000, "beyond the activation buffer"),
    (Opcode.RESULT, "words", 0, "words must be at least 1"),
    (Opcode.RESULT, "words", 600, "beyond the 1024 groups"),
    (Opcode.RESULT, "start", 3, "not word aligned"),
    (Opcode.ROW, "columns", 0, "columns must be at least 1"),
    (Opcode.ROW, "kernel_rows", 0, "kernel_rows must be at least 1"),
    (Opcode.ROW, "source_end", 0, "source ring 0..0 is empty or outside"),
    (Opcode.ROW, "target_end", 5000, "target ring .*..5000 is empty or outside the 1024 groups"),
    (Opcode.ROW, "target_step", 1000, "target_step 1000 is longer than its ring"),
    (Opcode.ROW, "source_step", 1, "source_step 1 is not word aligned"),
    (Opcode.ROW, "row_step", 3000, "row_step 3000 is longer than its ring"),
    (Opcode.ROW, "clamp_min", 127, "clamp_min is above clamp_max"),
    (Opcode.ROW, "weight_address", 255, "weights end at word .*, beyond the weight memory"),
    (Opcode.ROW, "loads", 2, "loads 2: 'test' is built without a source of weights"),
    (Opcode.ROW, "parameter_address", 256, "parameters end at word .*, beyond the weight memory"),
]


@pytest.mark.parametrize("opcode, field, value, message", FIELDS, ids=[f"{each[0].name}.{each[1]}" for each in FIELDS])
def test_operand_out_of_range_is_named(
    listing: list[Instruction], opcode: Opcode, field: str, value: int, message: str
) -> None:
    changed = pairs(listing)
    index = next(index for index, each in enumerate(changed) if each[0] is opcode)
    fields = changed[index][1] | {field: value}
    if field == "clamp_min":
        fields["clamp_max"] = 126
    changed[index] = (opcode, fields)
    with pytest.raises(ProgramError, match=f"word {listing[index].address}: {opcode.name} .*{message}"):
        validate(assemble(changed), MACHINE)


@pytest.mark.parametrize(
    "name, value", [("pad_columns", 1), ("kernel_columns", 2), ("column_stride", 2), ("stored_rows", 3)]
)
def test_a_compact_machine_stores_pixels(name: str, value: int) -> None:
    net, machine = Network(5, 5, 2), PRESETS["up5k-4x4"]
    program = compile_graph(net.graph(net.convolution("input", 4, (3, 3), padding=same(3))), machine)
    changed = pairs(program.listing())
    index = next(index for index, each in enumerate(changed) if each[0] is Opcode.FRAME)
    fields = changed[index][1] | {name: value}
    fields |= {"kernel_row_bytes": fields["kernel_columns"] * 2, "column_stride_bytes": fields["column_stride"] * 2}
    fields["row_stride_bytes"] = fields["kernel_row_bytes"]
    changed[index] = (Opcode.FRAME, fields)
    with pytest.raises(ProgramError, match=f"{name} {value}: 'up5k-4x4' stores a frame as it comes, with [015]"):
        validate(assemble(changed), machine)


POOL_FIELDS = [
    ({"pool_window": 4}, "pool_window 4 is not in 1..3"),
    ({"pool_stride": 0}, "pool_stride and pool_columns must be at least 1"),
    ({"pool_first": 2}, "pool_first 2 is not below pool_window 2"),
    ({"copy_pointer": 1, "target_pointer": 1}, "copy_pointer is the target's"),
    ({"pool_columns": 9}, "the last of 9 maxima lies beyond the row"),
    ({"pool_columns": 6, "pool_stride": 1, "columns": 4}, "the last of 6 maxima lies beyond|more than one maximum"),
    (
        {"pool_columns": 4, "pool_stride": 1, "pool_first": 1, "pool_window": 3, "columns": 4},
        "more than one maximum ends",
    ),
    ({"copy_end": 0}, "copy ring .*..0 is empty or outside"),
]


@pytest.mark.parametrize("changes, message", POOL_FIELDS, ids=[str(each[0]) for each in POOL_FIELDS])
def test_wrong_pool_is_named(changes: dict[str, int], message: str) -> None:
    net = Network(6, 6, 2)
    program = compile_graph(net.graph(net.max_pool(net.convolution("input", 4, (1, 1)), (2, 2), (2, 2))), MACHINE)
    changed = pairs(program.listing())
    index = next(index for index, each in enumerate(changed) if each[0] is Opcode.ROW)
    fields = changed[index][1] | changes
    changed[index] = (Opcode.ROW, fields)
    with pytest.raises(ProgramError, match=f"ROW .*({message})"):
        validate(assemble(changed), MACHINE)


DEPTHWISE_FIELDS = [
    ({"kernel_rows": 4}, "kernel_rows 4 is above 3"),
    ({"kernel_columns": 2}, "kernel_columns must be 1, not 2"),
    ({"channel_words": 2}, "channel_words must be 1, not 2"),
    ({"hold_weight": 1}, "hold_weight and depthwise exclude each other"),
    ({"pool_window": 2}, "pool_window must be 1, not 2"),
    ({"combine": 1}, "combine and depthwise exclude each other"),
    ({"copy": 1}, "depthwise with copy: 'test' is built without pairs of rows"),
    ({"pool_first": 3}, "the last of . maxima lies beyond the row"),
    ({"lead": 15}, "lead 15 is too long"),
    ({"groups": 2, "pool_first": 1}, "column 1 on are stored, . parameter words are loaded before"),
]


@pytest.mark.parametrize("changes, message", DEPTHWISE_FIELDS, ids=[str(each[0]) for each in DEPTHWISE_FIELDS])
def test_wrong_depthwise_row_is_named(changes: dict[str, int], message: str) -> None:
    net = Network(6, 6, 2)
    net.convolution(net.convolution("input", 4, (1, 1)), 4, (3, 3), groups=4)
    changed = pairs(compile_graph(net.graph(), MACHINE).listing())
    index = next(index for index, each in enumerate(changed) if each[1].get("depthwise"))
    changed[index] = (Opcode.ROW, changed[index][1] | changes)
    with pytest.raises(ProgramError, match=f"ROW .*({message})"):
        validate(assemble(changed), MACHINE)


def test_depthwise_row_has_as_many_source_rows_as_two_rows_need() -> None:
    machine = replace(MACHINE, lanes_out=8, requantisers=4)
    net = Network(6, 6, 2)
    net.convolution(net.convolution("input", 4, (1, 1)), 4, (3, 3), groups=4)
    changed = pairs(compile_graph(net.graph(), machine).listing())
    index = next(index for index, each in enumerate(changed) if each[1].get("depthwise") and each[1]["copy"])
    for rows in (5, 6):
        fields = changed[index][1] | {"kernel_rows": rows}
        words = assemble([*changed[:index], (Opcode.ROW, fields), *changed[index + 1 :]])
        if rows == 5:
            validate(words, machine)
        else:
            with pytest.raises(ProgramError, match="ROW depthwise: kernel_rows 6 is above 5"):
                validate(words, machine)


def test_depthwise_row_needs_the_mode() -> None:
    net = Network(6, 6, 2)
    net.convolution(net.convolution("input", 4, (1, 1)), 4, (3, 3), groups=4)
    words = list(compile_graph(net.graph(), MACHINE).instructions)
    with pytest.raises(ProgramError, match="ROW depthwise: 'test' is built without this mode"):
        validate(words, replace(MACHINE, depthwise_columns=0))


def test_addition_and_pool_exclude_each_other(listing: list[Instruction]) -> None:
    changed = [(opcode, fields | {"pool": 1} if fields.get("add") else fields) for opcode, fields in pairs(listing)]
    with pytest.raises(ProgramError, match="ROW add and pool exclude each other"):
        validate(assemble(changed), MACHINE)


def test_wrong_sum_clamp_is_named(listing: list[Instruction]) -> None:
    changed = [(opcode, fields | {"sum_min": 5, "sum_max": 4} if fields.get("add") else fields) for opcode, fields in
               pairs(listing)]  # fmt: skip
    with pytest.raises(ProgramError, match="sum_min is above sum_max"):
        validate(assemble(changed), MACHINE)


def end(**_: int) -> tuple[Opcode, dict[str, int]]:
    return (Opcode.END, {})


def test_wrong_order_is_named(listing: list[Instruction]) -> None:
    whole = pairs(listing)
    begin = next(index for index, each in enumerate(whole) if each[0] is Opcode.BEGIN)
    row = next(each for each in whole if each[0] is Opcode.ROW)
    loop, close = (Opcode.LOOP, {"count": 2}), (Opcode.NEXT, {})
    head, body = whole[:begin], whole[begin + 1 :]
    start = whole[begin]
    cases = {
        "LOOP belongs between BEGIN and END": [*head, loop, *body],
        "ROW belongs between": [*head, row, *body],
        "END belongs between": [*head, end()],
        "BEGIN needs a FRAME and a RESULT before it": [*head[1:], start, *body],
        "FRAME occurs twice": [head[0], *head, start, *body],
        "BEGIN occurs twice": [*head, start, start, *body],
        "NEXT closes no loop": [*head, start, row, close, end()],
        "NEXT closes no loop, or an empty one": [*head, start, loop, close, end()],
        "nested more than 2 deep": [*head, start, loop, loop, loop, row, close, close, close, end()],
        "a loop is still open": [*head, start, loop, row, end()],
        "without an END": [*head, start, row],
    }
    for message, changed in cases.items():
        with pytest.raises(ProgramError, match=message):
            validate(assemble(changed), MACHINE)
    with pytest.raises(ProgramError, match="something follows the END"):
        validate([*assemble(whole), 0], MACHINE)


def test_wrong_words_are_named(listing: list[Instruction]) -> None:
    words = assemble(pairs(listing))
    with pytest.raises(ProgramError, match="word 0: opcode 15 does not exist"):
        decode([15, *words[1:]])
    with pytest.raises(ProgramError, match="word 0: END has bits set above its last field"):
        decode([1 << 31])
    with pytest.raises(ProgramError, match=r"word 0: FRAME needs \d words, 1 are left"):
        decode(words[:1])
    with pytest.raises(ProgramError, match="stops after word 0"):
        decode([])
    with pytest.raises(ProgramError, match=rf"{len(words)} program words, the machine holds 64"):
        validate(words, Architecture("tiny", 8, 4, 512, 256, program_depth_words=64))
    with pytest.raises(ProgramError, match="releases 5 of the 6 rows"):
        validate(words, MACHINE, 6)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.data())
@settings(max_examples=200, deadline=None)
def test_any_words_are_valid_or_refused(listing: list[Instruction], noise: list[int], data: st.DataObject) -> None:
    words = assemble(pairs(listing))
    position = data.draw(st.integers(0, len(words)))
    for candidate in (noise, [*words[:position], *noise, *words[position:]], [*words[:position], *noise]):
        with contextlib.suppress(ProgramError):
            assert validate(candidate, MACHINE)


LOAD = {"source": 4096, "length": 64, "address": 250, "words": 6, "cycles": 300, "check": 0xFFFFFFFF, "page": 0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": 2}, "source 2 is not a multiple of 4"),
        ({"length": 66}, "length 66 is not a multiple of 4"),
        ({"length": 0}, "length must be at least 1"),
        ({"words": 0}, "words must be at least 1"),
        ({"cycles": 0}, "cycles must be at least 1"),
        ({"words": 7}, "ends at word 257, beyond the weight memory"),
    ],
)
def test_loads(listing: list[Instruction], changes: dict[str, int], reason: str) -> None:
    streaming = replace(MACHINE, weight_word_cycles=16)

    def program(load: dict[str, int]) -> list[int]:
        return assemble([*pairs(listing)[:-1], (Opcode.LOAD, load), (Opcode.END, {})])

    assert validate(program(LOAD), streaming)[-2].fields == LOAD
    with pytest.raises(ProgramError, match="LOAD 'test' is built without a source of weights"):
        validate(program(LOAD), MACHINE)
    with pytest.raises(ProgramError, match=f"word .*: LOAD {reason}"):
        validate(program(LOAD | changes), streaming)
