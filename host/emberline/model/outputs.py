"""Frames onto the link and results off it: the same for emulator, simulation and board."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emberline.arch.program import Program
from emberline.errors import ImageError, ProgramError
from emberline.model.softmax import softmax

Frame = NDArray[np.int8]


def pack_frame(program: Program, frame: Frame) -> bytes:
    """The bytes of one frame in the order of the link: rows, pixels, channels.

    Parameters:
        frame: int8 ``[H, W, C]`` of the program's input.

    Raises ``ImageError``, naming both, for another shape or type.
    """
    packed = program.input
    if frame.dtype != np.int8 or frame.shape != packed.map.shape:
        expected = ", ".join(map(str, packed.map.shape))
        raise ImageError(f"input '{packed.map.name}' takes int8 ({expected}), not {frame.dtype} {frame.shape}")
    spare = packed.pixel_bytes - packed.map.channels
    if spare:
        frame = np.pad(frame, ((0, 0), (0, 0), (0, spare)), constant_values=packed.map.zero_point)
    return np.ascontiguousarray(frame).tobytes()


def decode_outputs(program: Program, result: bytes) -> dict[str, Frame]:
    """The accelerator's maps, int8 ``[H, W, C]`` by name, from the result's bytes.

    Raises ``ProgramError`` for another number of bytes than the program's ``result_bytes``.
    """
    if len(result) != program.result_bytes:
        raise ProgramError(f"program '{program.network}' gives {program.result_bytes} bytes, not {len(result)}")
    data = np.frombuffer(result, np.int8)
    maps = {}
    for output in program.outputs:
        y, x, positions = np.ix_(range(output.map.height), range(output.map.width), output.positions)
        maps[output.map.name] = data[output.first_byte + y * output.row_bytes + x * output.pixel_bytes + positions]
    return maps


def apply_host_layers(program: Program, maps: Mapping[str, Frame]) -> dict[str, Frame]:
    """The network's own outputs, by name, from the accelerator's maps: flatten and softmax are computed here."""
    known = dict(maps)
    scales = {output.map.name: output.map.scale for output in program.outputs}
    for layer in program.host_layers:
        x = known[layer.input]
        if layer.kind == "softmax":
            known[layer.output.name] = softmax(x, scales[layer.input], layer.beta)
        elif layer.kind == "flatten":
            known[layer.output.name] = x.reshape(1, 1, -1)
        else:
            raise ProgramError(f"host layer '{layer.name}': {layer.kind} is unknown")
        scales[layer.output.name] = layer.output.scale
    return {name: known[name] for name in program.results}


def decode_results(program: Program, result: bytes) -> dict[str, Frame]:
    """The network's own outputs from the result's bytes."""
    return apply_host_layers(program, decode_outputs(program, result))
