"""How the input map travels on the link and lies in the frame ring: a pixel, or a first convolution's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.arch.frame_rows import FrameRows
from emberline.arch.isa import FRAME
from emberline.compiler.steps import Step
from emberline.model.graph import NO_PADDING, Convolution, FeatureMap, Graph, Padding


@dataclass(frozen=True)
class FramePacking:
    """What FRAME says of a frame, but for zero and addresses.

    Parameters:
        channels, columns, rows: of the frame on the link.
        kernel, stride: (rows, columns) of the windows that are stored.
        padding: around the frame, as far as windows need it.
        stored_rows, stored_columns: windows of a frame.
        pixel_words: words of one window.
    """

    channels: int
    columns: int
    rows: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding
    stored_rows: int
    stored_columns: int
    pixel_words: int

    @property
    def holds_windows(self) -> bool:
        """Whether the first convolution's windows are stored, rather than the frame's pixels."""
        pixels = (self.rows, self.columns) == (self.stored_rows, self.stored_columns)
        return not pixels or self.kernel != (1, 1) or self.padding != NO_PADDING

    @property
    def words(self) -> int:
        """Words of a stored frame."""
        return self.stored_rows * self.stored_columns * self.pixel_words

    @property
    def frame_rows(self) -> FrameRows:
        return FrameRows(self.rows, self.kernel[0], self.stride[0], self.padding.top, self.stored_rows)

    def fields(self) -> dict[str, int]:
        """FRAME's, but for ``zero``, ``held_rows``, ``start`` and ``end``."""
        (kernel_rows, kernel_columns), (row_stride, column_stride) = self.kernel, self.stride
        return {
            "channels": self.channels,
            "columns": self.columns,
            "rows": self.rows,
            "pad_rows": self.padding.top,
            "pad_columns": self.padding.left,
            "kernel_rows": kernel_rows,
            "kernel_columns": kernel_columns,
            "row_stride": row_stride,
            "column_stride": column_stride,
            "stored_rows": self.stored_rows,
            "stored_columns": self.stored_columns,
            "pixel_words": self.pixel_words,
            "kernel_row_bytes": kernel_columns * self.channels,
            "column_stride_bytes": column_stride * self.channels,
            "row_stride_bytes": row_stride * kernel_columns * self.channels,
            "row_words": self.stored_columns * self.pixel_words,
        }


def packings(graph: Graph, steps: Sequence[Step], architecture: Architecture) -> list[FramePacking]:
    """The ways to store the frame, the fewest taps first and of equal ones the smallest: at least pixel by pixel.

    Kernels are flattened for a convolution that is the frame's only reader: all of it, or its rows each for itself. A
    compact machine stores pixels.
    """
    x = graph.feature_maps[graph.inputs[0]]
    found = [_pack(x, (1, 1), (1, 1), NO_PADDING, x.height, x.width, architecture)]
    readers = [step for step in steps if x.name in step.reads]
    if architecture.compact or len(readers) != 1 or not isinstance(readers[0].layer, Convolution):
        return found
    layer = readers[0].layer
    out = graph.feature_maps[layer.output]
    # A grouped convolution of many channels leaves more lanes idle than its taps side by side fill.
    if layer.groups > 1 and layer.kernel[1] * x.channels > architecture.lanes_in:
        return found
    if layer.dilation[1] == 1 or layer.kernel[1] == 1:
        sides = Padding(0, 0, layer.padding.left, layer.padding.right)
        stride = (1, layer.stride[1])
        found.insert(0, _pack(x, (1, layer.kernel[1]), stride, sides, x.height, out.width, architecture))
        if layer.dilation[0] == 1 or layer.kernel[0] == 1:
            found.insert(0, _pack(x, layer.kernel, layer.stride, layer.padding, out.height, out.width, architecture))
    limits = {field.name: field.maximum for field in FRAME.fields}
    fitting = [each for each in found if all(value <= limits[name] for name, value in each.fields().items())]

    def taps(packing: FramePacking) -> int:
        rows, columns = (whole // part for whole, part in zip(layer.kernel, packing.kernel, strict=True))
        return rows * columns * packing.pixel_words

    return sorted(fitting or found[-1:], key=lambda each: (taps(each), each.words))


def _pack(
    x: FeatureMap,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    stored_rows: int,
    stored_columns: int,
    architecture: Architecture,
) -> FramePacking:
    words = -(-kernel[0] * kernel[1] * x.channels // architecture.lanes_in)
    return FramePacking(x.channels, x.width, x.height, kernel, stride, padding, stored_rows, stored_columns, words)
