"""The program file: what is written is read, and nothing damaged gets through."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Limits, random_graph

from emberline.arch import program as program_module
from emberline.arch.architecture import Architecture
from emberline.arch.listing import encode
from emberline.arch.program import FORMAT_VERSION, MAGIC, Program
from emberline.compiler.compile import compile_graph
from emberline.errors import ProgramError
from emberline.model.graph import Graph

MACHINE = Architecture("test", 8, 4, activation_depth_words=2048, weight_depth_words=1024)
PREFIX_BYTES = 28


@pytest.fixture(scope="module")
def graph() -> Graph:
    limits = Limits(max_size=4, max_channels=6, max_blocks=2, blocks=("residual",), softmax=True, fully_connected=False)
    return next(
        graph
        for graph in (random_graph(np.random.default_rng(seed), limits) for seed in range(100))
        if graph.host_layers and len(graph.layers) >= 3
    )


@pytest.fixture(scope="module")
def program(graph: Graph) -> Program:
    preprocessing = {"scale": 0.5, "order": ["r", "g"]}
    return compile_graph(graph, MACHINE, labels=("cat", "dog"), preprocessing=preprocessing)


@pytest.fixture(scope="module")
def data(program: Program) -> bytes:
    return program.to_bytes()


def sealed(header: object, code: bytes, weights: bytes, version: int = FORMAT_VERSION) -> bytes:
    """A file with any contents and a good checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = MAGIC + struct.pack("<5I", version, len(text), len(code), len(weights), 0) + text + code + weights
    return body + hashlib.sha256(body).digest()


def sections(data: bytes) -> tuple[dict, bytes, bytes]:
    lengths = struct.unpack_from("<4I", data, 12)
    ends = np.cumsum([PREFIX_BYTES, *lengths])
    return json.loads(data[ends[0] : ends[1]]), data[ends[1] : ends[2]], data[ends[2] : ends[3]]


def test_bytes_come_back(program: Program, data: bytes) -> None:
    assert Program.load(data) == program


def test_file_comes_back(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "net.ember"
    program.save(path)
    program.save(str(path))
    assert Program.load(path) == program
    assert [each.name for each in tmp_path.iterdir()] == ["net.ember"]


def test_failed_save_leaves_the_old_file(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.ember"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(program_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        program.save(path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["net.ember"]


def test_every_damaged_byte_is_noticed(data: bytes) -> None:
    step = max(1, len(data) // 1500)
    for index in [*range(PREFIX_BYTES + 40), *range(PREFIX_BYTES + 40, len(data), step)]:
        damaged = bytearray(data)
        damaged[index] ^= 1 << index % 8
        with pytest.raises(ProgramError):
            Program.load(bytes(damaged))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_random_damage_is_noticed(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    kind = draw.draw(st.sampled_from(["cut", "grow", "overwrite"]))
    position = draw.draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        damaged = damaged[:position]
    elif kind == "grow":
        damaged[position:position] = draw.draw(st.binary(min_size=1, max_size=9))
    else:
        patch = draw.draw(st.binary(min_size=1, max_size=9))
        damaged[position : position + len(patch)] = patch
    if damaged != data:
        with pytest.raises(ProgramError):
            Program.load(bytes(damaged))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_no_program(contents: bytes) -> None:
    with pytest.raises(ProgramError, match="not an Emberline program|is empty"):
        Program.load(contents)


def json_paths(value: object, path: tuple = ()) -> list[tuple]:
    found = [path]
    if isinstance(value, dict):
        found += [each for key, item in value.items() for each in json_paths(item, (*path, key))]
    elif isinstance(value, list):
        found += [each for index, item in enumerate(value[:2]) for each in json_paths(item, (*path, index))]
    return found


NONSENSE = (None, -1, 10**30, 1.5, float("nan"), "", "x", [], [1], {}, {"x": 1}, True)


def test_nonsense_in_a_sealed_header_is_refused_or_harmless(data: bytes) -> None:
    header, code, weights = sections(data)
    for path in json_paths(header):
        for nonsense in NONSENSE:
            changed = json.loads(json.dumps(header))
            if path:
                parent = changed
                for key in path[:-1]:
                    parent = parent[key]
                parent[path[-1]] = nonsense
            else:
                changed = nonsense
            with contextlib.suppress(ProgramError):
                Program.load(sealed(changed, code, weights))


@pytest.mark.parametrize("entry", ["architecture", "input", "outputs", "network", "fingerprint", "predicted_cycles"])
def test_missing_entry_is_named(data: bytes, entry: str) -> None:
    header, code, weights = sections(data)
    del header[entry]
    with pytest.raises(ProgramError, match=entry):
        Program.load(sealed(header, code, weights))


def test_unknown_entry_is_named(data: bytes) -> None:
    header, code, weights = sections(data)
    with pytest.raises(ProgramError, match="header has no entry 'novelty'"):
        Program.load(sealed(header | {"novelty": 1}, code, weights))


def test_messages_name_file_and_reason(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.ember"
    header, code, weights = sections(data)
    cases = {
        b"": "is empty",
        b"\x7fELF" + data[4:]: "not an Emberline program",
        data[:-1]: f"truncated: {len(data) - 1} bytes, its prefix announces {len(data)}",
        data + b"\0": "too long",
        data[:-1] + bytes([data[-1] ^ 1]): "checksum is wrong",
        sealed(header, code, weights, version=7): f"format version 7, this software reads version {FORMAT_VERSION}",
        sealed(b"\xff{", code, weights): "header is damaged",
        sealed(header, code + b"\0", weights): "not whole words",
        sealed(header, code, weights[:-1]): "bytes of weights are not whole words",
        sealed(header | {"fingerprint": 1}, code, weights): "fingerprint",
        sealed(header, code[:-4], weights): "without an END",
    }
    for contents, message in cases.items():
        path.write_bytes(contents)
        with pytest.raises(ProgramError, match=message) as caught:
            Program.load(path)
        assert str(path) in str(caught.value)


def test_inconsistent_maps_are_refused(program: Program) -> None:
    output = program.outputs[0]
    cases = {
        "input rows of": replace(program, input=replace(program.input, pixel_bytes=program.input.pixel_bytes + 1)),
        "outside the result": replace(program, outputs=(replace(output, first_byte=10**6),)),
        "impossible shape": replace(program, outputs=(replace(output, positions=output.positions[:-1]),)),
        "cannot run": replace(program, host_layers=(replace(program.host_layers[0], kind="argmax"),)),
        "not among the outputs": replace(program, results=("nowhere",)),
        "releases": replace(
            program, input=replace(program.input, map=replace(program.input.map, height=program.input.map.height + 1))
        ),
    }
    for message, changed in cases.items():
        with pytest.raises(ProgramError, match=message):
            Program.load(changed.to_bytes())


def test_other_machine_is_named(program: Program) -> None:
    program.check_architecture(replace(MACHINE, name="twin", clock_hz=2_000_000, uart_baud=9600))
    with pytest.raises(
        ProgramError, match=r"compiled for 'test', not for 'big': .*activation_depth_words 2048 instead of 4096"
    ):
        program.check_architecture(replace(MACHINE, name="big", activation_depth_words=4096))


def test_encode_names_the_field() -> None:
    with pytest.raises(ValueError, match="LOOP.count must be in 0..65535, not 65536"):
        encode(program_module.Opcode.LOOP, {"count": 65536})


def test_arch_needs_no_numpy() -> None:
    for path in Path(program_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("numpy", "amaranth") for name in names), path
