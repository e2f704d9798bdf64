"""Pass: a storage and a layout for every map, so that concatenations and residual sums cost no copies."""

from __future__ import annotations

from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.compiler.checks import refuse
from emberline.compiler.rows import Layout, Placement, Role, Storage
from emberline.compiler.steps import Part, Step
from emberline.model.graph import Add, AveragePool, Concatenation, Convolution, Graph, Pad


@dataclass(frozen=True)
class FramePacking:
    """How the input map travels on the link and lies in the frame ring.

    Parameters:
        channels: bytes of one pixel on the link.
        columns: pixels of one row on the link.
        window, skip, stride, stored_columns: the FRAME instruction's.
        map_channels: channels of the input map; more than ``channels`` where pixels are cut into words.
    """

    channels: int
    columns: int
    window: int
    skip: int
    stride: int
    stored_columns: int
    map_channels: int

    @property
    def flattens_kernel(self) -> bool:
        """Whether a stored word holds a whole kernel row."""
        return self.window > 1


@dataclass(frozen=True)
class Places:
    """Where every map lies; ``frame`` is the storage of the input map."""

    packing: FramePacking
    frame: Storage
    storages: list[Storage]
    placements: dict[str, Placement]


def pack_input(graph: Graph, steps: list[Step], architecture: Architecture) -> FramePacking:
    """Words that hold a whole kernel row if the only reader is a convolution small enough, else one pixel."""
    x = graph.feature_maps[graph.inputs[0]]
    readers = [step for step in steps if x.name in step.reads]
    lanes = architecture.lanes_in
    if len(readers) == 1 and isinstance(readers[0].layer, Convolution):
        layer = readers[0].layer
        window = layer.dilation[1] * (layer.kernel[1] - 1) + 1
        skip = window - 1 - layer.padding.left
        if window > 1 and window * x.channels <= lanes and skip >= 0 and layer.stride[1] < 16:
            columns = graph.feature_maps[layer.output].width
            return FramePacking(x.channels, x.width, window, skip, layer.stride[1], columns, x.channels)
    if x.channels <= lanes:
        return FramePacking(x.channels, x.width, 1, 0, 1, x.width, x.channels)
    columns = x.width * -(-x.channels // lanes)
    return FramePacking(lanes, columns, 1, 0, 1, columns, x.channels)


def place(
    graph: Graph, steps: list[Step], parts: dict[str, Part], copies: dict[str, str], architecture: Architecture
) -> Places:
    """Layouts first, producers before readers; then storages."""
    packing = pack_input(graph, steps, architecture)
    layouts = _layouts(graph, steps, parts, copies, packing, architecture)
    x = graph.feature_maps[graph.inputs[0]]
    words = -(-x.channels // architecture.lanes_in)
    frame = Storage(x.name, Role.FRAME, x.height, packing.stored_columns // words, words, ring_rows=2 * x.height)
    builder = _Builder(graph, steps, parts, copies, layouts, architecture)
    builder.placements[x.name] = Placement(frame, 0, layouts[x.name])
    builder.build()
    return Places(packing, frame, builder.storages, builder.placements)


def _frame_layout(packing: FramePacking, architecture: Architecture) -> Layout:
    """Channels in the top lanes; whole words as they are. With a window: of the newest pixel."""
    if packing.map_channels > architecture.lanes_in:
        return Layout.dense(packing.map_channels, architecture.lanes_out)
    first = architecture.lanes_in - packing.channels
    return Layout(tuple(range(first, architecture.lanes_in)), architecture.groups_per_word)


def _layouts(
    graph: Graph,
    steps: list[Step],
    parts: dict[str, Part],
    copies: dict[str, str],
    packing: FramePacking,
    architecture: Architecture,
) -> dict[str, Layout]:
    lanes_out = architecture.lanes_out
    frame = graph.inputs[0]
    layouts = {frame: _frame_layout(packing, architecture)}
    by_target = {step.target: step for step in steps}

    def layout_of(name: str) -> Layout:
        if name in layouts:
            return layouts[name]
        producer = graph.producer(name)
        if isinstance(producer, Concatenation):
            layouts[name] = _concatenated([layout_of(part) for part in part_names(producer, parts)], lanes_out)
            return layouts[name]
        step = by_target[name]
        if step.residual is not None:
            layouts[name] = layout_of(step.residual)
        elif step.source != frame and isinstance(step.layer, AveragePool | Pad | Concatenation | Add):
            layouts[name] = layout_of(step.source)
        else:
            channels = graph.feature_maps[copies.get(name, name)].channels
            layouts[name] = Layout.dense(channels, lanes_out)
        return layouts[name]

    for layer in graph.layers:
        if layer.output in by_target or isinstance(layer, Concatenation):
            layout_of(layer.output)
    return layouts


def part_names(layer: Concatenation, parts: dict[str, Part]) -> list[str]:
    """The maps that make up a concatenation: its inputs, or their copies."""
    names = []
    for index, name in enumerate(layer.inputs):
        copy = f"{layer.name}[{index}]"
        names.append(copy if copy in parts else name)
    return names


def _concatenated(layouts: list[Layout], lanes_out: int) -> Layout:
    positions: list[int] = []
    groups = 0
    for layout in layouts:
        positions += [groups * lanes_out + position for position in layout.positions]
        groups += layout.groups
    return Layout(tuple(positions), groups)


class _Builder:
    """Gives out storages; ``placements`` grows from whole concatenations to their parts, and along the steps."""

    def __init__(
        self,
        graph: Graph,
        steps: list[Step],
        parts: dict[str, Part],
        copies: dict[str, str],
        layouts: dict[str, Layout],
        architecture: Architecture,
    ) -> None:
        self.graph, self.steps, self.parts, self.copies = graph, steps, parts, copies
        self.layouts, self.architecture = layouts, architecture
        self.placements: dict[str, Placement] = {}
        self.storages: list[Storage] = []
        self.outermost = {name: self._outermost(name) for name in layouts}
        self.results = {self.outermost[name] for name in graph.accelerator_outputs}
        self.last_read = {}
        for index, step in enumerate(steps):
            for name in step.reads:
                self.last_read[self.outermost[name]] = index

    def _outermost(self, name: str) -> str:
        while name in self.parts:
            name = self.parts[name].whole
        return name

    def build(self) -> None:
        for index, step in enumerate(self.steps):
            if step.target not in self.placements:
                whole = self.outermost[step.target]
                if whole == step.target and self._can_take_residual(index, step):
                    assert step.residual is not None
                    self.placements[step.target] = self.placements[step.residual]
                elif whole not in self.placements:
                    self.placements[whole] = Placement(self._new_storage(whole), 0, self.layouts[whole])
                    self._place_parts(whole)

    def _can_take_residual(self, index: int, step: Step) -> bool:
        """Whether the sum may overwrite its residual operand, pixel by pixel."""
        if step.residual is None or step.target in self.results or step.residual in self.parts:
            return False
        place, source = self.placements[step.residual], self.placements[step.source]
        residents = {name for name, other in self.placements.items() if other.storage is place.storage}
        dead = all(self.last_read.get(self.outermost[name], index) <= index for name in residents)
        return dead and place.storage.role is Role.MAP and source.storage is not place.storage

    def _new_storage(self, name: str) -> Storage:
        x = self.graph.feature_maps[name]
        words = -(-self.layouts[name].groups // self.architecture.groups_per_word)
        role = Role.RESULT if name in self.results else Role.MAP
        self.storages.append(Storage(name, role, x.height, x.width, words, ring_rows=x.height))
        return self.storages[-1]

    def _place_parts(self, whole: str) -> None:
        """The parts of a concatenation, and their parts, one behind the other."""
        producer = self.graph.producer(whole)
        if not isinstance(producer, Concatenation):
            return
        place = self.placements[whole]
        offset = place.group_offset
        for name in part_names(producer, self.parts):
            if name not in self.parts or self.parts[name].whole != whole:
                raise refuse(producer, f"input '{name}' cannot be placed")
            self.placements[name] = Placement(place.storage, offset, self.layouts[name])
            offset += self.layouts[name].groups
            self._place_parts(name)
