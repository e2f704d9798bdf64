"""The emulator behind the packets: a board without hardware, for the same driver."""

from __future__ import annotations

from math import prod

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.arch.listing import Instruction, decode, unroll
from emberline.arch.packets import SUPPLY_WORDS
from emberline.arch.timing import predict
from emberline.driver.link_model import WORD_BYTES, LinkModel
from emberline.driver.link_model import Machine as LinkMachine
from emberline.errors import WeightFaultError
from emberline.model.machine import Machine

FRAMES_BUFFERED = 2
"""The frame that is computed and the one that is loading."""


def rows_of_frame(instructions: list[Instruction]) -> int:
    """Frame rows that one execution of the program releases."""
    loops: list[int] = []
    rows = 0
    for instruction in instructions:
        if instruction.opcode is Opcode.LOOP:
            loops.append(instruction.fields["count"])
        elif instruction.opcode is Opcode.NEXT:
            loops.pop()
        elif instruction.opcode is Opcode.ROW:
            rows += instruction.fields["release_rows"] * prod(loops)
    return rows


class EmulatedMachine:
    """An accelerator for `LinkModel`: computes a frame as soon as its rows are there and the last result is released.

    Weights from the link are taken once a frame's rows are there, and it is computed when all of its own have come.
    Fetched weights that are no good are a fault, as in hardware; other errors of the program are raised.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._machine = Machine(architecture)
        self._supplied = architecture.fetches_from_link
        self._program = [0] * architecture.program_depth_words
        self._weights = bytearray(architecture.weight_bytes)
        self._word_bytes = architecture.multipliers
        self._used_bytes = 0
        self.clear()

    def clear(self) -> None:
        self.running = False
        self.fault = 0
        self.frames_done = 0
        self.result: bytes | None = None
        self.free_rows = self.row_bytes = self.result_bytes = 0
        self.cycles = self.stall_cycles = 0
        self._pending = bytearray()
        self._supply = bytearray()
        if self._supplied:
            self._sent = self._machine.fetch_sent_weights()
        self._rows_of_frame = 0
        self._frame_cycles = 0
        self._weights_of_frame = self._weights_taken = 0  # bytes

    def write_program(self, address: int, words: list[int]) -> None:
        self._program[address : address + len(words)] = words

    def write_weights(self, offset: int, data: bytes) -> None:
        self._weights[offset : offset + len(data)] = data
        self._used_bytes = max(self._used_bytes, offset + len(data))

    def write_flash(self, offset: int, data: bytes) -> None:
        self._machine.load_flash(data, offset)

    def start(self) -> None:
        machine = self._machine
        words = -(-self._used_bytes // self._word_bytes)
        machine.load_weights(bytes(self._weights[: words * self._word_bytes]))
        program = machine.whole_program(self._program)
        instructions = decode(program)
        machine.load_program(program)
        result = next(each.fields for each in instructions if each.opcode is Opcode.RESULT)
        self.running = True
        self.row_bytes = machine.frame_row_bytes
        self.result_bytes = result["words"] * machine.architecture.lanes_in
        self._rows_of_frame = rows_of_frame(instructions)
        executed = unroll(decode(program))
        self._weights_of_frame = sum(each.fields["length"] for each in executed if each.opcode is Opcode.LOAD)
        self._frame_cycles = predict(machine.architecture, program).cycles
        self.free_rows = FRAMES_BUFFERED * self._rows_of_frame

    def enter_rows(self, data: bytes) -> None:
        self.free_rows -= len(data) // self.row_bytes
        self._pending += data
        self._compute()

    def enter_weights(self, data: bytes) -> None:
        self._supply += data
        self._compute()

    @property
    def weight_room(self) -> int:
        return SUPPLY_WORDS - len(self._supply) // WORD_BYTES

    @property
    def weights_awaited(self) -> bool:
        return self._frame_is_there() and self._weights_taken < self._weights_of_frame

    def release(self) -> None:
        self.result = None
        self._compute()

    def _frame_is_there(self) -> bool:
        return self.running and self.result is None and len(self._pending) >= self._rows_of_frame * self.row_bytes

    def _take_weights(self) -> bool:
        """Whether all of the frame's weights are there."""
        if not self._supplied:
            return True
        data = bytes(self._supply[: self._weights_of_frame - self._weights_taken])
        del self._supply[: len(data)]
        self._sent.append(data)
        self._weights_taken += len(data)
        return self._weights_taken == self._weights_of_frame

    def _compute(self) -> None:
        if not self._frame_is_there() or not self._take_weights():
            return
        self._weights_taken = 0
        size = self._rows_of_frame * self.row_bytes
        frame = bytes(self._pending[:size])
        del self._pending[:size]
        try:
            self.result = self._machine.run_frame(frame)
        except WeightFaultError as error:
            self.fault, self.running = error.fault, False
            return
        self.free_rows += self._rows_of_frame
        self.frames_done += 1
        self.cycles = self._frame_cycles


class EmulatedBoard:
    """A transport to a board whose gateware is Python.

    It answers at once: a read that cannot be satisfied is a silence on the line, however long its limit.

    Parameters: ``architecture``; ``machine``, by default one that emulates it.
    """

    def __init__(self, architecture: Architecture, machine: LinkMachine | None = None) -> None:
        self._machine = machine or EmulatedMachine(architecture)
        self._link = LinkModel(architecture, self._machine)
        self._output = bytearray()

    def write(self, data: bytes) -> None:
        self._output += self._link.feed(data)

    def read(self, count: int, timeout_s: float) -> bytes:
        del timeout_s
        if len(self._output) < count:
            self._output += self._link.silence()
        data = bytes(self._output[:count])
        del self._output[:count]
        return data

    def write_flash(self, offset: int, data: bytes) -> None:
        """All that the board's flash holds."""
        assert isinstance(self._machine, EmulatedMachine)
        self._machine.write_flash(offset, data)

    def close(self) -> None:
        """Nothing to give up."""
