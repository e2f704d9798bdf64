"""The instruction set, executed: what every instruction does to the machine's state, in numpy.

This is the definition that the gateware is held against. A ROW is computed whole, not column by column; the machine
therefore refuses what would depend on the order inside a ROW or between ROWs in flight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.isa import LOAD_QUEUE, POINTER_COUNT, Fault, Opcode
from emberline.arch.latency import minimum_idle
from emberline.arch.layout import WORD_BYTES
from emberline.arch.listing import Instruction, unroll, validate
from emberline.arch.pages import Page, pages
from emberline.arch.pooled_row import PooledRow, combines_in_flight
from emberline.errors import EmulationError, ForeignWeightsError, WeightFaultError, WeightStreamError
from emberline.model.depthwise_arithmetic import DepthwiseArithmetic
from emberline.model.flash import Flash, SentWeights, WeightSource, page_words, read_pages
from emberline.model.frame_ring import FrameRing
from emberline.model.row_arithmetic import Fields, RowArithmetic

ROWS_IN_FLIGHT = 1
"""ROWs before the current one that may not have written everything yet."""

_Places = NDArray[np.int64]


class Machine:
    """Memories, pointers and the frame ring of an accelerator; executes one frame at a time.

    Everything that is not in a program's control survives from frame to frame: both memories, the pointers, the
    place in the frame ring. Memories start as zeros.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.activations = np.zeros((architecture.activation_depth_words, architecture.lanes_in), np.int8)
        self.weights = np.zeros(
            (architecture.weight_depth_words, architecture.lanes_out, architecture.lanes_in), np.int8
        )
        self.pointers = [0] * POINTER_COUNT
        self._groups = self.activations.reshape(-1, architecture.lanes_out)
        self._body: list[Instruction] = []
        self._instruction: Instruction | None = None
        self._result: Fields = {}
        self._ring: FrameRing | None = None
        self._rows: dict[int, RowArithmetic] = {}
        self._writer = np.full(architecture.activation_depth_groups, -ROWS_IN_FLIGHT - 1, np.int64)
        self._sequence = self._landed = self._last_add = 0
        self._last_is_pair = False
        self._last_pool: tuple[PooledRow, _Places, _Places | None] | None = None
        self._result_is_free = False
        self._source: WeightSource = Flash(b"", 0)
        self._loader = np.zeros(architecture.weight_depth_words, np.int64)  # the LOAD that wrote each word
        self._loads = self._complete = 0
        self._words: list[int] = []
        self._instruction_memory = np.zeros(architecture.program_depth_words, np.uint32)

    def load_flash(self, data: bytes, offset: int) -> None:
        """What LOADs read: ``data`` from byte ``offset`` on."""
        self._source = Flash(data, offset)

    def fetch_sent_weights(self) -> SentWeights:
        """From now on LOADs take, in their order, what is appended to the answer."""
        self._source = sent = SentWeights()
        return sent

    def load_weights(self, data: bytes, address: int = 0) -> None:
        """Write whole weight words from word ``address``; ``EmulationError`` where they do not fit."""
        size = self.architecture.multipliers
        count, rest = divmod(len(data), size)
        if rest or address < 0 or address + count > self.architecture.weight_depth_words:
            raise EmulationError(f"{len(data)} bytes of weights at word {address} are not whole words or do not fit")
        shape = (count, self.architecture.lanes_out, self.architecture.lanes_in)
        self.weights[address : address + count] = np.frombuffer(data, np.int8).reshape(shape)
        self._loader[address : address + count] = 0
        self._rows.clear()

    def whole_program(self, words: list[int]) -> list[int]:
        """All pages of the program that begins with ``words``, those behind the first from the flash."""
        return read_pages(words, self._source)

    def load_program(self, words: list[int]) -> None:
        """Check a program and execute its prologue; the frame ring is empty afterwards. Raises ``ProgramError``.

        Of one with several pages only the first is in the instruction memory then.
        """
        instructions = validate(words, self.architecture)
        self._words, self._pages = list(words), pages(instructions)
        self._instruction_memory[:] = 0
        self._instruction_memory[: self._pages[0].words] = words[: self._pages[0].words]
        self._rows.clear()
        begin = next(index for index, each in enumerate(instructions) if each.opcode is Opcode.BEGIN)
        for instruction in instructions[:begin]:
            match instruction.opcode:
                case Opcode.SET:
                    self._set(instruction.fields)
                case Opcode.FRAME:
                    self._ring = FrameRing(
                        instruction.fields, self.activations, self.architecture.groups_per_word, self._require
                    )
                case Opcode.RESULT:
                    self._result = instruction.fields
        self._body = instructions[begin:]

    @property
    def frame_row_bytes(self) -> int:
        """Bytes of one row on the link."""
        return self._loaded_ring().row_bytes

    def run_frame(self, data: bytes) -> bytes:
        """Feed one frame, execute ``BEGIN`` … ``END``, return the result's bytes.

        Raises ``EmulationError``, naming the instruction, for anything that the instruction set forbids.
        """
        ring = self._loaded_ring()
        rows = ring.begin(data)
        frame_end = ring.released + rows
        self._landed = self._sequence
        self._result_is_free = False
        following = iter(self._pages[1:])
        for instruction in unroll(self._body):
            self._instruction = instruction
            match instruction.opcode:
                case Opcode.SET:
                    self._set(instruction.fields)
                case Opcode.BEGIN:
                    ring.wait_for(instruction.fields["wait_rows"])
                case Opcode.ROW:
                    ring.wait_for(instruction.fields["wait_rows"])
                    self._row(instruction, ring)
                    ring.release(instruction.fields["release_rows"], self._have_landed)
                case Opcode.LOAD:
                    self._load(instruction.fields)
                case Opcode.JUMP:
                    self._enter(next(following))
        self._instruction = None
        if ring.released != frame_end:
            taken = ring.released - frame_end + rows
            raise EmulationError(f"the program released {taken} rows of a frame of {rows}")
        start, groups = self._result["start"], self.architecture.groups_per_word
        return self.activations[start // groups : start // groups + self._result["words"]].tobytes()

    # --- control

    def _set(self, fields: Fields) -> None:
        self.pointers[fields["pointer"]] = fields["value"]

    def _take(self, fields: Fields, role: str) -> int:
        """A row's address; the pointer moves on within its ring."""
        pointer = fields[f"{role}_pointer"]
        address, start, end = self.pointers[pointer], fields[f"{role}_start"], fields[f"{role}_end"]
        self._require(start <= address < end, f"{role} pointer {pointer} is {address}, outside {start}..{end}")
        following = address + fields[f"{role}_step"]
        self.pointers[pointer] = following - (end - start) if following >= end else following
        return address

    def _require(self, condition: bool, reason: str) -> None:
        if not condition:
            where = "" if self._instruction is None else f"word {self._instruction.address}: "
            name = "" if self._instruction is None else f"{self._instruction.opcode.name} "
            raise EmulationError(f"{where}{name}{reason}")

    def _loaded_ring(self) -> FrameRing:
        if self._ring is None:
            raise EmulationError("no program is loaded")
        return self._ring

    # --- fetched weights

    def _load(self, fields: Fields) -> None:
        """Write the words at once: as early as the hardware could, so that a ROW that needs others shows."""
        try:
            data = self._source.fetch(fields)
        except WeightStreamError as error:
            fault = Fault.WEIGHTS_CHECK if isinstance(error, ForeignWeightsError) else Fault.WEIGHTS
            raise WeightFaultError(f"word {self._address}: LOAD {error}", fault) from None
        address, words = fields["address"], fields["words"]
        size = words * (WORD_BYTES if fields["page"] else self.architecture.multipliers)
        if len(data) != size:
            text = f"word {self._address}: LOAD decodes to {len(data)} bytes instead of {size}"
            raise WeightFaultError(text, Fault.WEIGHTS)
        if fields["page"]:
            self._instruction_memory[address : address + words] = page_words(data)
            return
        self.weights[address : address + words] = np.frombuffer(data, np.int8).reshape(words, *self.weights.shape[1:])
        self._loads += 1
        self._loader[address : address + words] = self._loads
        self._rows.clear()

    def _enter(self, page: Page) -> None:
        """Refuse to go on with words that are not the page's. JUMP has waited for every LOAD that brings some."""
        there = self._instruction_memory[page.address : page.end]
        wrong = np.flatnonzero(there != self._words[page.first : page.first + page.words])
        where = f"{page.address + wrong[0]} of the instruction memory" if len(wrong) else ""
        self._require(not len(wrong), f"goes on where word {where} is not the program's")

    def _check_loaded(self, f: Fields, arithmetic: RowArithmetic) -> None:
        """Refuse to use weights of a LOAD that may not be complete."""
        self._complete = max(self._complete, self._loads - min(f["loads"], LOAD_QUEUE))
        for begin, end in arithmetic.weight_ranges():
            late = int(self._loader[begin:end].max()) - self._complete
            self._require(late <= 0, f"uses weight words {begin}..{end}, of which a LOAD may not be complete")

    @property
    def _address(self) -> int:
        return -1 if self._instruction is None else self._instruction.address

    # --- the lanes

    def _row(self, instruction: Instruction, ring: FrameRing) -> None:
        f = instruction.fields
        arithmetic = self._rows.get(instruction.address)
        if arithmetic is None:
            arithmetic = self._rows[instruction.address] = self._prepare(instruction)
        if f["fence"]:
            self._landed = self._sequence
        self._require(
            bool(f["fence"]) or f["add"] == self._last_add or self._landed == self._sequence,
            "needs a fence, as the ROW before it " + ("has no" if f["add"] else "has a") + " residual addition",
        )
        self._last_add = f["add"]
        self._require(
            not (f["pool"] and f["combine"] and self._last_is_pair) or self._landed == self._sequence,
            "combines, and needs a fence, as the ROW before it writes two rows in all cycles",
        )
        self._last_is_pair = bool(f["depthwise"] and f["pool"] and f["copy"])
        if self.architecture.streams:
            self._check_loaded(f, arithmetic)
        source, target = self._take(f, "source"), self._take(f, "target")
        residual = self._take(f, "residual") if f["add"] else -1
        rows = self._source_rows(f, source, arithmetic, ring)
        values = arithmetic.convolve(self.activations, rows)
        targets = self._pixels(f, target, arithmetic.target_offsets, "target")
        self._check_write(f, target, target + arithmetic.target_span, ring)
        self._check_own_source(rows, arithmetic, targets)
        if f["add"]:
            operands = self._pixels(f, residual, arithmetic.residual_offsets, "residual")
            self._check_in_flight(operands, "residual")
            same = residual == target and f["residual_pixel_step"] == f["target_pixel_step"]
            self._require(same or not np.isin(targets, operands).any(), "overwrites part of its residual row")
            values = arithmetic.add(values, self._groups[operands])
        if f["pool"]:
            values = self._pool(f, arithmetic, values, rows, targets, ring)
        else:
            self._last_pool = None
        self._write(targets, values)
        self._sequence += 1

    def _check_own_source(self, rows: list[int], arithmetic: RowArithmetic, targets: _Places) -> None:
        for row in rows:
            source = row * self.architecture.groups_per_word + arithmetic.read_groups
            clear = len(source) == 0 or source[-1] < targets[0, 0] or targets[-1, -1] < source[0]
            clear = clear or not np.isin(targets, source).any()
            self._require(clear, f"writes into its own source row at group {targets[0, 0]}")

    def _write(self, places: _Places, values: NDArray[np.int8]) -> None:
        """Store groups of the current ROW, ``[..., lanes_out]``."""
        self._groups[places] = values
        self._writer[places] = self._sequence

    def _pool(
        self,
        f: Fields,
        arithmetic: RowArithmetic,
        results: NDArray[np.int8],
        rows: list[int],
        targets: NDArray[np.int64],
        ring: FrameRing,
    ) -> NDArray[np.int8]:
        """What a pooled ROW writes to its target; its own maxima, or its second row, also go to the copy's row."""
        peaks = copied = arithmetic.pool(results)
        copy = self._take(f, "copy")
        copies = None
        if f["copy"]:
            copies = self._pixels(f, copy, arithmetic.target_offsets, "copy")
            self._check_write(f, copy, copy + arithmetic.target_span, ring)
            self._require(not np.isin(copies, targets).any(), "copies into its own target row")
            if isinstance(arithmetic, DepthwiseArithmetic):
                self._check_own_source(rows, arithmetic, copies)
                copied = arithmetic.pool(arithmetic.convolve_second(self.activations, rows))
            self._write(copies, copied)
        if f["depthwise"]:
            self._last_pool = None
            return peaks
        names = ("idle", "columns", "groups", "pool_first", "pool_stride", "pool_columns")
        row = PooledRow(arithmetic.taps, **{name: f[name] for name in names}, copy=bool(f["copy"]))
        if f["combine"]:
            if not self._combines_in_flight(row, targets):
                self._check_in_flight(targets, "target")
            peaks = np.maximum(peaks, self._groups[targets])
        self._last_pool = (row, targets, copies)
        return peaks

    def _combines_in_flight(self, row: PooledRow, targets: _Places) -> bool:
        """Whether the ROW before stores just these groups, each before it is read."""
        if self._last_pool is None:
            return False
        earlier, stored, copies = self._last_pool
        if np.array_equal(stored, targets):
            return combines_in_flight(self.architecture, earlier, row, copied=False)
        if copies is not None and np.array_equal(copies, targets):
            return combines_in_flight(self.architecture, earlier, row, copied=True)
        return False

    def _check_write(self, f: Fields, low: int, high: int, ring: FrameRing) -> None:
        """Refuse to write into the frame ring while the link may, or into a result that may still be read."""
        ring.check_write(low, high)
        self._result_is_free |= bool(f["hold_result"])
        start, end = self._result["start"], self._result["start"]
        end += self._result["words"] * self.architecture.groups_per_word
        self._require(self._result_is_free or high <= start or end <= low, "writes the result without hold_result")

    def _prepare(self, instruction: Instruction) -> RowArithmetic:
        f = instruction.fields
        arithmetic: RowArithmetic
        if f["depthwise"]:
            arithmetic = depthwise = DepthwiseArithmetic(self.architecture, f, self.weights)
            first = f["pool_first"] if f["pool"] else 0
            reason = f"stores results from column {first} on, its kernel is {depthwise.kernel_width} columns wide"
            self._require(first + f["lead"] >= depthwise.kernel_width - 1, reason)
            behind = (f["columns"] - f["lead"]) * f["pixel_step"] - f["pad_words"] >= f["row_words"]
            reason = f"leads with {f['lead']} columns, which are not padding at the end of a word"
            self._require(not f["lead"] or f["groups"] == 1 or behind, reason)
        else:
            arithmetic = RowArithmetic(self.architecture, f, self.weights)
        least = minimum_idle(
            self.architecture,
            arithmetic.taps,
            f["columns"],
            bool(f["add"]),
            bool(f.get("copy", 0)),
            bool(f.get("combine", 0)),
            f.get("pool_stride", 1),
            bool(f["depthwise"]),
        )
        self._require(f["idle"] >= least, f"idle {f['idle']} is below the minimum {least}")
        return arithmetic

    def _source_rows(self, f: Fields, source: int, arithmetic: RowArithmetic, ring: FrameRing) -> list[int]:
        """The word address of each kernel row; what it reads is inside its ring, landed, and arrived."""
        groups = self.architecture.groups_per_word
        self._require(source % groups == 0, f"source row {source} is not word aligned")
        rows, address = [], source
        for _ in range(f["kernel_rows"]):
            rows.append(address // groups)
            if arithmetic.read_end:
                high = address + arithmetic.read_end * groups
                self._require(high <= f["source_end"], f"reads up to group {high}, beyond its ring")
                self._check_in_flight(address + arithmetic.read_groups, "source")
                ring.check_read(rows[-1] + arithmetic.read_begin, arithmetic.read_end - arithmetic.read_begin)
            address += f["row_step"]
            if address >= f["source_end"]:
                address -= f["source_end"] - f["source_start"]
        return rows

    def _pixels(self, f: Fields, address: int, offsets: NDArray[np.int64], role: str) -> NDArray[np.int64]:
        last = address + int(offsets[-1, -1])
        self._require(last < f[f"{role}_end"], f"{role} row ends at group {last}, beyond its ring")
        return address + offsets

    def _have_landed(self, start: int, end: int) -> bool:
        """Whether nothing that ROWs have written to groups ``start`` .. ``end`` may still be on its way."""
        landed = max(self._landed, self._sequence - ROWS_IN_FLIGHT - 1)
        return int(self._writer[start:end].max()) < landed

    def _check_in_flight(self, groups: NDArray[np.int64], role: str) -> None:
        """Refuse to read what one of the last ROWs writes, unless a fence lies between."""
        oldest = max(self._landed, self._sequence - ROWS_IN_FLIGHT)
        if oldest < self._sequence:
            flying = groups[self._writer[groups] >= oldest]
            where = f"group {flying[0]}" if len(flying) else ""
            self._require(not len(flying), f"reads {role} {where} while it is being written: no fence")
