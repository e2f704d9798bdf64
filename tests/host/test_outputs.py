"""Frames onto the link, results off it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import encode
from emberline.arch.program import HostLayer, InputMap, MapInfo, OutputMap, Program
from emberline.errors import ImageError, ProgramError
from emberline.model.kernels import softmax
from emberline.model.outputs import apply_host_layers, decode_outputs, decode_results, pack_frame


@pytest.fixture
def program() -> Program:
    """One output of 2x1 pixels, its three channels apart; flattened, then softmax. The result has two words."""
    logits = MapInfo("logits", 2, 1, 3, 0.125, 5)
    flat = MapInfo("flat", 1, 1, 6, 0.125, 5)
    return Program(
        network="test",
        architecture=Architecture("test", 8, 4, 64, 64),
        input=InputMap(MapInfo("image", 2, 3, 5, 1.0, -9), 8),
        outputs=(OutputMap(logits, 0, 8, 8, (1, 2, 6)),),
        results=("prob", "logits"),
        host_layers=(
            HostLayer("reshape", "flatten", "logits", flat),
            HostLayer("softmax", "softmax", "flat", MapInfo("prob", 1, 1, 6, 1 / 256, -128), beta=2.0),
        ),
        predicted_cycles=1,
        layers=(),
        memory=(),
        instructions=(*encode(Opcode.RESULT, {"start": 0, "words": 2}), *encode(Opcode.END, {})),
        weights=b"",
    )


def test_frame_is_filled_up_to_whole_pixels(program: Program) -> None:
    frame = np.arange(30, dtype=np.int8).reshape(2, 3, 5)
    packed = np.frombuffer(pack_frame(program, frame), np.int8).reshape(2, 3, 8)
    np.testing.assert_array_equal(packed[..., :5], frame)
    assert (packed[..., 5:] == -9).all()
    assert packed.size == program.input.frame_bytes
    strided = np.zeros((2, 3, 10), np.int8)[..., ::2]
    strided[...] = frame
    assert pack_frame(program, strided) == pack_frame(program, frame)


def test_frame_is_sent_as_it_is_where_pixels_are_whole(program: Program) -> None:
    whole = replace(program, input=InputMap(program.input.map, 5))
    frame = np.arange(30, dtype=np.int8).reshape(2, 3, 5)
    assert pack_frame(whole, frame) == frame.tobytes()


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4), np.int8), np.zeros((2, 3, 5)), np.zeros(30, np.int8)])
def test_other_frames_are_refused(program: Program, wrong: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"input 'image' takes int8 \(2, 3, 5\), not "):
        pack_frame(program, wrong)


def test_result_is_decoded(program: Program) -> None:
    assert program.result_bytes == 16
    data = np.arange(-8, 8, dtype=np.int8)
    logits = decode_outputs(program, data.tobytes())["logits"]
    np.testing.assert_array_equal(logits, data.reshape(2, 1, 8)[:, :, [1, 2, 6]])
    results = decode_results(program, data.tobytes())
    assert list(results) == ["prob", "logits"]
    np.testing.assert_array_equal(results["prob"], softmax(logits.reshape(1, 1, 6), 0.125, 2.0))


def test_other_results_are_refused(program: Program) -> None:
    with pytest.raises(ProgramError, match="program 'test' gives 16 bytes, not 15"):
        decode_outputs(program, bytes(15))
    strange = replace(program, host_layers=(replace(program.host_layers[0], kind="argmax"),))
    with pytest.raises(ProgramError, match="host layer 'reshape': argmax is unknown"):
        apply_host_layers(strange, {"logits": np.zeros((2, 1, 3), np.int8)})
