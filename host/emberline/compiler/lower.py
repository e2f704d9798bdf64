"""Pass: steps become row operations; their order across steps is decided by the schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from emberline.arch.architecture import Architecture
from emberline.compiler.checks import refuse
from emberline.compiler.depthwise import as_depthwise, pair_rows, plan_depthwise
from emberline.compiler.division import divide_by
from emberline.compiler.packing import FramePacking
from emberline.compiler.placement import Places
from emberline.compiler.pooled_rows import Placing, plan_pool, shares_rows
from emberline.compiler.rounding import Scaling, plan_scaling
from emberline.compiler.rows import Access, Addition, Parameters, Placement, Pooling, Role, RowOperation, StepRows
from emberline.compiler.steps import Step, ends_crowded
from emberline.compiler.weights import Kernel, Run, fold_parameters, plan_runs
from emberline.model.graph import (
    INT8_MAX,
    INT8_MIN,
    NO_PADDING,
    AveragePool,
    Convolution,
    Graph,
    MaxPool,
    Pad,
    Padding,
    Upsample,
)

SHARED_PARAMETERS = 32
"""Share of the weight memory that the parameters of an average in depthwise mode may take, at most: a 32nd."""


@dataclass(frozen=True, eq=False)
class Window:
    """A step as a window of taps that slides over a source: shapes in pixels, or in stored words of a frame.

    Parameters:
        kernel: what is multiplied; an average pool's is of ones.
        source, target: where the maps lie; ``height`` and ``width`` are the source's, ``rows`` and ``columns`` the
            target's.
        target_zero, clamp: of the requantised value, before any addition.
        excludes_padding: results are means of the values inside the map.
    """

    kernel: Kernel
    source: Placement
    target: Placement
    height: int
    width: int
    rows: int
    columns: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    source_zero: int
    target_zero: int
    clamp: tuple[int, int]
    excludes_padding: bool = False

    def executed_rows(self, row: int) -> tuple[int, int, int]:
        """Kernel rows ``[first, last)`` that lie inside the map for a target row, and the first one's map row."""
        top = row * self.stride[0] - self.padding.top
        inside = [ky for ky in range(self.kernel.values.shape[1]) if 0 <= top + ky * self.dilation[0] < self.height]
        if not inside:
            return 0, 1, -1
        return inside[0], inside[-1] + 1, top + inside[0] * self.dilation[0]


def lower(
    graph: Graph, steps: list[Step], places: Places, architecture: Architecture, *, pairs: bool = True
) -> list[StepRows]:
    """The row operations of every step, the rows of each from the top.

    Parameters:
        pairs: depthwise rows two at a time too, where that is faster; it takes more weight words.
    """
    lowered = []
    for index, step in enumerate(steps):
        window = describe_window(graph, step, places, architecture)
        lowered.append(_StepLowering(graph, step, index, window, places, architecture, pairs).lower())
    return lowered


def describe_window(graph: Graph, step: Step, places: Places, architecture: Architecture) -> Window:
    """What a step computes, with its channels where source and target have them."""
    window = _describe_layer(graph, step, places, architecture)
    if step.pool is None:
        return window
    low, high = (min(max(bound, step.pool.activation_min), step.pool.activation_max) for bound in window.clamp)
    return replace(window, clamp=(low, high))


def _describe_layer(graph: Graph, step: Step, places: Places, architecture: Architecture) -> Window:
    maps, layer = graph.feature_maps, step.layer
    x = maps[step.source]
    source, target = places.placements[step.source], places.placements[step.target]
    zero = x.quantisation.zero_point
    positions = source.bytes_in_pixel(architecture.lanes_out)
    out = maps.get(step.computed, x)
    if isinstance(layer, Convolution):
        kernel = Kernel(
            layer.weights,
            layer.groups,
            positions,
            layer.bias.astype(np.int64),
            plan_scaling(layer, zero, out.quantisation.zero_point),
            zero,
        )
        geometry = (layer.stride, layer.dilation, layer.padding)
        clamp = (layer.activation_min, layer.activation_max)
        window = Window(
            kernel, source, target, x.height, x.width, out.height, out.width, *geometry, zero,
            out.quantisation.zero_point, clamp,
        )  # fmt: skip
        packing = places.packing
        flatten = source.storage.role is Role.FRAME and packing.holds_windows
        return _flatten_kernel(window, packing) if flatten else window
    if isinstance(layer, AveragePool):
        kernel = _per_channel_kernel(x.channels, layer.window, positions, 0)
        clamp = (layer.activation_min, layer.activation_max)
        return Window(
            kernel, source, target, x.height, x.width, out.height, out.width, layer.stride, (1, 1), layer.padding,
            0, 0, clamp, excludes_padding=True,
        )  # fmt: skip
    if isinstance(layer, MaxPool) and ends_crowded(graph, layer):
        # The row is computed with columns of the lowest value behind it, so that every window ends inside.
        columns = (maps[layer.output].width - 1) * layer.stride[1] - layer.padding.left + layer.window[1]
        return Window(
            _per_channel_kernel(x.channels, (1, 1), positions, zero), source, target, x.height, x.width, x.height,
            columns, (1, 1), (1, 1), NO_PADDING, INT8_MIN, zero, (INT8_MIN, INT8_MAX),
        )  # fmt: skip
    padding = layer.padding if isinstance(layer, Pad) else NO_PADDING
    rows, columns = x.height + padding.top + padding.bottom, x.width + padding.left + padding.right
    kernel = _per_channel_kernel(x.channels, (1, 1), positions, zero)
    return Window(
        kernel, source, target, x.height, x.width, rows, columns, (1, 1), (1, 1), padding, zero, zero,
        (INT8_MIN, INT8_MAX),
    )  # fmt: skip


def _per_channel_kernel(channels: int, window: tuple[int, int], positions: tuple[int, ...], zero: int) -> Kernel:
    """Ones: the sum of each channel's taps; with a 1x1 window the value itself, by an exact multiplier of one."""
    one = np.ones(channels, np.int64)
    ones = np.ones((channels, *window, 1), np.int8)
    return Kernel(ones, channels, positions, 0 * one, Scaling(one << 30, one, 0 * one), zero)


def _flatten_kernel(window: Window, packing: FramePacking) -> Window:
    """A convolution on stored windows: the columns of its kernel, and perhaps its rows, become channels, dense ones."""
    out, kernel_rows, kernel_columns, _ = window.kernel.values.shape
    dense = np.zeros((out, kernel_rows, kernel_columns, packing.channels), np.int8)
    for channel in range(out):
        inputs = window.kernel.inputs_of(channel)
        dense[channel, :, :, inputs.start : inputs.stop] = window.kernel.values[channel]
    rows = kernel_rows // packing.kernel[0]
    flat = dense.reshape(out, rows, 1, -1)
    old = window.kernel
    kernel = Kernel(flat, 1, range(flat.shape[3]), old.bias, old.scaling, old.source_zero)
    whole = packing.kernel[0] == kernel_rows and packing.stride[0] == window.stride[0]
    return replace(
        window,
        kernel=kernel,
        height=packing.stored_rows,
        width=packing.stored_columns,
        stride=(1 if whole else window.stride[0], 1),
        dilation=(1 if whole else window.dilation[0], 1),
        padding=NO_PADDING if whole else Padding(window.padding.top, window.padding.bottom, 0, 0),
    )


@dataclass(frozen=True)
class _Columns:
    """Target columns ``[first, last)`` whose windows hold ``taps`` columns of the source."""

    first: int
    last: int
    taps: int


class _StepLowering:
    """The row operations of one step; variants of parameters are made once and shared by rows."""

    def __init__(
        self,
        graph: Graph,
        step: Step,
        index: int,
        window: Window,
        places: Places,
        architecture: Architecture,
        pairs: bool,
    ) -> None:
        self.graph, self.step, self.index, self.window = graph, step, index, window
        self.architecture = architecture
        depthwise = None
        plain = isinstance(step.layer, Convolution) or self._averages_words()
        if plain and step.addition is None and step.pool is None:
            depthwise = plan_depthwise(window, places.placements.values(), architecture, pairs=pairs)
        self.spread = step.layer.factor[1] if isinstance(step.layer, Upsample) else 1
        self.runs = [depthwise] if depthwise else plan_runs(window.kernel, window.target.layout, architecture)
        self.addition = _addition(graph, step)
        self.residual = places.placements[step.residual] if step.residual is not None else None
        self._parameters: dict[tuple[int, ...], Parameters] = {}

    def _averages_words(self) -> bool:
        """Whether an average is a depthwise convolution of ones that is worth its parameters.

        Every window has all its columns inside; and the parameters of all groups, which the words of an average
        share otherwise, take a small part of the memory.
        """
        if not isinstance(self.step.layer, AveragePool):
            return False
        inside = [part.taps for part in self._column_ranges()] == [self.window.kernel.values.shape[2]]
        words = self.window.target.layout.groups * self.architecture.parameter_words
        return inside and words * SHARED_PARAMETERS <= self.architecture.weight_depth_words

    def lower(self) -> StepRows:
        parts = [(number, part) for number in range(len(self.runs)) for part in self._column_ranges()]
        rows = [tuple(self._operation(placing, *part) for part in parts) for placing in self._placings()]
        pitch, pool = self.window.stride[0], self.step.pool
        if isinstance(self.step.layer, Upsample):
            rows = [tuple(_write_from(each, x) for x in range(self.spread) for each in row) for row in rows]
            return StepRows(self.index, self.step.name, tuple(rows), Fraction(1, self.step.layer.factor[0]), 1)
        if pool is None:
            return StepRows(self.index, self.step.name, tuple(rows), pitch, 1, self._pairs(rows))
        (height, _), (stride, _) = pool.window, pool.stride
        computed = stride if shares_rows(pool) else height
        return StepRows(self.index, self.step.name, tuple(rows), pitch * stride, computed)

    def _pairs(self, rows: list[tuple[RowOperation, ...]]) -> StepRows | None:
        """The step with the rows of a depthwise run two at a time."""
        if not self.runs[0].depthwise:
            return None
        part = self._column_ranges()[0]
        operations = [self._ordinary_operation(placing, 0, part) for placing in self._placings()]
        pairs = dict(pair_rows(operations, self.window, self.architecture))
        if not pairs:
            return None
        joined = [(pairs[row],) if row in pairs else rows[row] for row in range(len(rows)) if row - 1 not in pairs]
        return StepRows(self.index, self.step.name, tuple(joined), self.window.stride[0], Fraction(1, 2))

    def _placings(self) -> list[Placing]:
        layer = self.step.layer
        if isinstance(layer, Upsample):
            rows = layer.factor[0]
            return [Placing(row, row * rows + y) for row in range(self.window.rows) for y in range(rows)]
        if self.step.pool is None:
            return [Placing(row, row) for row in range(self.window.rows)]
        return plan_pool(self.step.pool, self.window.rows, self.graph.feature_maps[self.step.target].height)

    def _column_ranges(self) -> list[_Columns]:
        """The whole row, or pieces of it whose windows reach equally far outside the map."""
        window = self.window
        taps = window.kernel.values.shape[2]
        if not window.excludes_padding:
            return [_Columns(0, window.columns, taps)]
        pieces: list[_Columns] = []
        for column in range(window.columns):
            left = column * window.stride[1] - window.padding.left
            inside = min(left + taps, window.width) - max(left, 0)
            if pieces and pieces[-1].taps == inside:
                pieces[-1] = _Columns(pieces[-1].first, column + 1, inside)
            else:
                pieces.append(_Columns(column, column + 1, inside))
        return pieces

    def _operation(self, placing: Placing, number: int, part: _Columns) -> RowOperation:
        operation = self._ordinary_operation(placing, number, part)
        return as_depthwise(operation, self.window, self.architecture) if self.runs[number].depthwise else operation

    def _ordinary_operation(self, placing: Placing, number: int, part: _Columns) -> RowOperation:
        window, run, kernel, row = self.window, self.runs[number], self.window.kernel, placing.row
        storage = window.source.storage
        first, last, source_row = window.executed_rows(row)
        left = part.first * window.stride[1] - window.padding.left
        skipped = max(left, 0)
        taps_per_row = kernel.values.shape[2] * run.words
        padding_only = source_row < 0
        pixel = storage.pixel_words
        target_groups = window.target.group_offset + run.group
        target_pixel = window.target.storage.pixel_words * self.architecture.groups_per_word * self.spread
        residual = None
        if self.residual is not None:
            pixel_groups = self.residual.storage.pixel_words * self.architecture.groups_per_word
            offset = self.residual.group_offset + run.group + part.first * pixel_groups
            residual = Access(self.residual.storage, row, groups=offset)
        return RowOperation(
            layer=self.step.name,
            step=self.index,
            source=Access(storage, max(source_row, 0), words=0 if padding_only else run.word + skipped * pixel),
            source_rows=window.dilation[0],
            row_words=0 if padding_only else (window.width - 1 - skipped) * pixel + run.words,
            pad_words=max(-left, 0) * pixel,
            pixel_step=window.stride[1] * pixel,
            tap_step=window.dilation[1] * pixel,
            kernel_rows=last - first,
            kernel_columns=kernel.values.shape[2],
            channel_words=run.words,
            source_zero=window.source_zero,
            target=Access(window.target.storage, placing.target, groups=target_groups + part.first * target_pixel),
            columns=part.last - part.first,
            groups=run.groups,
            target_zero=window.target_zero,
            clamp_min=window.clamp[0],
            clamp_max=window.clamp[1],
            weights=run.weights,
            first_tap=0 if run.weights.hold else first * taps_per_row,
            parameters=self._parameters_of(number, run, first, last, part.taps),
            residual=residual,
            addition=self.addition,
            copy=None if self.step.pool is None else Access(window.target.storage, placing.copy, groups=target_groups),
            pooling=self._pooling(placing),
            target_pixels=self.spread,
        )

    def _pooling(self, placing: Placing) -> Pooling | None:
        pool = self.step.pool
        if pool is None:
            return None
        columns = self.graph.feature_maps[self.step.target].width
        first = pool.window[1] - 1 - pool.padding.left
        return Pooling(pool.window[1], pool.stride[1], first, columns, int(placing.combines), int(placing.copies))

    def _parameters_of(self, number: int, run: Run, first: int, last: int, taps: int) -> Parameters:
        key = (number, first, last, taps)
        if key not in self._parameters:
            layout = self.window.target.layout
            parameters = fold_parameters(self.window.kernel, layout, run, slice(first, last), self.architecture)
            if self.window.excludes_padding:
                parameters = self._mean_parameters(parameters, (last - first) * taps)
            self._parameters[key] = parameters
        return self._parameters[key]

    def _mean_parameters(self, parameters: Parameters, count: int) -> Parameters:
        division = divide_by(count)
        if division is None:
            raise refuse(self.step.layer, f"a mean of {count} values cannot be computed exactly")
        ones = np.ones_like(parameters.bias)
        multiplier, left, right = (ones * value for value in division)
        return Parameters(0 * ones, multiplier, left, right)


def _write_from(operation: RowOperation, column: int) -> RowOperation:
    """The operation that writes its first pixel to this column of the target."""
    target = operation.target
    words = target.words + column * target.storage.pixel_words
    return replace(operation, target=replace(target, words=words))


def _addition(graph: Graph, step: Step) -> Addition | None:
    if step.addition is None or step.residual is None:
        return None
    layer, maps = step.addition, graph.feature_maps
    operand, other = step.operand, 1 - step.operand
    return Addition(
        residual_zero=maps[layer.inputs[other]].quantisation.zero_point,
        sum_zero=maps[layer.output].quantisation.zero_point,
        sum_min=layer.activation_min,
        sum_max=layer.activation_max,
        result_multiplier=layer.input_multipliers[operand],
        result_shift=-layer.input_shifts[operand],
        residual_multiplier=layer.input_multipliers[other],
        residual_shift=-layer.input_shifts[other],
        sum_multiplier=layer.output_multiplier,
        sum_shift=-layer.output_shift,
    )
