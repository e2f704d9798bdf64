"""Programs as lists of instructions: decoded from words, and checked against a machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.arch.compact_timing import can_scale
from emberline.arch.frame_rows import FrameRows
from emberline.arch.isa import (
    ADD,
    LAYOUTS,
    LOOP_DEPTH,
    MAX_DEPTHWISE_ROWS,
    MAX_PAIR_ROWS,
    MAX_POOL_WINDOW,
    NO_WAIT,
    POOL,
    Opcode,
    row_word_count,
)
from emberline.arch.layout import WORD_WIDTH, Layout
from emberline.arch.pages import check_pages
from emberline.errors import ProgramError


@dataclass(frozen=True)
class Instruction:
    """One decoded instruction.

    Parameters:
        address: of its first word.
        opcode: what it does.
        fields: by name, without ``opcode``; a ``ROW`` has the fields of its ``ADD`` or ``POOL`` too.
    """

    address: int
    opcode: Opcode
    fields: dict[str, int]

    @property
    def word_count(self) -> int:
        return row_word_count(self.fields) if self.opcode is Opcode.ROW else LAYOUTS[self.opcode].word_count

    def __str__(self) -> str:
        values = " ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{self.address:5d}: {self.opcode.name} {values}".rstrip()


def encode(opcode: Opcode, fields: dict[str, int]) -> list[int]:
    """The words of one instruction; ``ValueError`` names a field that is missing, unknown or out of range."""
    more = _second_layout(fields)
    if more is None:
        return LAYOUTS[opcode].pack({"opcode": opcode, **fields})
    second = {field.name: fields[field.name] for field in more.fields if field.name in fields}
    first = {name: value for name, value in fields.items() if name not in second}
    return LAYOUTS[opcode].pack({"opcode": opcode, **first}) + more.pack(second)


def _second_layout(fields: Mapping[str, int]) -> Layout | None:
    """What follows a ROW with these fields."""
    return ADD if fields.get("add") else POOL if fields.get("pool") else None


def decode(words: Sequence[int]) -> list[Instruction]:
    """The instructions of a program up to and including its ``END``.

    Raises ``ProgramError``, naming the word, for an unknown opcode, bits set above an instruction's fields, and an
    instruction or a program that is cut off.
    """
    return _decode(words, (Opcode.END,))


def decode_page(words: Sequence[int]) -> list[Instruction]:
    """`decode` of a program's first page: up to and including its ``JUMP``, or ``END``."""
    return _decode(words, (Opcode.END, Opcode.JUMP))


def _decode(words: Sequence[int], last: tuple[Opcode, ...]) -> list[Instruction]:
    instructions: list[Instruction] = []
    address = 0
    while address < len(words):
        code = words[address] & 0xF
        if code not in LAYOUTS:
            raise ProgramError(f"word {address}: opcode {code} does not exist")
        opcode = Opcode(code)
        fields = _unpack(LAYOUTS[opcode], words, address)
        del fields["opcode"]
        more = _second_layout(fields)
        if more is not None:
            fields |= _unpack(more, words, address + LAYOUTS[opcode].word_count)
        instructions.append(Instruction(address, opcode, fields))
        address += instructions[-1].word_count
        if opcode in last:
            return instructions
    raise ProgramError(f"the program stops after word {len(words)} without an END")


def _unpack(layout: Layout, words: Sequence[int], address: int) -> dict[str, int]:
    record = list(words[address : address + layout.word_count])
    if len(record) < layout.word_count:
        raise ProgramError(f"word {address}: {layout.name} needs {layout.word_count} words, {len(record)} are left")
    spare = layout.word_count * WORD_WIDTH - layout.width
    if spare and record[-1] >> (WORD_WIDTH - spare):
        raise ProgramError(f"word {address}: {layout.name} has bits set above its last field")
    return layout.unpack(record)


def validate(words: Sequence[int], architecture: Architecture, frame_rows: int | None = None) -> list[Instruction]:
    """Decode a program and check everything that does not need to run it.

    Checked: the order prologue, ``BEGIN``, ``END``; loops closed and at most two deep; every operand's range; frame,
    result, rings, weights and parameters inside the memories; pages fetched to where they are executed; with
    ``frame_rows``, that a frame releases exactly that many rows. Where the pointers go is checked by the emulator.

    Raises ``ProgramError`` naming the word and the operand.
    """
    instructions = decode(words)
    if instructions[-1].address + 1 != len(words):
        raise ProgramError(f"word {instructions[-1].address + 1}: something follows the END")
    _check_order(instructions)
    for instruction in instructions:
        try:
            _check_operands(instruction, architecture)
        except _Refusal as refusal:
            raise ProgramError(f"word {instruction.address}: {instruction.opcode.name} {refusal}") from None
    check_pages(instructions, architecture)
    if frame_rows is not None:
        released = sum(row.fields["release_rows"] * count for row, count in _weighted_rows(instructions))
        if released != frame_rows:
            raise ProgramError(f"the program releases {released} of the {frame_rows} rows of a frame")
    return instructions


def unroll(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """The instructions in their order of execution, ``LOOP`` and ``NEXT`` too, up to and including ``END``.

    The loops of ``instructions`` must be closed, as those of valid programs are.
    """
    loops: list[list[int]] = []
    index = 0
    while True:
        instruction = instructions[index]
        yield instruction
        index += 1
        match instruction.opcode:
            case Opcode.LOOP:
                loops.append([index, instruction.fields["count"]])
            case Opcode.NEXT:
                loops[-1][1] -= 1
                if loops[-1][1]:
                    index = loops[-1][0]
                else:
                    loops.pop()
            case Opcode.END:
                return


class _Refusal(Exception):
    pass


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Refusal(reason)


def _check_order(instructions: list[Instruction]) -> None:
    begun, depth, empty = False, 0, False
    seen: set[Opcode] = set()
    for instruction in instructions:
        opcode, where = instruction.opcode, f"word {instruction.address}: {instruction.opcode.name}"
        if opcode in (Opcode.FRAME, Opcode.RESULT, Opcode.BEGIN):
            if opcode in seen:
                raise ProgramError(f"{where} occurs twice")
            if begun:
                raise ProgramError(f"{where} belongs before BEGIN")
            if opcode is Opcode.BEGIN and not {Opcode.FRAME, Opcode.RESULT} <= seen:
                raise ProgramError(f"{where} needs a FRAME and a RESULT before it")
            seen.add(opcode)
            begun = opcode is Opcode.BEGIN
        elif opcode is not Opcode.SET and not begun:
            raise ProgramError(f"{where} belongs between BEGIN and END")
        depth += (opcode is Opcode.LOOP) - (opcode is Opcode.NEXT)
        if depth < 0 or (opcode is Opcode.NEXT and empty):
            raise ProgramError(f"{where} closes no loop, or an empty one")
        if depth > LOOP_DEPTH:
            raise ProgramError(f"{where}: loops are nested more than {LOOP_DEPTH} deep")
        if opcode is Opcode.END and depth:
            raise ProgramError(f"{where}: a loop is still open")
        empty = opcode is Opcode.LOOP


def _weighted_rows(instructions: Iterable[Instruction]) -> Iterable[tuple[Instruction, int]]:
    """Every ROW with how often a frame executes it."""
    counts = [1]
    for instruction in instructions:
        if instruction.opcode is Opcode.LOOP:
            counts.append(counts[-1] * instruction.fields["count"])
        elif instruction.opcode is Opcode.NEXT:
            counts.pop()
        elif instruction.opcode is Opcode.ROW:
            yield instruction, counts[-1]


def _check_operands(instruction: Instruction, architecture: Architecture) -> None:
    f, groups = instruction.fields, architecture.groups_per_word
    depth = architecture.activation_depth_groups
    match instruction.opcode:
        case Opcode.SET:
            _require(f["value"] < depth, f"value {f['value']} is outside the {depth} groups")
        case Opcode.LOOP:
            _require(f["count"] >= 1, "count must be at least 1")
        case Opcode.FRAME:
            _check_frame(f, architecture)
        case Opcode.RESULT:
            _require(f["start"] % groups == 0, f"start {f['start']} is not word aligned")
            _require(f["words"] >= 1, "words must be at least 1")
            _require(f["start"] + f["words"] * groups <= depth, f"region ends beyond the {depth} groups")
        case Opcode.ROW:
            _check_row(f, architecture)
        case Opcode.LOAD:
            _check_load(f, architecture)
        case Opcode.JUMP:
            _require(architecture.streams, f"'{architecture.name}' is built without a source of pages")


def _check_load(f: dict[str, int], architecture: Architecture) -> None:
    _require(architecture.streams, f"'{architecture.name}' is built without a source of weights")
    for name in ("source", "length"):
        _require(f[name] % 4 == 0, f"{name} {f[name]} is not a multiple of 4")
    for name in ("length", "words", "cycles"):
        _require(f[name] >= 1, f"{name} must be at least 1")
    last = f["address"] + f["words"]
    _require(
        bool(f["page"]) or last <= architecture.weight_depth_words, f"ends at word {last}, beyond the weight memory"
    )


def _check_frame(f: dict[str, int], architecture: Architecture) -> None:
    groups, lanes = architecture.groups_per_word, architecture.lanes_in
    zeros = ("zero", "pad_rows", "pad_columns", "start")
    for name in f:
        _require(name in zeros or f[name] >= 1, f"{name} must be at least 1")
    products = {
        "kernel_row_bytes": ("kernel_columns", "channels"),
        "column_stride_bytes": ("column_stride", "channels"),
        "row_stride_bytes": ("row_stride", "kernel_row_bytes"),
        "row_words": ("stored_columns", "pixel_words"),
    }
    for name, (a, b) in products.items():
        _require(f[name] == f[a] * f[b], f"{name} {f[name]} is not {a} * {b}")
    window = f["kernel_rows"] * f["kernel_row_bytes"]
    _require(window <= f["pixel_words"] * lanes, f"a window of {window} bytes needs more than pixel_words")
    for name in ("start", "end"):
        _require(f[name] % groups == 0, f"{name} {f[name]} is not word aligned")
    _require(f["end"] <= architecture.activation_depth_groups, f"ring ends at {f['end']}, beyond the activation buffer")
    rows, rest = divmod(f["end"] - f["start"], f["row_words"] * groups)
    _require(rows >= 1 and not rest, f"ring {f['start']}..{f['end']} is not whole rows")
    needed = FrameRows.of(f).ring_rows(f["held_rows"])
    _require(needed <= rows, f"held_rows {f['held_rows']} need {needed} stored rows, the ring has {rows}")
    if architecture.compact:
        _check_compact_frame(f, architecture)


def _check_compact_frame(f: dict[str, int], architecture: Architecture) -> None:
    """A stored pixel is a pixel, with no more words than it needs."""
    pixels = {"pad_rows": 0, "pad_columns": 0, "stored_rows": f["rows"], "stored_columns": f["columns"]}
    pixels |= dict.fromkeys(("kernel_rows", "kernel_columns", "row_stride", "column_stride"), 1)
    pixels["pixel_words"] = -(-f["channels"] // architecture.lanes_in)
    for name, value in pixels.items():
        _require(f[name] == value, f"{name} {f[name]}: '{architecture.name}' stores a frame as it comes, with {value}")


def _check_row(f: dict[str, int], architecture: Architecture) -> None:
    groups, depth = architecture.groups_per_word, architecture.activation_depth_groups
    for name in ("kernel_rows", "kernel_columns", "channel_words", "columns", "groups"):
        _require(f[name] >= 1, f"{name} must be at least 1")
    _require(not (f["add"] and f["pool"]), "add and pool exclude each other")
    third = ("residual",) if f["add"] else ("copy",) if f["pool"] else ()
    for ring in ("source", "target", *third):
        start, end, step = f[f"{ring}_start"], f[f"{ring}_end"], f[f"{ring}_step"]
        _require(start < end <= depth, f"{ring} ring {start}..{end} is empty or outside the {depth} groups")
        _require(step <= end - start, f"{ring}_step {step} is longer than its ring")
    for name in ("source_start", "source_end", "source_step", "row_step"):
        _require(f[name] % groups == 0, f"{name} {f[name]} is not word aligned")
    _require(f["row_step"] <= f["source_end"] - f["source_start"], f"row_step {f['row_step']} is longer than its ring")
    _require(f["clamp_min"] <= f["clamp_max"], "clamp_min is above clamp_max")
    _require(not f["add"] or f["sum_min"] <= f["sum_max"], "sum_min is above sum_max")
    if f["depthwise"]:
        _check_depthwise(f, architecture)
    if f["pool"]:
        _check_pool(f)
    taps = f["kernel_rows"] * f["kernel_columns"] * f["channel_words"]
    if architecture.compact:
        _check_compact(f, taps, architecture)
    last = f["weight_address"] + (f["groups"] - 1) * f["weight_step"] + (1 if f["hold_weight"] else taps)
    _require(last <= architecture.weight_depth_words, f"weights end at word {last}, beyond the weight memory")
    last = f["parameter_address"] + f["groups"] * architecture.parameter_words * (groups if f["depthwise"] else 1)
    _require(last <= architecture.weight_depth_words, f"parameters end at word {last}, beyond the weight memory")
    _require(f["lead"] < (f["columns"] if f["depthwise"] else 1), f"lead {f['lead']} is too long")
    _require(
        f["loads"] == NO_WAIT or architecture.streams,
        f"loads {f['loads']}: '{architecture.name}' is built without a source of weights",
    )


def _check_compact(f: dict[str, int], taps: int, architecture: Architecture) -> None:
    cache = architecture.weight_cache_words
    _require(not f["pool"], f"pool: '{architecture.name}' is built without maxima")
    _require(bool(f["hold_weight"]) or taps <= cache, f"{taps} weight words do not fit the cache of {cache}")
    for name in ("result_shift", "residual_shift", "sum_shift") if f["add"] else ():
        _require(can_scale(0, f[name]), f"{name} {f[name]} is too far for '{architecture.name}'")


def _check_depthwise(f: dict[str, int], architecture: Architecture) -> None:
    _require(architecture.depthwise_columns > 0, f"depthwise: '{architecture.name}' is built without this mode")
    pair = bool(f["pool"] and f["copy"])
    built = not pair or architecture.pairs_rows
    _require(built, f"depthwise with copy: '{architecture.name}' is built without pairs of rows")
    most = MAX_PAIR_ROWS if pair else MAX_DEPTHWISE_ROWS
    _require(f["kernel_rows"] <= most, f"depthwise: kernel_rows {f['kernel_rows']} is above {most}")
    for name in ("kernel_columns", "channel_words"):
        _require(f[name] == 1, f"depthwise: {name} must be 1, not {f[name]}")
    for name in ("add", "hold_weight"):
        _require(not f[name], f"{name} and depthwise exclude each other")
    first = f["pool_first"] if f["pool"] else 0
    parameters = architecture.groups_per_word * architecture.parameter_words
    _require(
        f["groups"] == 1 or first * f["kernel_rows"] >= parameters,
        f"depthwise: results from column {first} on are stored, {parameters} parameter words are loaded before",
    )
    if f["pool"]:
        _require(f["pool_window"] == 1, f"depthwise: pool_window must be 1, not {f['pool_window']}")
        _require(not f["combine"], "combine and depthwise exclude each other")


def _check_pool(f: dict[str, int]) -> None:
    window, stride, columns = f["pool_window"], f["pool_stride"], f["pool_columns"]
    _require(1 <= window <= MAX_POOL_WINDOW, f"pool_window {window} is not in 1..{MAX_POOL_WINDOW}")
    _require(stride >= 1 and columns >= 1, "pool_stride and pool_columns must be at least 1")
    early = f["pool_first"] < window or bool(f["depthwise"])
    _require(early, f"pool_first {f['pool_first']} is not below pool_window {window}")
    _require(f["copy_pointer"] != f["target_pointer"], "copy_pointer is the target's")
    last = f["pool_first"] + (columns - 1) * stride
    _require(last - window + 1 < f["columns"], f"the last of {columns} maxima lies beyond the row")
    one_each = columns == 1 or last - stride < min(last, f["columns"] - 1)
    _require(one_each, "more than one maximum ends with the row's last column")
