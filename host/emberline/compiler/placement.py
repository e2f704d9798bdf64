"""Pass: a storage and a layout for every map, so that concatenations and residual sums cost no copies."""

from __future__ import annotations

from dataclasses import dataclass

from emberline.arch.architecture import Architecture
from emberline.compiler.channel_order import choose_layout
from emberline.compiler.packing import FramePacking
from emberline.compiler.rows import Layout, Placement, Role, Storage
from emberline.compiler.steps import Plan
from emberline.model.graph import Convolution, Graph


@dataclass(frozen=True)
class Places:
    """Where every map lies; ``frame`` is the storage of the input map."""

    packing: FramePacking
    frame: Storage
    storages: list[Storage]
    placements: dict[str, Placement]


class MisalignedSumError(Exception):
    """The pieces of a sum, named by its layer, do not begin at whole groups of the residual map."""


def place(graph: Graph, plan: Plan, packing: FramePacking, architecture: Architecture) -> Places:
    """Layouts first, producers before readers; then storages. May raise ``MisalignedSumError``."""
    layouts = _Layouts(graph, plan, architecture)
    x = graph.feature_maps[graph.inputs[0]]
    size = packing.stored_rows, packing.stored_columns, packing.pixel_words
    frame = Storage(x.name, Role.FRAME, *size, ring_rows=2 * packing.stored_rows, link=packing.frame_rows)
    builder = _Builder(graph, plan, layouts, architecture)
    builder.placements[x.name] = Placement(frame, 0, layouts.of(x.name))
    builder.build()
    return Places(packing, frame, builder.storages, builder.placements)


class _Layouts:
    """The layout of every map, found when it is asked for, from what the map is made of."""

    def __init__(self, graph: Graph, plan: Plan, architecture: Architecture) -> None:
        self.graph, self.plan, self.architecture = graph, plan, architecture
        self.frame = graph.inputs[0]
        self.steps = {step.target: step for step in plan.steps}
        channels = graph.feature_maps[self.frame].channels
        self._found = {self.frame: Layout.dense(channels, architecture.lanes_out)}

    def of(self, name: str) -> Layout:
        if name not in self._found:
            self._found[name] = self._derive(name)
        return self._found[name]

    def view(self, name: str) -> tuple[int, Layout]:
        """A view's first group within its map, and its layout from there."""
        view, lanes_out = self.plan.views[name], self.architecture.lanes_out
        positions = self.of(view.whole).positions
        inside = [positions[channel] for channel in view.channels]
        first, last = min(inside) // lanes_out, max(inside) // lanes_out
        if not view.exclusive:
            first -= first % self.architecture.groups_per_word
        elif any(first <= position // lanes_out <= last for position in set(positions) - set(inside)):
            raise MisalignedSumError(
                next(step.addition.name for step in self.plan.steps if step.residual == name and step.addition)
            )
        return first, Layout(tuple(position - first * lanes_out for position in inside), last - first + 1)

    def _derive(self, name: str) -> Layout:
        if name in self.plan.views:
            return self.view(name)[1]
        if name in self.plan.members:
            return self._concatenated([self.of(member) for member in self.plan.members[name]])
        step = self.steps[name]
        if step.residual is not None:
            return self.of(step.residual)
        channels = self.graph.feature_maps[self.plan.copies.get(name, name)].channels
        dense = Layout.dense(channels, self.architecture.lanes_out)
        if step.source == self.frame:
            return dense
        layer = step.layer
        if isinstance(layer, Convolution):
            if layer.groups != channels or layer.groups == 1 or layer.weights.shape[3] != 1:
                return choose_layout(self.graph, layer, self.of(step.source), self.architecture)
            if self.of(step.source).groups > 2 * dense.groups:
                return dense
        # Channel by channel: each stays in its byte.
        return self.of(step.source)

    def _concatenated(self, layouts: list[Layout]) -> Layout:
        positions: list[int] = []
        groups = 0
        for layout in layouts:
            positions += [groups * self.architecture.lanes_out + position for position in layout.positions]
            groups += layout.groups
        return Layout(tuple(positions), groups)


class _Builder:
    """Gives out storages; ``placements`` grows from whole concatenations to their parts, and along the steps."""

    def __init__(self, graph: Graph, plan: Plan, layouts: _Layouts, architecture: Architecture) -> None:
        self.graph, self.plan, self.layouts, self.architecture = graph, plan, layouts, architecture
        self.placements: dict[str, Placement] = {}
        self.storages: list[Storage] = []
        self.inside = {member: whole for whole, members in plan.members.items() for member in members}
        self.inside |= {name: view.whole for name, view in plan.views.items()}
        self.results = {self._outermost(name) for name in graph.accelerator_outputs}
        self.last_read: dict[str, int] = {}
        for index, step in enumerate(plan.steps):
            for name in step.reads:
                self.last_read[self._outermost(name)] = index

    def _outermost(self, name: str) -> str:
        while name in self.inside:
            name = self.inside[name]
        return name

    def build(self) -> None:
        for index, step in enumerate(self.plan.steps):
            for name in step.reads:
                self._place_view(name)
            if step.target not in self.placements:
                whole = self._outermost(step.target)
                residual = self._replaceable_residual(index, whole)
                if residual is not None:
                    self.placements[whole] = self.placements[residual]
                else:
                    self.placements[whole] = Placement(self._new_storage(whole), 0, self.layouts.of(whole))
                self._place_members(whole)
        for name in self.plan.views:
            self._place_view(name)

    def _place_view(self, name: str) -> None:
        """Some channels of a map that has its place, or of a view of one."""
        if name in self.plan.views and name not in self.placements:
            whole = self.plan.views[name].whole
            self._place_view(whole)
            place, (first, layout) = self.placements[whole], self.layouts.view(name)
            self.placements[name] = Placement(place.storage, place.group_offset + first, layout)

    def _replaceable_residual(self, index: int, whole: str) -> str | None:
        """The residual operand of the sum ``whole`` if the sum may overwrite it, pixel by pixel."""
        pieces = [step for step in self.plan.steps if step.addition is not None and step.addition.output == whole]
        if not pieces or pieces[0].residual is None or whole in self.results:
            return None
        name = pieces[0].residual
        if name in self.plan.views and not self.plan.views[name].exclusive:
            return None
        residual = self.plan.views[name].whole if name in self.plan.views else name
        if self._outermost(residual) != residual or self.layouts.of(residual) != self.layouts.of(whole):
            return None
        storage = self.placements[residual].storage
        last = index + len(pieces) - 1
        residents = {name for name, place in self.placements.items() if place.storage is storage}
        dead = all(self.last_read.get(self._outermost(name), last) <= last for name in residents)
        apart = all(self.placements[step.source].storage is not storage for step in pieces)
        return residual if dead and apart and storage.role is Role.MAP else None

    def _new_storage(self, name: str) -> Storage:
        x = self.graph.feature_maps[name]
        words = -(-self.layouts.of(name).groups // self.architecture.groups_per_word)
        role = Role.RESULT if name in self.results else Role.MAP
        self.storages.append(Storage(name, role, x.height, x.width, words, ring_rows=x.height))
        return self.storages[-1]

    def _place_members(self, whole: str) -> None:
        """The parts of a concatenation, and their parts, one behind the other."""
        place = self.placements[whole]
        offset = place.group_offset
        for name in self.plan.members.get(whole, ()):
            self.placements[name] = Placement(place.storage, offset, self.layouts.of(name))
            offset += self.layouts.of(name).groups
            self._place_members(name)
