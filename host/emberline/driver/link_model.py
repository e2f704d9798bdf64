"""The board's end of the link in Python: what the gateware's `Command` does, request by request."""

from __future__ import annotations

from typing import Protocol

from emberline.arch.architecture import Architecture
from emberline.arch.framing import Packet, PacketEnd, PacketReader, encode_response
from emberline.arch.layout import WORD_BYTES
from emberline.arch.packets import (
    IDENTITY,
    PROTOCOL_VERSION,
    RESULT,
    ROWS,
    STATUS,
    SUPPLY_PIECE_WORDS,
    RequestType,
    ResponseCode,
    identity,
    to_bytes,
)

COUNT_MASK = 0xFFFF
POSITION_MASK = 0xFFFF_FFFF
WRITES = (RequestType.WRITE_PROGRAM, RequestType.WRITE_WEIGHTS)


class Machine(Protocol):
    """What the link needs of an accelerator; what concerns weights from the link, only of one that gets them there."""

    running: bool
    fault: int
    frames_done: int
    free_rows: int
    row_bytes: int
    result: bytes | None
    """The last frame's result until it is released."""
    result_bytes: int
    cycles: int
    stall_cycles: int

    @property
    def weight_room(self) -> int:
        """Words of weights."""

    @property
    def weights_awaited(self) -> bool: ...

    def write_program(self, address: int, words: list[int]) -> None: ...

    def write_weights(self, offset: int, data: bytes) -> None: ...

    def start(self) -> None: ...

    def enter_rows(self, data: bytes) -> None: ...

    def enter_weights(self, data: bytes) -> None: ...

    def release(self) -> None: ...

    def clear(self) -> None: ...


class LinkModel:
    """Executes requests on a machine and composes the responses.

    Parameters: ``architecture`` and ``machine`` of the board.
    """

    def __init__(self, architecture: Architecture, machine: Machine) -> None:
        self.architecture = architecture
        self.machine = machine
        self._reader = PacketReader.of_requests()
        self._last: tuple[int, int] | None = None
        self._rows_entered = 0
        self._weights_entered = 0
        self._program_id = 0
        self._payload_errors = 0
        self._truncations = 0

    @property
    def _supplied(self) -> bool:
        return self.architecture.fetches_from_link

    def feed(self, data: bytes) -> bytes:
        """What the board answers to these bytes."""
        return b"".join(self._answer(packet) for packet in self._reader.feed(data))

    def silence(self) -> bytes:
        """What it answers to a long silence: something only if a packet was cut off."""
        packet = self._reader.expire()
        return b"" if packet is None else self._answer(packet)

    def _answer(self, packet: Packet) -> bytes:
        header = packet.header
        key = header["type"], header["sequence"]
        duplicate = key == self._last
        code = self._check(packet, duplicate)
        if code is ResponseCode.OK and header["type"] in WRITES and not duplicate:
            self._program_id = 0  # even a damaged write changes the memories
        self._payload_errors += packet.end is PacketEnd.DAMAGED
        self._truncations += packet.end is PacketEnd.TRUNCATED
        if packet.end is not PacketEnd.GOOD:
            code = {
                PacketEnd.DAMAGED: ResponseCode.DAMAGED,
                PacketEnd.TRUNCATED: ResponseCode.TRUNCATED,
                PacketEnd.OVERSIZE: ResponseCode.BAD_LENGTH,
            }[packet.end]
        if code is ResponseCode.OK:
            self._last = key
            if not duplicate:
                self._execute(packet)
        elif not duplicate:
            self._last = None
        return self._respond(header, code)

    def _check(self, packet: Packet, duplicate: bool) -> ResponseCode:
        header, machine = packet.header, self.machine
        request, argument, length = header["type"], header["argument"], header["length"]
        if header["version"] != PROTOCOL_VERSION:
            return ResponseCode.BAD_VERSION
        match request:
            case RequestType.WRITE_PROGRAM | RequestType.WRITE_WEIGHTS:
                return self._check_write(request, argument, length)
            case RequestType.FRAME_ROWS:
                return self._check_rows(packet, duplicate)
            case RequestType.WEIGHT_STREAM if self._supplied:
                return self._check_weights(argument, length, duplicate)
            case RequestType.START | RequestType.READ_RESULT | RequestType.RELEASE_RESULT if length:
                return ResponseCode.BAD_LENGTH
            case RequestType.START if not duplicate:
                if machine.fault:
                    return ResponseCode.FAULTED
                return ResponseCode.RUNNING if machine.running else ResponseCode.OK
            case RequestType.READ_RESULT | RequestType.RELEASE_RESULT:
                if duplicate and request == RequestType.RELEASE_RESULT:
                    return ResponseCode.OK
                there = machine.result is not None and argument == (machine.frames_done - 1) & COUNT_MASK
                return ResponseCode.OK if there else ResponseCode.NO_RESULT
            case RequestType.START:
                return ResponseCode.OK
            case RequestType.IDENTITY | RequestType.STATUS | RequestType.RESET:
                return ResponseCode.BAD_LENGTH if length else ResponseCode.OK
        return ResponseCode.UNKNOWN_TYPE

    def _check_write(self, request: int, argument: int, length: int) -> ResponseCode:
        architecture = self.architecture
        depth_words = architecture.program_depth_words
        if request == RequestType.WRITE_WEIGHTS:
            depth_words = architecture.weight_bytes // WORD_BYTES
        if length == 0 or length % WORD_BYTES:
            return ResponseCode.BAD_LENGTH
        if self.machine.running:
            return ResponseCode.RUNNING
        return ResponseCode.BAD_ADDRESS if argument + length // WORD_BYTES > depth_words else ResponseCode.OK

    def _check_rows(self, packet: Packet, duplicate: bool) -> ResponseCode:
        machine, length = self.machine, packet.header["length"]
        rows = ROWS.unpack([packet.header["argument"]])
        if length == 0:
            return ResponseCode.BAD_LENGTH
        if duplicate:
            return ResponseCode.OK
        if machine.fault:
            return ResponseCode.FAULTED
        if not machine.running:
            return ResponseCode.NOT_RUNNING
        if rows["first_row"] != self._rows_entered:
            return ResponseCode.OUT_OF_STEP
        if length > machine.free_rows * machine.row_bytes:
            return ResponseCode.NO_ROOM
        return ResponseCode.OK if length == rows["rows"] * machine.row_bytes else ResponseCode.BAD_ROWS

    def _check_weights(self, argument: int, length: int, duplicate: bool) -> ResponseCode:
        machine = self.machine
        if length == 0 or length % WORD_BYTES:
            return ResponseCode.BAD_LENGTH
        if duplicate:
            return ResponseCode.OK
        if machine.fault:
            return ResponseCode.FAULTED
        if not machine.running:
            return ResponseCode.NOT_RUNNING
        if argument != self._weights_entered:
            return ResponseCode.OUT_OF_STEP
        return ResponseCode.NO_ROOM if length // WORD_BYTES > machine.weight_room else ResponseCode.OK

    def _execute(self, packet: Packet) -> None:
        machine, payload, argument = self.machine, packet.payload, packet.header["argument"]
        match packet.header["type"]:
            case RequestType.WRITE_PROGRAM:
                words = [
                    int.from_bytes(payload[index : index + WORD_BYTES], "little")
                    for index in range(0, len(payload), WORD_BYTES)
                ]
                machine.write_program(argument, words)
            case RequestType.WRITE_WEIGHTS:
                machine.write_weights(argument * WORD_BYTES, payload)
            case RequestType.START:
                self._program_id, self._rows_entered, self._weights_entered = argument, 0, 0
                machine.start()
            case RequestType.FRAME_ROWS:
                self._rows_entered = self._rows_entered + ROWS.unpack([argument])["rows"] & COUNT_MASK
                machine.enter_rows(payload)
            case RequestType.WEIGHT_STREAM:
                self._weights_entered = self._weights_entered + len(payload) // WORD_BYTES & POSITION_MASK
                machine.enter_weights(payload)
            case RequestType.RELEASE_RESULT:
                machine.release()
            case RequestType.RESET:
                self._program_id = self._rows_entered = self._weights_entered = 0
                machine.clear()

    def _respond(self, request: dict[str, int], code: ResponseCode) -> bytes:
        machine = self.machine
        header = {
            "type": request["type"],
            "code": code,
            "sequence": request["sequence"],
            "running": machine.running,
            "faulted": machine.fault != 0,
            "result_valid": machine.result is not None,
            "weight_room": self._supplied and machine.weight_room >= SUPPLY_PIECE_WORDS,
            "free_rows": min(machine.free_rows, 255),
            "frames_done": machine.frames_done & COUNT_MASK,
        }
        return encode_response(header, self._payload(request["type"]) if code is ResponseCode.OK else b"")

    def _payload(self, request: int) -> bytes:
        machine = self.machine
        if request == RequestType.IDENTITY:
            return to_bytes(IDENTITY, identity(self.architecture))
        if request == RequestType.READ_RESULT:
            assert machine.result is not None
            times = {"cycles": machine.cycles, "stall_cycles": machine.stall_cycles}
            return to_bytes(RESULT, times) + machine.result
        return to_bytes(STATUS, self._status()) if request == RequestType.STATUS else b""

    def _status(self) -> dict[str, int]:
        machine = self.machine
        return {
            **{field.name: 0 for field in STATUS.fields},
            "running": machine.running,
            "result_valid": machine.result is not None,
            "fault": machine.fault,
            "frames_done": machine.frames_done & COUNT_MASK,
            "free_rows": machine.free_rows,
            "rows_entered": self._rows_entered,
            "weights_awaited": self._supplied and machine.weights_awaited,
            "free_weight_words": machine.weight_room if self._supplied else 0,
            "row_bytes": machine.row_bytes,
            "result_bytes": machine.result_bytes,
            "program_id": self._program_id,
            "cycles": machine.cycles,
            "stall_cycles": machine.stall_cycles,
            "header_errors": self._reader.header_errors & COUNT_MASK,
            "payload_errors": self._payload_errors & COUNT_MASK,
            "truncations": self._truncations & COUNT_MASK,
        }
