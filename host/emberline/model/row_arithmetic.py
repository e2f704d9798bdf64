"""The arithmetic of one ROW: gather, multiply, requantise, add the residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.isa import PARAMETERS
from emberline.model.numerics import (
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
    wrap_int32,
)

Fields = Mapping[str, int]
RESIDUAL_LEFT_SHIFT = 20
"""Guard bits of a residual addition."""


class RowArithmetic:
    """A ROW's constants, made once: weights as a matrix, parameters as arrays, offsets of words and groups.

    Attributes:
        taps: words multiplied for each result.
        read_begin, read_end: first word and end of what is read of a source row, 0 and 0 if it is all padding.
        read_groups: groups from the source row's address that meet weights other than zero, int64, sorted.
        target_offsets, residual_offsets: groups from the row's address, int64 ``[columns, groups]``; of a pooled row
            ``[pool_columns, groups]``.
        target_span: groups from the first to the last one, gaps included.
    """

    def __init__(self, architecture: Architecture, fields: Fields, weights: NDArray[np.int8]) -> None:
        self.architecture, self.fields = architecture, fields
        f = fields
        self.taps = f["kernel_rows"] * f["kernel_columns"] * f["channel_words"]
        self._plan_reads(weights)
        self._load_parameters(weights)
        self.target_offsets = self._pixel_offsets("target")
        self.target_span = int(self.target_offsets[-1, -1]) + 1
        if f["add"]:
            self.residual_offsets = self._pixel_offsets("residual")

    @property
    def groups(self) -> int:
        """Groups of each target pixel that are computed."""
        return self.fields["groups"]

    def weight_ranges(self) -> list[tuple[int, int]]:
        """The weight words that are used: of the weights, first and end, and of the parameters."""
        f, words = self.fields, self.architecture.parameter_words
        last = f["weight_address"] + (f["groups"] - 1) * f["weight_step"]
        weights = (f["weight_address"], last + (1 if f["hold_weight"] else self.taps))
        return [weights, (f["parameter_address"], f["parameter_address"] + self.groups * words)]

    def _plan_reads(self, weights: NDArray[np.int8]) -> None:
        f = self.fields
        columns = np.arange(f["columns"])[:, None, None] * f["pixel_step"]
        kernel_columns = np.arange(f["kernel_columns"])[:, None] * f["tap_step"]
        offsets = columns + kernel_columns + np.arange(f["channel_words"]) - f["pad_words"]
        inside = (offsets >= 0) & (offsets < f["row_words"])
        self._place_reads(offsets, inside)
        self._matrix = self._weight_matrix(weights)
        self.read_groups = self._find_read_groups(offsets, inside)

    def _place_reads(self, offsets: NDArray[np.int64], inside: NDArray[np.bool_]) -> None:
        """What is read of a source row, and where each column finds it; behind it lies a word of padding."""
        self.read_begin = int(offsets[inside].min()) if inside.any() else 0
        self.read_end = int(offsets[inside].max()) + 1 if inside.any() else 0
        count = self.read_end - self.read_begin
        self._offsets = np.where(inside, offsets - self.read_begin, count).reshape(self.fields["columns"], -1)

    def _weight_matrix(self, weights: NDArray[np.int8]) -> NDArray[np.floating[Any]]:
        """``[taps * lanes_in, groups * lanes_out]``; float32 where every sum is exact in it, else float64."""
        f, a = self.fields, self.architecture
        taps = np.zeros(self.taps, np.int64) if f["hold_weight"] else np.arange(self.taps)
        addresses = f["weight_address"] + np.arange(f["groups"])[:, None] * f["weight_step"] + taps
        lanes = weights[addresses].transpose(1, 3, 0, 2)
        matrix = lanes.reshape(self.taps * a.lanes_in, f["groups"] * a.lanes_out)
        largest = 128 * int(np.abs(matrix, dtype=np.int64).sum(axis=0).max())
        return np.ascontiguousarray(matrix, np.float32 if largest <= 1 << 24 else np.float64)

    def _find_read_groups(self, offsets: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
        f, per_word = self.fields, self.architecture.groups_per_word
        used = (self._matrix != 0).any(axis=1)
        by_tap = used.reshape(f["kernel_rows"], 1, f["kernel_columns"], f["channel_words"], per_word, -1).any(
            axis=(0, 5)
        )
        groups = offsets[..., None] * per_word + np.arange(per_word)
        return np.unique(groups[by_tap & inside[..., None]])

    def _load_parameters(self, weights: NDArray[np.int8]) -> None:
        f, a = self.fields, self.architecture
        first, words = f["parameter_address"], a.parameter_words
        memory = weights[first : first + self.groups * words].reshape(self.groups, words, a.lanes_out, a.lanes_in)
        records = memory.transpose(0, 2, 1, 3).reshape(-1, words * a.lanes_in).tobytes()
        size, need = words * a.lanes_in, PARAMETERS.word_count * 4
        unpacked = []
        for start in range(0, len(records), size):
            record = records[start : start + size][: PARAMETERS.width // 8].ljust(need, b"\0")
            unpacked.append(PARAMETERS.unpack(list(np.frombuffer(record, "<u4").tolist())))
        self._bias, self._multiplier, self._left, self._right = (
            np.array([each[name] for each in unpacked], np.int64)
            for name in ("bias", "multiplier", "left_shift", "right_shift")
        )
        self._shifts_left = bool(self._left.any())

    def _pixel_offsets(self, role: str) -> NDArray[np.int64]:
        count = self.fields["pool_columns" if self.fields["pool"] else "columns"]
        columns = np.arange(count)[:, None] * self.fields[f"{role}_pixel_step"]
        offsets: NDArray[np.int64] = columns + np.arange(self.groups)
        return offsets

    def convolve(self, activations: NDArray[np.int8], rows: list[int]) -> NDArray[np.int8]:
        """The requantised results, int8 ``[columns, groups, lanes_out]``; ``rows``: word address of each kernel row."""
        f = self.fields
        words = self._gather(activations, rows, self._matrix.dtype)
        patches = words[:, self._offsets]  # [kernel_rows, columns, taps of a row, lanes_in]
        if f["kernel_rows"] > 1:
            patches = patches.transpose(1, 0, 2, 3)
        sums = (patches.reshape(f["columns"], -1) @ self._matrix).astype(np.int64)
        values = self._requantise(sums)
        return values.astype(np.int8).reshape(f["columns"], f["groups"], -1)

    def _gather(self, activations: NDArray[np.int8], rows: list[int], dtype: DTypeLike) -> NDArray[Any]:
        """What is read of each kernel row, and a word of padding: ``[kernel_rows, words, lanes_in]``."""
        count = self.read_end - self.read_begin
        words = np.empty((len(rows), count + 1, self.architecture.lanes_in), dtype)
        words[:, count] = self.fields["source_zero"]
        for ky, row in enumerate(rows):
            words[ky, :count] = activations[row + self.read_begin : row + self.read_end]
        return words

    def _requantise(self, sums: NDArray[np.int64]) -> NDArray[np.int64]:
        x = wrap_int32(sums + self._bias)
        if self._shifts_left:
            x = wrap_int32(x << self._left)
        y = saturating_rounding_doubling_high_mul(x, self._multiplier)
        z = rounding_divide_by_pot(y, self._right) + self.fields["target_zero"]
        return np.clip(z, self.fields["clamp_min"], self.fields["clamp_max"], out=z)

    def add(self, results: NDArray[np.int8], residuals: NDArray[np.int8]) -> NDArray[np.int8]:
        """The residual addition of two int8 arrays of one shape."""
        f = self.fields
        total = self._scale(results, f["target_zero"], f["result_multiplier"], f["result_shift"])
        total += self._scale(residuals, f["residual_zero"], f["residual_multiplier"], f["residual_shift"])
        scaled = saturating_rounding_doubling_high_mul(total, f["sum_multiplier"])
        values = rounding_divide_by_pot(scaled, f["sum_shift"]) + f["sum_zero"]
        return np.clip(values, f["sum_min"], f["sum_max"], out=values).astype(np.int8)

    def pool(self, results: NDArray[np.int8]) -> NDArray[np.int8]:
        """The maxima along a row, int8 ``[pool_columns, groups, lanes_out]``."""
        f = self.fields
        last = f["pool_first"] + np.arange(f["pool_columns"]) * f["pool_stride"]
        taken = last[:, None] - np.arange(f["pool_window"])
        peaks: NDArray[np.int8] = results[np.clip(taken, 0, f["columns"] - 1)].max(axis=1)
        return peaks

    def _scale(self, codes: NDArray[np.int8], zero: int, multiplier: int, shift: int) -> NDArray[np.int64]:
        guarded = (codes.astype(np.int64) - zero) << RESIDUAL_LEFT_SHIFT
        return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(guarded, multiplier), shift)
