"""Pass: what the lanes multiply with. Kernels scattered to the lanes, parameters folded, both packed into an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.isa import PARAMETERS
from emberline.compiler.rounding import Scaling
from emberline.compiler.rows import Layout, Parameters, Weights
from emberline.model.numerics import wrap_int32


@dataclass(frozen=True, eq=False)
class Kernel:
    """A linear layer as the machine sees it: every channel a byte of a source pixel, every tap explicit.

    Parameters:
        values: int8 ``[out, kernel_rows, kernel_columns, in / groups]``.
        groups: output channel ``o`` reads the input channels of group ``o // (out / groups)``.
        positions: byte in the source pixel of each input channel (all groups').
        bias: int64 ``[out]``.
        scaling: how sums become results.
        source_zero: is subtracted from every input by the bias.
    """

    values: NDArray[np.int8]
    groups: int
    positions: Sequence[int]
    bias: NDArray[np.int64]
    scaling: Scaling
    source_zero: int

    def inputs_of(self, channel: int) -> range:
        """The input channels that an output channel reads."""
        depth = self.values.shape[3]
        group = channel // (self.values.shape[0] // self.groups)
        return range(group * depth, (group + 1) * depth)


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbouring target groups that read the same words of the source pixel.

    Parameters:
        group, groups: first target group, within the target's layout, and how many.
        word, words: first source word, and how many.
        weights: of all taps.
        depthwise: each target word reads the source word of its own number; ``groups`` are those of whole words.
    """

    group: int
    groups: int
    word: int
    words: int
    weights: Weights
    depthwise: bool = False


def plan_runs(kernel: Kernel, target: Layout, architecture: Architecture) -> list[Run]:
    """Cut the target's groups where the words that they read change: one run for an ordinary convolution."""
    lanes_in, lanes_out = architecture.lanes_in, architecture.lanes_out
    channels = _channels_by_group(target, lanes_out)
    spans: list[tuple[int, int] | None] = []
    for group in range(target.groups):
        words = [kernel.positions[i] // lanes_in for o, _ in channels[group] for i in kernel.inputs_of(o)]
        spans.append((min(words), max(words) + 1) if words else None)
    runs: list[tuple[int, int, tuple[int, int]]] = []
    for group, span in enumerate(spans):
        if span is None:
            continue
        if runs and runs[-1][2] == span and runs[-1][1] == group:
            runs[-1] = (runs[-1][0], group + 1, span)
        else:
            runs.append((group, group + 1, span))
    return [
        Run(first, end - first, span[0], span[1] - span[0], _scatter(kernel, channels[first:end], span, architecture))
        for first, end, span in runs
    ]


def _channels_by_group(layout: Layout, lanes_out: int) -> list[list[tuple[int, int]]]:
    """For every group the output channels in it, each with its lane."""
    channels: list[list[tuple[int, int]]] = [[] for _ in range(layout.groups)]
    for channel, position in enumerate(layout.positions):
        channels[position // lanes_out].append((channel, position % lanes_out))
    return channels


def _scatter(
    kernel: Kernel, channels: list[list[tuple[int, int]]], span: tuple[int, int], architecture: Architecture
) -> Weights:
    """Weight words ``[groups, ky * kx * words, lanes_out, lanes_in]``; unused lanes are zero."""
    lanes_in, words = architecture.lanes_in, span[1] - span[0]
    _, rows, columns, _ = kernel.values.shape
    lanes = np.zeros((len(channels), rows, columns, words * lanes_in, architecture.lanes_out), np.int8)
    positions = np.asarray(kernel.positions) - span[0] * lanes_in
    for group, members in enumerate(channels):
        for channel, lane in members:
            inputs = kernel.inputs_of(channel)
            lanes[group, :, :, positions[inputs.start : inputs.stop], lane] = kernel.values[channel].transpose(2, 0, 1)
    shape = (len(channels), rows * columns * words, lanes_in, architecture.lanes_out)
    image = np.ascontiguousarray(lanes.reshape(shape).transpose(0, 1, 3, 2))
    if words == 1 and rows * columns > 1 and (image == image[:, :1]).all():
        return Weights(image[:, :1], hold=True)
    return Weights(image)


def fold_parameters(kernel: Kernel, target: Layout, run: Run, taps: slice, architecture: Architecture) -> Parameters:
    """Parameters of a run whose kernel rows ``taps`` are executed: only they carry the source's zero point."""
    size = run.groups * architecture.lanes_out
    arrays = {name: np.zeros(size, np.int64) for name in ("bias", "multiplier", "left", "right")}
    executed = kernel.values[:, taps].sum(axis=(1, 2, 3), dtype=np.int64)
    bias = wrap_int32(kernel.bias - kernel.source_zero * executed)
    channels = _channels_by_group(target, architecture.lanes_out)[run.group : run.group + run.groups]
    for group, members in enumerate(channels):
        for channel, lane in members:
            index = group * architecture.lanes_out + lane
            arrays["bias"][index] = bias[channel]
            arrays["multiplier"][index] = kernel.scaling.multiplier[channel]
            arrays["left"][index] = kernel.scaling.left_shift[channel]
            arrays["right"][index] = kernel.scaling.right_shift[channel]
    return Parameters(arrays["bias"], arrays["multiplier"], arrays["left"], arrays["right"])


@dataclass
class WeightImage:
    """The weight memory as it fills: blocks one behind the other, equal blocks once."""

    architecture: Architecture
    data: bytearray = field(default_factory=bytearray)
    _addresses: dict[bytes, int] = field(default_factory=dict)
    _known: dict[int, int] = field(default_factory=dict)

    @property
    def words(self) -> int:
        return len(self.data) // self.architecture.multipliers

    def add_weights(self, weights: Weights) -> int:
        """The word address of a block of weights."""
        return self._add(weights, weights.words.tobytes)

    def add_parameters(self, parameters: Parameters) -> int:
        """The word address of the parameters' first word."""
        return self._add(parameters, lambda: pack_parameters(parameters, self.architecture))

    def _add(self, block: Weights | Parameters, contents) -> int:  # type: ignore[no-untyped-def]
        if id(block) not in self._known:
            data = contents()
            if data not in self._addresses:
                self._addresses[data] = self.words
                self.data += data
            self._known[id(block)] = self._addresses[data]
        return self._known[id(block)]


def pack_parameters(parameters: Parameters, architecture: Architecture) -> bytes:
    """Weight words of the parameters: word ``p`` of a group, lane ``j``: bytes ``p * lanes_in`` … of channel ``j``."""
    lanes_in, lanes_out, words = architecture.lanes_in, architecture.lanes_out, architecture.parameter_words
    channels = len(parameters.bias)
    records = bytearray()
    for index in range(channels):
        record = PARAMETERS.pack(
            {
                "bias": int(parameters.bias[index]),
                "multiplier": int(parameters.multiplier[index]),
                "reserved": 0,
                "left_shift": int(parameters.left_shift[index]),
                "right_shift": int(parameters.right_shift[index]),
            }
        )
        packed = b"".join(word.to_bytes(4, "little") for word in record)
        records += packed[: -(-PARAMETERS.width // 8)].ljust(words * lanes_in, b"\0")
    shape = (channels // lanes_out, lanes_out, words, lanes_in)
    return np.frombuffer(bytes(records), np.int8).reshape(shape).transpose(0, 2, 1, 3).tobytes()
