"""A machine that runs networks: a real board, a simulated one or an emulated one, behind one interface."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emberline.arch.architecture import Architecture
from emberline.arch.flash import flash_count
from emberline.arch.isa import Fault
from emberline.arch.packets import PAYLOAD_LIMIT, ResponseCode, identity, identity_fields, identity_name
from emberline.arch.program import Program
from emberline.driver.protocol import Link, LinkSettings, RequestRefused
from emberline.driver.targets import Target, open_target
from emberline.driver.weight_feed import ROWS_BYTES, WeightFeed, is_fed
from emberline.errors import DeviceError, FaultError
from emberline.model.outputs import decode_results, pack_frame

Codes = NDArray[np.int8]

FRAME_COUNT_MASK = 0xFFFF
POLLS_PER_FRAME = 16
MINIMUM_POLL_S = 2e-6
PATIENCE = 20
"""A frame may take this many times its predicted time, plus ``PATIENCE_S``, without any progress."""
PATIENCE_S = 0.02


FLASH_START_S = 0.1
"""A machine that fetches weights finds out about its flash first; to allow four lines may take that 15 ms."""
FLASH_POLL_S = 2e-5

CAUSES = {
    Fault.FLASH_ABSENT: "the flash with the weights does not answer",
    Fault.FLASH_UNKNOWN: "it is not known how this make of flash is read with four lines",
    Fault.FLASH_QUAD: "the flash does not keep the bit that allows four lines",
    Fault.WEIGHTS: "the flash holds damaged weights, or none",
    Fault.WEIGHTS_CHECK: "the flash holds another program's weights",
    Fault.FLASH_RATE: "this make of flash is not known to give data at both edges of its clock, as weights must come "
    "for this machine's weight_word_cycles",
    Fault.FLASH_TIMING: "the flash's data do not arrive in time to be read as fast as weights must come",
}

LINK_CAUSES = {
    Fault.WEIGHTS: "the weights that were sent are damaged, or none",
    Fault.WEIGHTS_CHECK: "another program's weights were sent",
}
"""On a machine that gets weights over the link."""


@dataclass(frozen=True)
class Result:
    """What one frame gave.

    Parameters:
        frame: its number since the program was loaded.
        outputs: the network's outputs by name, int8 codes; flatten and softmax are applied.
        values: the same as real numbers: probabilities after a softmax.
        cycles: as the machine counted them, from the frame's first instruction to its last write.
        stall_cycles: of those, cycles in which it waited for frame rows or for a result to be released.
        predicted_cycles: as the compiler predicted them, without stalls.
    """

    frame: int
    outputs: dict[str, Codes]
    values: dict[str, NDArray[np.float32]]
    cycles: int
    stall_cycles: int
    predicted_cycles: int


class Device:
    """An open machine. Use it as a context manager, or `close` it.

    Parameters: ``target``, from `open`.

    Every method raises ``DeviceError``, naming the machine, when it does not answer, refuses or stops with a fault;
    afterwards the next `run` or `stream` starts the program anew, and `reset` always leads back to a known state.
    A fault is a ``FaultError``.
    """

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self._link = Link(target.transport, target.name, target.settings)
        self._write_flash = target.write_flash
        try:
            record = self._link.identity()
            self.architecture = _architecture(target, record)
        except BaseException:
            target.transport.close()
            raise
        self._program: Program | None = None
        self._feed: WeightFeed | None = None
        self._frames = 0
        self._rows = 0
        self._clean = False

    @classmethod
    def open(
        cls,
        target: str,
        architecture: Architecture | None = None,
        *,
        link: Literal["bytes", "uart"] = "bytes",
        settings: LinkSettings | None = None,
        flash_bytes: int = 0,
    ) -> Device:
        """Open ``rtl`` (the simulated board), ``emulator``, or the serial port with this name.

        Parameters:
            architecture: what is simulated or emulated; what a real board is expected to be (else it says so itself).
            link: how bytes enter the simulated board: directly, or through its serial pins (slow).
            settings: patience with the link; by default what suits the target.
            flash_bytes: of weights that the simulated board's flash must hold.
        """
        return cls(open_target(target, architecture, link=link, settings=settings, flash_bytes=flash_bytes))

    @property
    def program(self) -> Program | None:
        """The program that is loaded."""
        return self._program

    def load(self, program: Program) -> None:
        """Make a program the one that runs. What is in the board already is not sent again.

        Weights that it fetches are put into the flash of a simulated or emulated board; that of a real one must hold
        them (``emberline compile --flash-image``). Where they come over the link, they are sent with every frame.

        Raises ``ProgramError`` if it was compiled for another machine.
        """
        program.check_architecture(self.architecture)
        if program.input.row_bytes > PAYLOAD_LIMIT:
            raise DeviceError(
                f"{self.name}: input rows of {program.input.row_bytes} bytes, the link takes {PAYLOAD_LIMIT}"
            )
        program_id = identify(program)
        self._clean = False
        present = self._link.status()["program_id"] == program_id
        # Before the reset, behind which the machine finds out how to read what its flash holds.
        if self.architecture.fetches_from_flash and program.stream and self._write_flash is not None:
            self._write_flash(program.stream_offset, program.stream)
        self._link.reset()
        if not present:
            self._link.write_program(program.resident_instructions)
            self._link.write_weights(program.weights)
        self._program = program
        self._start()

    def run(self, frame: Codes) -> Result:
        """The result of one frame, int8 ``[H, W, C]``; ``ImageError`` if it has another shape or type."""
        return next(self.stream([frame]))

    def stream(self, frames: Iterable[Codes]) -> Iterator[Result]:
        """Results of frames, one by one and in order; the next frame's rows are sent while one is computed."""
        program = self._program
        if program is None:
            raise DeviceError(f"{self.name}: no program is loaded")
        return self._stream(program, iter(frames))

    def status(self) -> dict[str, int]:
        """What the board reports (`emberline.arch.packets.STATUS`)."""
        return self._link.status()

    def reset(self) -> None:
        """Stop the machine and start the loaded program, if any, anew. Frames under way are lost."""
        self._clean = False
        self._link.reset()
        if self._program is not None:
            self._start()

    def close(self) -> None:
        """Give the machine up. A real board keeps its program. Idempotent."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        """Run the program in the memories from its first word, and see that it is the one that is meant."""
        program = self._need_program()
        self._link.start(identify(program))
        status = self._link.status()
        waited_s = 0.0
        while program.stream and not (status["row_bytes"] or status["fault"]) and waited_s < FLASH_START_S:
            self._link.wait(max(FLASH_POLL_S, waited_s / POLLS_PER_FRAME))
            waited_s += max(FLASH_POLL_S, waited_s / POLLS_PER_FRAME)
            status = self._link.status()
        if status["fault"]:
            raise self._fault(status)
        for key, expected in (("row_bytes", program.input.row_bytes), ("result_bytes", program.result_bytes)):
            if status[key] != expected:
                raise DeviceError(f"{self.name}: {key} is {status[key]} after the start, the program says {expected}")
        self._frames = self._rows = 0
        self._feed = WeightFeed(self._link, program) if is_fed(program, self.architecture) else None
        self._clean = True

    def _stream(self, program: Program, frames: Iterator[Codes]) -> Iterator[Result]:
        if not self._clean:
            self.reset()
        self._clean = False  # until every frame that was sent has been collected
        frame = next(frames, None)
        sender = _Sender(program, frame) if frame is not None else None
        sent = self._frames
        waited_s, idle_limit_s = 0.0, PATIENCE * self._frame_s + PATIENCE_S
        while sender is not None or sent > self._frames:
            state = self._link.state
            done = state.result_valid and state.frames_done == (self._frames + 1) & FRAME_COUNT_MASK
            over = done and sender is None and sent == self._frames + 1
            if not over and self._send_weights(done or (sender is not None and state.free_rows > 0)):
                waited_s = 0.0
            elif done:
                result = self._collect(program)
                waited_s = 0.0
                self._clean = sender is None and sent == self._frames
                yield result
            elif sender is not None and state.free_rows and self._send(sender):
                waited_s = 0.0
                if not sender.rows_left:
                    sent += 1
                    frame = next(frames, None)
                    sender = _Sender(program, frame) if frame is not None else None
            else:
                waited_s += self._wait(waited_s, POLLS_PER_FRAME if sender is None else program.input.map.height)
                if waited_s > idle_limit_s:
                    raise DeviceError(
                        f"{self.name}: frame {self._frames} of '{program.network}' made no progress for "
                        f"{waited_s * 1e3:.1f} ms; predicted were {self._frame_s * 1e3:.3f} ms{self._lack()}"
                    )
        self._clean = True

    def _send_weights(self, others_wait: bool) -> bool:
        """Enter weights that LOADs will take, if it is their turn; whether any were entered."""
        if self._feed is None:
            return False
        try:
            return self._feed.send(others_wait)
        except RequestRefused as error:
            raise self._explain(error) from None
        except DeviceError as error:
            raise DeviceError(f"{error}{self._lack()}") from None

    def _lack(self) -> str:
        """What the machine says that it waits for, as the end of a message."""
        return "; the machine waits for weights from the link" if self._link.status()["weights_awaited"] else ""

    def _send(self, sender: _Sender) -> bool:
        """Enter as many rows as there is room for and a request holds; ``False`` if the board had none after all."""
        payload_bytes = self._link.settings.payload_bytes
        if self._feed is not None:
            payload_bytes = min(payload_bytes, ROWS_BYTES)
        rows, data = sender.take(self._link.state.free_rows, payload_bytes)
        try:
            self._link.frame_rows(self._rows, rows, data)
        except RequestRefused as error:
            if error.code is not ResponseCode.NO_ROOM:
                raise self._explain(error) from None
            sender.put_back(rows)
            self._link.status()
            return False
        self._rows += rows
        return True

    def _collect(self, program: Program) -> Result:
        number = self._frames & FRAME_COUNT_MASK
        times, data = self._link.read_result(number, program.result_bytes)
        self._link.release_result(number)
        self._frames += 1
        outputs = decode_results(program, data)
        return Result(
            self._frames - 1,
            outputs,
            _real_values(program, outputs),
            times["cycles"],
            times["stall_cycles"],
            program.predicted_cycles,
        )

    def _wait(self, waited_s: float, polls: int) -> float:
        """Let one of ``polls`` parts of a frame's time pass, more after a long wait, and look again; the seconds."""
        pause_s = max(self._frame_s / max(polls, POLLS_PER_FRAME), MINIMUM_POLL_S, waited_s / POLLS_PER_FRAME)
        if self._link.settings.poll_s is not None:
            pause_s = self._link.settings.poll_s
        if self._feed is not None:
            pause_s = min(pause_s, self._feed.pause_s)
        self._link.wait(pause_s)
        status = self._link.status()
        if status["fault"]:
            raise self._fault(status)
        if not status["running"]:
            raise DeviceError(f"{self.name}: the machine stopped: it was reset by someone else")
        return pause_s

    @property
    def _frame_s(self) -> float:
        return self._need_program().predicted_cycles / self.architecture.clock_hz

    def _need_program(self) -> Program:
        if self._program is None:
            raise DeviceError(f"{self.name}: no program is loaded")
        return self._program

    def _explain(self, error: RequestRefused) -> DeviceError:
        """A refusal in the middle of a frame, with its cause where the board knows it."""
        if error.code is ResponseCode.FAULTED:
            return self._fault(self._link.status())
        if error.code in (ResponseCode.NOT_RUNNING, ResponseCode.OUT_OF_STEP):
            return DeviceError(f"{error}: it was reset or fed by someone else")
        return error

    def _fault(self, status: dict[str, int]) -> FaultError:
        number = status["fault"]
        fault = Fault(number) if number in tuple(Fault) else number
        name = fault.name.lower() if isinstance(fault, Fault) else "unknown"
        from_link = self.architecture.fetches_from_link
        causes = CAUSES | LINK_CAUSES if from_link else CAUSES
        cause = f": {causes[fault]}" if isinstance(fault, Fault) and fault in causes else ""
        if fault in (Fault.WEIGHTS, Fault.WEIGHTS_CHECK) and not from_link:
            program = self._need_program()
            count = flash_count(self.architecture)
            place = f"from byte {program.stream_offset // count:#x} on{' of two flashes, in turn' if count > 1 else ''}"
            cause += f"; it must hold those of '{program.network}' {place}"
        return FaultError(f"{self.name}: the machine stopped with fault {number} ({name}){cause}; reset it", fault)


class _Sender:
    """The rows of one frame that are still to be sent."""

    def __init__(self, program: Program, frame: Codes) -> None:
        self._data = pack_frame(program, np.asarray(frame))
        self._row_bytes = program.input.row_bytes
        self.rows_left = program.input.map.height

    def take(self, limit: int, payload_bytes: int) -> tuple[int, bytes]:
        """The next rows: at most ``limit`` and, but for a single row, at most ``payload_bytes``."""
        rows = min(limit, self.rows_left, max(1, payload_bytes // self._row_bytes))
        start = len(self._data) - self.rows_left * self._row_bytes
        self.rows_left -= rows
        return rows, self._data[start : start + rows * self._row_bytes]

    def put_back(self, rows: int) -> None:
        self.rows_left += rows


def identify(program: Program) -> int:
    """32 bits, not 0, that tell programs apart: what the board remembers of the one it runs."""
    words = b"".join(word.to_bytes(4, "little") for word in program.instructions)
    return zlib.crc32(program.weights, zlib.crc32(words)) or 1


def _architecture(target: Target, record: dict[str, int]) -> Architecture:
    """What the board is, from what it says; ``DeviceError`` if it is not what was expected."""
    name = identity_name(record)
    try:
        keys: dict[str, Any] = identity_fields(record)
        actual = Architecture(name=name, board=target.name, **keys)
    except ValueError as error:
        raise DeviceError(f"{target.name}: the board describes an impossible machine: {error}") from None
    if actual.fingerprint != record["fingerprint"]:
        raise DeviceError(f"{target.name}: the board '{name}' is not compatible with this software: other fingerprint")
    expected = target.architecture
    if expected is None:
        return actual
    if expected.fingerprint != actual.fingerprint:
        theirs = identity_fields(identity(expected))
        differences = ", ".join(
            f"{key} {keys[key]} instead of {theirs[key]}" for key in keys if keys[key] != theirs[key]
        )
        raise DeviceError(f"{target.name}: the board is '{name}', not '{expected.name}': {differences}")
    return expected


def _real_values(program: Program, outputs: dict[str, Codes]) -> dict[str, NDArray[np.float32]]:
    maps = {output.map.name: output.map for output in program.outputs}
    maps |= {layer.output.name: layer.output for layer in program.host_layers}
    return {
        name: (np.float32(maps[name].scale) * (codes.astype(np.int32) - maps[name].zero_point)).astype(np.float32)
        for name, codes in outputs.items()
    }
