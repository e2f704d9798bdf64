"""Pass: row operations with addresses become instruction words. Pointers, fences, waits and loops are found here."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from emberline.arch.architecture import Architecture
from emberline.arch.isa import POINTER_COUNT, Opcode
from emberline.arch.listing import encode
from emberline.compiler.allocate import held_rows
from emberline.compiler.checks import kib, refuse
from emberline.compiler.hazards import idle_cycles
from emberline.compiler.loops import Token, find_loops, write
from emberline.compiler.packing import FramePacking
from emberline.compiler.pages import make_pages
from emberline.compiler.rows import Access, Role, Schedule, Storage
from emberline.compiler.schedule.frame import plan_frame_rows
from emberline.compiler.streaming import PlacedWeights


@dataclass(frozen=True)
class Emission:
    """A program's words, and the layer of every ROW by its address; what the flash holds: weights, then pages."""

    words: list[int]
    row_layers: dict[int, str]
    stream: bytes


class _Chain:
    """One pointer's life: the operations that use it, by index, and the address in each."""

    def __init__(self, storage: Storage, role: str) -> None:
        self.storage, self.role = storage, role
        self.users: list[int] = []
        self.addresses: list[int] = []
        self.pointer = -1

    @property
    def persists(self) -> bool:
        return self.storage.role is Role.FRAME


def emit(
    schedule: Schedule, packing: FramePacking, zero: int, weights: PlacedWeights, architecture: Architecture
) -> Emission:
    """The program of a schedule with addresses, fences and waits; ``zero`` is the input's zero point.

    If it is longer than the instruction memory, and there is a source of weights, pages of it come from there.

    Raises ``CompileError``, naming the layer, where a number does not fit its field or memory is exhausted.
    """
    return _Emitter(schedule, packing, zero, weights, architecture).emit()


class _Emitter:
    def __init__(
        self, schedule: Schedule, packing: FramePacking, zero: int, weights: PlacedWeights, architecture: Architecture
    ) -> None:
        self.schedule, self.packing, self.zero = schedule, packing, zero
        self.weights, self.architecture = weights, architecture
        self.operations = schedule.operations

    def emit(self) -> Emission:
        chains = self._chains()
        moves = self._moves(chains)
        rows = [self._row_fields(index, moves[index]) for index in range(len(self.operations))]
        self._repeat_last_steps(chains, rows)
        tokens = self._prologue(chains)
        starts: dict[int, list[_Chain]] = {}
        for chain in chains:
            if not chain.persists:
                starts.setdefault(chain.users[0], []).append(chain)
        for index, fields in enumerate(rows):
            layer = self.operations[index].layer
            for load in self.weights.loads.get(index, ()):
                tokens.append(Token(load.layer, self._encode(Opcode.LOAD, load.fields, load.layer)))
            for chain in starts.get(index, []):
                tokens.append(self._set(chain, layer))
            tokens.append(Token(layer, self._encode(Opcode.ROW, fields, layer), is_row=True))
        nodes, stream = find_loops(tokens), self.weights.stream
        words, layers = write(nodes)
        words += encode(Opcode.END, {})
        if len(words) > self.architecture.program_depth_words and self.architecture.streams:
            program = make_pages(nodes, self.architecture, self.weights.offset + len(stream))
            words, layers, stream = program.words, program.layers, stream + program.stream
        else:
            self._check_size(words, layers)
        row_layers = {address: layer for address, (layer, is_row) in layers.items() if is_row}
        return Emission(words, row_layers, stream)

    def _check_size(self, words: list[int], layers: dict[int, tuple[str, bool]]) -> None:
        depth = self.architecture.program_depth_words
        if len(words) > depth:
            layer = next((layer for address, (layer, _) in sorted(layers.items()) if address >= depth - 1), "")
            raise refuse(
                layer or self.operations[-1].layer,
                f"the program needs {kib(4 * len(words))} in all, {kib(4 * depth)} of instruction memory available on "
                f"'{self.architecture.name}' and used up here",
            )

    # --- pointers

    def _chains(self) -> list[_Chain]:
        """The pointers' lives in order of their beginning, each with a register."""
        found: dict[tuple[int, int, str, int], _Chain] = {}
        for index, (operation, turn) in enumerate(zip(self.operations, self.schedule.turns(), strict=True)):
            for role, access in operation.accesses:
                persists = access.storage.role is Role.FRAME
                key = (operation.step, 0 if persists else turn, role, id(access.storage))
                chain = found.setdefault(key, _Chain(access.storage, role))
                chain.users.append(index)
                chain.addresses.append(self._linear(access))
        chains = list(found.values())
        self._give_pointers(chains)
        return chains

    def _linear(self, access: Access) -> int:
        """Groups from the start of the storage's row 0, not wrapped."""
        words = access.row * access.storage.row_words + access.words
        return words * self.architecture.groups_per_word + access.groups

    def _ring(self, storage: Storage) -> tuple[int, int]:
        return storage.start, storage.start + storage.words * self.architecture.groups_per_word

    def _give_pointers(self, chains: list[_Chain]) -> None:
        free = list(range(POINTER_COUNT))
        for chain in chains:
            if chain.persists:
                if not free:
                    raise refuse(self.operations[chain.users[0]].layer, "too many layers read the network's input")
                chain.pointer = free.pop(0)
        busy: list[_Chain] = []
        for chain in sorted((chain for chain in chains if not chain.persists), key=lambda chain: chain.users[0]):
            for other in [other for other in busy if other.users[-1] < chain.users[0]]:
                busy.remove(other)
                free.append(other.pointer)
            if not free:
                raise refuse(self.operations[chain.users[0]].layer, f"needs more than {POINTER_COUNT} row pointers")
            free.sort()
            chain.pointer = free.pop(0)
            busy.append(chain)

    def _moves(self, chains: list[_Chain]) -> list[dict[str, int]]:
        """Pointer, step and ring fields of every operation."""
        moves: list[dict[str, int]] = [{} for _ in self.operations]
        for chain in chains:
            start, end = self._ring(chain.storage)
            following = [*chain.addresses[1:], self._next_frame(chain)]
            for index, address, after in zip(chain.users, chain.addresses, following, strict=True):
                moves[index] |= {
                    f"{chain.role}_pointer": chain.pointer,
                    f"{chain.role}_step": (after - address) % (end - start),
                    f"{chain.role}_start": start,
                    f"{chain.role}_end": end,
                }
        return moves

    def _next_frame(self, chain: _Chain) -> int:
        """Where the chain's first operation reads in the next frame; a map's pointer may stay where it is."""
        if not chain.persists:
            return chain.addresses[-1]
        height = chain.storage.height * chain.storage.row_words * self.architecture.groups_per_word
        return chain.addresses[0] + height

    def _repeat_last_steps(self, chains: list[_Chain], rows: list[dict[str, int]]) -> None:
        """A map's pointer may end anywhere: let its last step be that of a ROW like it, so that they make a loop."""
        for chain in chains:
            if chain.persists:
                continue
            step = f"{chain.role}_step"
            last = rows[chain.users[-1]]
            for index in reversed(chain.users[:-1]):
                if all(rows[index][name] == value for name, value in last.items() if name not in _POINTER_STEPS):
                    last[step] = rows[index][step]
                    break

    # --- instructions

    def _encode(self, opcode: Opcode, fields: dict[str, int], layer: str) -> tuple[int, ...]:
        try:
            return tuple(encode(opcode, fields))
        except ValueError as error:
            raise refuse(layer, f"does not fit the instruction set: {error}") from None

    def _set(self, chain: _Chain, layer: str) -> Token:
        start, end = self._ring(chain.storage)
        value = start + chain.addresses[0] % (end - start)
        return Token(layer, self._encode(Opcode.SET, {"pointer": chain.pointer, "value": value}, layer))

    def _prologue(self, chains: list[_Chain]) -> list[Token]:
        frame, packing = self.schedule.frame, self.packing
        start, end = self._ring(frame)
        held = held_rows(frame, frame.ring_rows)
        fields = {**packing.fields(), "held_rows": held, "zero": self.zero, "start": start, "end": end}
        results = [storage for storage in self.schedule.storages if storage.role is Role.RESULT]
        result = {"start": results[0].start, "words": sum(storage.words for storage in results)}
        tokens = [
            Token("", self._encode(Opcode.FRAME, fields, frame.name)),
            Token("", self._encode(Opcode.RESULT, result, results[0].name)),
        ]
        tokens += [self._set(chain, "") for chain in chains if chain.persists]
        wait_rows = packing.rows if frame.ring_rows >= frame.height else self._first_wait()
        tokens.append(Token("", self._encode(Opcode.BEGIN, {"wait_rows": wait_rows}, frame.name)))
        return tokens

    def _first_wait(self) -> int:
        return next((operation.wait_rows for operation in self.operations if operation.wait_rows), 0)

    def _row_fields(self, index: int, moves: dict[str, int]) -> dict[str, int]:
        operation, architecture = self.operations[index], self.architecture
        weights, groups = operation.weights, architecture.groups_per_word
        weight_address, parameter_address = self.weights.addresses[operation]
        fields = {
            "add": int(operation.addition is not None),
            "pool": int(operation.pooling is not None),
            "depthwise": int(operation.depthwise),
            "fence": int(operation.fence),
            "hold_result": int(operation.hold_result),
            "hold_weight": int(weights.hold),
            "row_step": 0,
            "target_pixel_step": operation.target.storage.pixel_words * operation.target_pixels * groups,
            "weight_address": weight_address + operation.first_tap,
            "weight_step": weights.words.shape[1] if len(weights.words) > 1 else 0,
            "parameter_address": parameter_address,
            "idle": idle_cycles(operation, architecture),
            "loads": self.weights.waits[operation],
            **moves,
        }
        for name in _PLAIN_FIELDS:
            fields[name] = getattr(operation, name)
        if operation.kernel_rows > 1:
            fields["row_step"] = operation.source_rows * operation.source.storage.row_words * groups
        if operation.addition is not None and operation.residual is not None:
            fields |= asdict(operation.addition)
            fields["residual_pixel_step"] = operation.residual.storage.pixel_words * groups
        if operation.pooling is not None:
            fields |= asdict(operation.pooling)
        return fields


_POINTER_STEPS = ("source_step", "target_step", "residual_step", "copy_step")
_PLAIN_FIELDS = (
    "wait_rows", "release_rows", "row_words", "pad_words", "pixel_step", "tap_step", "kernel_rows", "kernel_columns",
    "channel_words", "source_zero", "columns", "groups", "target_zero", "clamp_min", "clamp_max", "lead",
)  # fmt: skip


def plan_waits(schedule: Schedule) -> None:
    """Set the operations' frame rows to wait for and to release, and the first one that touches the result.

    A ring that holds a whole frame is waited for once, by BEGIN; a smaller one row by row.
    """
    whole = schedule.frame.ring_rows >= schedule.frame.height
    keep = held_rows(schedule.frame, schedule.frame.ring_rows) if schedule.frame_until else 0
    plan = plan_frame_rows(schedule.operations, schedule.frame, keep, schedule.frame_until)
    for operation, (waits, releases) in zip(schedule.operations, plan, strict=True):
        operation.wait_rows = 0 if whole else waits
        operation.release_rows = releases
        operation.hold_result = False
    for operation in schedule.operations:
        if operation.target.storage.role is Role.RESULT:
            operation.hold_result = True
            break
