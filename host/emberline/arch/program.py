"""The compiled program and its file.

A ``.ember`` file is little endian::

    8 bytes   magic "EMBER\\r\\n\\x1a"
    u32       format version
    u32 x 4   bytes of the header, of the instructions, of the weights, of the flash's contents
    header    UTF-8 JSON: everything of ``Program`` but the next three
    words     instructions, 32 bit each
    bytes     weight image: words in order, in a word lane by lane, ``lanes_in`` bytes each
    bytes     compressed weights that are fetched from the flash, or over the link; pages of the program from the flash
    32 bytes  SHA-256 of everything before
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from emberline.arch.architecture import PROGRAM_FIELDS, Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import Instruction, decode, unroll, validate
from emberline.arch.pages import Page, pages
from emberline.arch.records import from_json, to_json
from emberline.arch.timing import Spent
from emberline.errors import ProgramError

MAGIC = b"EMBER\r\n\x1a"
FORMAT_VERSION = 3
_PREFIX = struct.Struct("<8sIIIII")
_DIGEST_BYTES = 32
_SECTIONS = ("instructions", "weights", "stream")
"""What is not in the header."""


@dataclass(frozen=True)
class MapInfo:
    """A feature map: int8 ``[height, width, channels]``, ``real = scale * (code - zero_point)``."""

    name: str
    height: int
    width: int
    channels: int
    scale: float
    zero_point: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)


@dataclass(frozen=True)
class InputMap:
    """The frame and how it travels: ``map.height`` rows of ``map.width`` pixels of ``pixel_bytes`` each.

    ``pixel_bytes`` is ``map.channels``, or more where channels are filled up with zero points.
    """

    map: MapInfo
    pixel_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.map.width * self.pixel_bytes

    @property
    def frame_bytes(self) -> int:
        return self.map.height * self.row_bytes


@dataclass(frozen=True)
class OutputMap:
    """A map in the result: pixel ``(y, x)`` begins at byte ``first_byte + y * row_bytes + x * pixel_bytes``.

    ``positions`` are the bytes of the channels within a pixel, in the channels' order.
    """

    map: MapInfo
    first_byte: int
    row_bytes: int
    pixel_bytes: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class HostLayer:
    """What the host computes from one map: ``kind`` is ``flatten`` or ``softmax``; ``beta`` is the softmax's."""

    name: str
    kind: str
    input: str
    output: MapInfo
    beta: float = 1.0


@dataclass(frozen=True)
class LayerReport:
    """A row of the table that the compiler prints: ``cycles`` are predicted, bytes are weight memory.

    ``spent``: where the cycles go; its total is ``cycles``. ``rows``: the word addresses of its ROWs.
    ``stored_bytes``: what is stored to be fetched for it.
    """

    name: str
    kind: str
    macs: int
    cycles: int
    weight_bytes: int
    spent: Spent = field(default_factory=Spent)
    rows: tuple[int, ...] = ()
    stored_bytes: int = 0


@dataclass(frozen=True)
class Region:
    """Groups ``start`` to ``end`` of the activation buffer: ``role`` is frame, map or result.

    In use from layer ``first_layer`` to ``last_layer`` of the table; the frame and the result always.
    """

    name: str
    role: str
    start: int
    end: int
    first_layer: int
    last_layer: int


@dataclass(frozen=True)
class Program:
    """A network compiled for a machine.

    Parameters:
        network: its name.
        architecture: the machine; its fingerprint decides where the program runs.
        input: the frame.
        outputs: what the result holds.
        results: names of the network's own outputs, among ``outputs`` and the host layers'.
        predicted_cycles: of one frame, from the start until everything is written.
        layers, memory: for people.
        instructions: 32-bit words, of all pages.
        weights: the weight image from word 0.
        stream: compressed weights and pages. They lie in the flash from byte ``stream_offset`` on, or come over the
            link as ``fetched_stream`` has them.
        labels: class names, if the network is a classifier.
        preprocessing: how photographs become frames; free-form.
    """

    network: str
    architecture: Architecture
    input: InputMap
    outputs: tuple[OutputMap, ...]
    results: tuple[str, ...]
    host_layers: tuple[HostLayer, ...]
    predicted_cycles: int
    layers: tuple[LayerReport, ...]
    memory: tuple[Region, ...]
    instructions: tuple[int, ...]
    weights: bytes
    stream: bytes = b""
    stream_offset: int = 0
    labels: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def result_bytes(self) -> int:
        """Bytes of one result on the link."""
        words = next(each.fields["words"] for each in decode(self.instructions) if each.opcode is Opcode.RESULT)
        return words * self.architecture.lanes_in

    @cached_property
    def pages(self) -> list[Page]:
        """The parts of the instructions that lie in the instruction memory together; one if all of them do."""
        return pages(decode(self.instructions))

    @property
    def resident_instructions(self) -> tuple[int, ...]:
        """What the instruction memory holds, from word 0 on, before the program is started: all, or the first page."""
        return self.instructions[: self.pages[0].words] if self.stream else self.instructions

    @cached_property
    def fetched_bytes(self) -> int:
        """Bytes of weights that one frame fetches."""
        return sum(length for _, length in self._fetches)

    @cached_property
    def fetched_stream(self) -> bytes:
        """Those bytes, in the order in which its LOADs take them: what a link has to bring for every frame."""
        pieces = ((source - self.stream_offset, length) for source, length in self._fetches)
        return b"".join(self.stream[first : first + length] for first, length in pieces)

    @cached_property
    def _fetches(self) -> tuple[tuple[int, int], ...]:
        """``source`` and ``length`` of one frame's LOADs."""
        loads = (each.fields for each in unroll(decode(self.instructions)) if each.opcode is Opcode.LOAD)
        return tuple((load["source"], load["length"]) for load in loads)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one frame."""
        return sum(layer.macs for layer in self.layers)

    @property
    def utilisation(self) -> float:
        """Useful share of what the multipliers could do in the predicted cycles."""
        return self.macs / (self.predicted_cycles * self.architecture.multipliers)

    def listing(self) -> list[Instruction]:
        """The decoded instructions; raises ``ProgramError`` where they are not valid for the architecture."""
        return validate(self.instructions, self.architecture, self.input.map.height)

    def check_architecture(self, architecture: Architecture) -> None:
        """Raise ``ProgramError``, naming what differs, unless the program runs on ``architecture``."""
        if self.architecture.fingerprint == architecture.fingerprint:
            return
        ours, theirs = asdict(self.architecture), asdict(architecture)
        differences = [
            f"{name} {ours[name]} instead of {theirs[name]}" for name in PROGRAM_FIELDS if ours[name] != theirs[name]
        ]
        raise ProgramError(
            f"program '{self.network}' was compiled for '{self.architecture.name}', not for '{architecture.name}': "
            + ", ".join(differences)
        )

    def to_bytes(self) -> bytes:
        """The file's contents."""
        header = {name: value for name, value in to_json(self).items() if name not in _SECTIONS}
        header["fingerprint"] = self.architecture.fingerprint
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
        code = struct.pack(f"<{len(self.instructions)}I", *self.instructions)
        sections = (text, code, self.weights, self.stream)
        body = b"".join([_PREFIX.pack(MAGIC, FORMAT_VERSION, *map(len, sections)), *sections])
        return body + hashlib.sha256(body).digest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one step: readers see the old one or the whole new one."""
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_bytes())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes) -> Program:
        """Read and check a file or its contents.

        Raises ``ProgramError``, naming the file and what is wrong with it; ``OSError`` where it cannot be read.
        """
        where = "program" if isinstance(source, bytes) else str(source)
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            return _parse(data)
        except ProgramError as error:
            raise ProgramError(f"{where}: {error}") from None


def _parse(data: bytes) -> Program:
    header, code, weights, stream = _sections(data)
    try:
        entries = json.loads(header)
        fingerprint = entries.pop("fingerprint")
        entries["instructions"] = list(struct.unpack(f"<{len(code) // 4}I", code))
        entries["weights"] = entries["stream"] = ""
        hints = {name: entries[name] for name in entries}
        program = from_json(_TextProgram, hints, "header").finish(weights, stream)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProgramError(f"the header is damaged: {error}") from None
    if program.architecture.fingerprint != fingerprint:
        raise ProgramError("the header is damaged: the architecture does not have the fingerprint that it states")
    _check_sizes(program)
    program.listing()
    return program


def _sections(data: bytes) -> list[bytes]:
    """Header, instructions, weights and the flash's contents, after checking magic, version, lengths and checksum."""
    if len(data) < _PREFIX.size or data[: len(MAGIC)] != MAGIC:
        kind = "is empty" if not data else "is not an Emberline program (its first bytes differ)"
        raise ProgramError(f"the file {kind}")
    _, version, *lengths = _PREFIX.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ProgramError(f"format version {version}, this software reads version {FORMAT_VERSION}")
    expected = _PREFIX.size + sum(lengths) + _DIGEST_BYTES
    if len(data) != expected:
        state = "truncated" if len(data) < expected else "too long"
        raise ProgramError(f"the file is {state}: {len(data)} bytes, its prefix announces {expected}")
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise ProgramError("the checksum is wrong: the file is damaged")
    if lengths[1] % 4:
        raise ProgramError(f"{lengths[1]} bytes of instructions are not whole words")
    starts = [_PREFIX.size + sum(lengths[:index]) for index in range(len(lengths))]
    return [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def _check_sizes(program: Program) -> None:
    """What the driver relies on: the frame as FRAME has it, every output inside the result, weights that fit."""
    architecture = program.architecture
    if len(program.weights) % architecture.multipliers or len(program.weights) > architecture.weight_bytes:
        raise ProgramError(f"{len(program.weights)} bytes of weights are not whole words or do not fit the machine")
    first, last = program.stream_offset, program.stream_offset + len(program.stream)
    for load in (each for each in program.listing() if each.opcode is Opcode.LOAD):
        source = load.fields["source"]
        if source < first or source + load.fields["length"] > last:
            raise ProgramError(f"word {load.address}: LOAD fetches what is not in the program's {last - first} bytes")
    packed = program.input
    if min(*packed.map.shape, packed.pixel_bytes - packed.map.channels + 1) < 1:
        raise ProgramError(f"input '{packed.map.name}' has an impossible shape {packed.map.shape}")
    frame = next(each.fields for each in program.listing() if each.opcode is Opcode.FRAME)
    if frame["columns"] * frame["channels"] != packed.row_bytes:
        raise ProgramError(
            f"input rows of {packed.row_bytes} bytes, FRAME takes {frame['columns'] * frame['channels']}"
        )
    for output in program.outputs:
        height, width, channels = output.map.shape
        if min(height, width, channels) < 1 or len(output.positions) != channels:
            raise ProgramError(f"output '{output.map.name}' has an impossible shape {output.map.shape}")
        last = output.first_byte + (height - 1) * output.row_bytes + (width - 1) * output.pixel_bytes
        numbers = (output.first_byte, output.row_bytes, output.pixel_bytes, *output.positions)
        if min(numbers) < 0 or last + max(output.positions) >= program.result_bytes:
            raise ProgramError(f"output '{output.map.name}' lies outside the result")
    known = {output.map.name for output in program.outputs}
    for layer in program.host_layers:
        if layer.kind not in ("flatten", "softmax") or layer.input not in known:
            raise ProgramError(f"host layer '{layer.name}' ({layer.kind} of '{layer.input}') cannot run")
        known.add(layer.output.name)
    if not set(program.results) <= known or not program.results:
        raise ProgramError(f"results {program.results} are not among the outputs")


@dataclass(frozen=True)
class _TextProgram:
    """The header's view of ``Program``: the same entries, bytes left out."""

    network: str
    architecture: Architecture
    input: InputMap
    outputs: tuple[OutputMap, ...]
    results: tuple[str, ...]
    host_layers: tuple[HostLayer, ...]
    predicted_cycles: int
    layers: tuple[LayerReport, ...]
    memory: tuple[Region, ...]
    instructions: tuple[int, ...]
    weights: str
    stream: str
    stream_offset: int
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]

    def finish(self, weights: bytes, stream: bytes) -> Program:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return Program(**{**values, "weights": weights, "stream": stream})
