"""The arithmetic of one depthwise ROW: each channel with its own weights, no sum over channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emberline.model.row_arithmetic import RowArithmetic


class DepthwiseArithmetic(RowArithmetic):
    """As `RowArithmetic`; the results of columns whose kernel reaches beyond the row's first are not defined.

    Attributes:
        rows: that are computed: two with ``copy``.
        kernel_width: columns of the wider of their kernels, from its last weight that is not zero.
    """

    @property
    def rows(self) -> int:
        return 2 if self.fields["pool"] and self.fields["copy"] else 1

    @property
    def groups(self) -> int:
        return self.fields["groups"] * self.architecture.groups_per_word

    def _plan_reads(self, weights: NDArray[np.int8]) -> None:
        f, per_word = self.fields, self.architecture.groups_per_word
        words = np.arange(f["groups"])
        offsets = np.arange(f["columns"])[:, None] * f["pixel_step"] + words - f["pad_words"]
        inside = (offsets >= 0) & (offsets < f["row_words"])
        self._place_reads(offsets, inside)
        addresses = f["weight_address"] + words[:, None] * f["weight_step"] + np.arange(f["kernel_rows"])
        columns = self.architecture.depthwise_columns
        lanes = weights[addresses][:, :, : self.rows * columns].transpose(1, 2, 0, 3).astype(np.int32)
        # Of each row [kernel_rows, lanes, words, lanes_in]
        self._kernels = [lanes[:, row * columns : (row + 1) * columns] for row in range(self.rows)]
        used = sum(kernel.any(axis=(0, 2, 3)).astype(np.int64) for kernel in self._kernels).nonzero()[0]
        self.kernel_width = int(used[-1]) + 1 if len(used) else 1
        read = (lanes != 0).reshape(*lanes.shape[:3], per_word, -1).any(axis=(0, 1, 4))
        groups = offsets[..., None] * per_word + np.arange(per_word)
        self.read_groups = np.unique(groups[read & inside[..., None]])

    def convolve(self, activations: NDArray[np.int8], rows: list[int]) -> NDArray[np.int8]:
        """The requantised results, int8 ``[columns, groups, lanes_out]``; ``rows``: word address of each kernel row."""
        return self._convolve(activations, rows, self._kernels[0])

    def convolve_second(self, activations: NDArray[np.int8], rows: list[int]) -> NDArray[np.int8]:
        """The results of the second row, where there is one."""
        return self._convolve(activations, rows, self._kernels[1])

    def _convolve(self, activations: NDArray[np.int8], rows: list[int], kernel: NDArray[np.int32]) -> NDArray[np.int8]:
        lead, columns = self.fields["lead"], self.fields["lead"] + self.fields["columns"]
        words = self._gather(activations, rows, np.int32)[:, self._offsets]  # [kernel_rows, columns, words, lanes_in]
        words = np.pad(words, ((0, 0), (lead, 0), (0, 0), (0, 0)), constant_values=self.fields["source_zero"])
        sums = np.zeros(words.shape[1:], np.int64)
        for lane in range(min(self.kernel_width, columns)):
            sums[lane:] += (words[:, : columns - lane] * kernel[:, None, lane]).sum(axis=0)
        columns -= lead
        values = self._requantise(sums[lead:].reshape(columns, -1))
        return values.astype(np.int8).reshape(columns, self.groups, -1)
