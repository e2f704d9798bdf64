"""The simulated board: the RTL, running in a simulator process, behind the transport interface that hardware has."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from emberline.errors import SimulationError
from emberline.simulation.board_server import INPUT, OUTPUT, SOCKET_VARIABLE, TAPPED
from emberline.simulation.build import build_bench
from emberline.simulation.channel import Channel
from emberline.simulation.frame_events import frame_events
from emberline.simulation.plan import Tap, Uart
from emberline.simulation.process import log_tail, start_simulator, stop_simulator
from emberline.simulation.recipe import recipe as make_recipe

if TYPE_CHECKING:
    from amaranth.lib import wiring

    from emberline.arch.architecture import Architecture
    from emberline.simulation.plan import WritePort

Link = Literal["bytes", "uart"]
Tapped = Literal["writes", "frames"]

# The simulator gives a sign of life every few hundred thousand cycles; even a slow model on a busy machine does.
_SILENCE_S = 120.0
_START_S = 60.0
_CLOSE_S = 10.0


class SimulatedBoard:
    """A transport to a component that is simulated by Verilator in a process of its own.

    Simulated time is the board's own: it passes only inside ``read``, ``flush`` and ``advance``, so an idle board costs
    nothing and the same calls give the same cycles every time. ``write`` only queues. Seconds are counted by the
    board's clock: a read that times out after 10 ms at 100 MHz has seen a million cycles.

    Parameters:
        component: what is simulated, or what makes it. With ``link="bytes"`` it has the streams of bytes ``i_bytes``
            and ``o_bytes``, with ``link="uart"`` the pins ``rx`` and ``tx``.
        recipe: a text that determines the component, to find its build quickly (see ``build_bench``).
        link: how the bytes enter the component.
        write_ports: see ``build_bench``; ``flash`` is what ``write_flash`` writes through.
        tap: what ``take_tapped`` is to return.
        uart_divisor: clock cycles per bit, with ``link="uart"``.
        clock_hz: the board's clock, for time limits.
        limit_cycles: cycles that one call may take, whatever its time limit says.
        waves: write a VCD file there (slow and large).

    Raises ``SimulationError`` when the simulation cannot be built or started, or when it ends unexpectedly; the message
    has the end of its log.
    """

    def __init__(
        self,
        component: wiring.Component | Callable[[], wiring.Component],
        *,
        recipe: str | None = None,
        link: Link = "bytes",
        write_ports: dict[str, WritePort] | None = None,
        tap: Tap | None = None,
        uart_divisor: int = 8,
        clock_hz: float = 100e6,
        limit_cycles: int = 100_000_000,
        waves: Path | None = None,
    ) -> None:
        if link not in ("bytes", "uart"):
            raise ValueError(f"link must be 'bytes' or 'uart', not {link!r}")
        self.clock_hz = clock_hz
        self.limit_cycles = limit_cycles
        self._cycle = 0
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._tapped = bytearray()
        self._stalls: list[dict[str, Any]] = []
        self._failure: str | None = None
        self._folder: Path | None = None
        uart = Uart(uart_divisor) if link == "uart" else None
        taps = None if tap is None else {TAPPED: tap}
        self.build = build_bench(
            component, recipe=recipe, write_ports=write_ports, uart=uart, taps=taps, waves=waves is not None
        )
        self._folder = Path(tempfile.mkdtemp(prefix="emberline-board-"))
        try:
            self._process, self._channel = self._start(waves)
            self._await_reply(_START_S)
        except BaseException:
            self.close()
            raise

    def _start(self, waves: Path | None) -> tuple[subprocess.Popen[bytes], Channel]:
        assert self._folder is not None
        ours, theirs = socket.socketpair()
        with theirs:
            process = start_simulator(
                self.build,
                "emberline.simulation.board_server",
                self._folder,
                variables={SOCKET_VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                waves=waves,
            )
        return process, Channel(ours)

    @property
    def cycle(self) -> int:
        """Clock cycles that the board has lived, its reset included."""
        return self._cycle

    @property
    def pid(self) -> int:
        """The simulator's process."""
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Queue bytes for the board. They enter it while a later call lets time pass."""
        self._check_open()
        self._outgoing += data

    def read(self, count: int, timeout_s: float | None = None) -> bytes:
        """Let time pass until ``count`` bytes came or the time is over; return what came, at most ``count``.

        ``timeout_s`` is in seconds of the board's clock; ``None`` means ``limit_cycles``.
        """
        self._check_open()
        if len(self._incoming) < count:
            limit = self.limit_cycles if timeout_s is None else min(self.limit_cycles, self._cycles(timeout_s))
            self._request(limit, wanted=count - len(self._incoming))
        data = bytes(self._incoming[:count])
        del self._incoming[:count]
        return data

    def flush(self) -> int:
        """Let time pass until the board has taken every written byte; the number it has not, within the limit."""
        return self._request(self.limit_cycles, until_sent=True)

    def advance(self, cycles: int) -> None:
        """Let exactly so many cycles pass; written bytes enter and answers are kept meanwhile."""
        self._request(cycles)

    def reset(self) -> None:
        """Pulse the board's reset line, as its reset button does."""
        self._request(0, reset=True)

    def write_flash(self, offset: int, data: bytes) -> None:
        """Put ``data`` into the board's flash, as a programmer does; both are multiples of four bytes."""
        self._request(0, flash=offset, data=data.hex())

    def take_tapped(self) -> bytes:
        """Items of the tap since the last call, each in whole bytes, little endian."""
        data = bytes(self._tapped)
        self._tapped.clear()
        return data

    def replace_flash(self, identity: int) -> None:
        """From now on the flash, the second one of two, is one of this identity: manufacturer, type, capacity; 0 is no
        flash at all."""
        from emberline.simulation.flash import IDENTITY

        self._request(0, inputs={"flash_flips": IDENTITY ^ identity})

    def stall(self, to_board: float = 0, from_board: float = 0, *, seed: int = 0, burst_log2: int = 0) -> None:
        """From the next call on, pause the streams in these fractions of the cycles, pseudo-randomly.

        A UART has no handshake: with it only ``to_board`` can pause.
        """
        common = {"seed": seed, "burst_log2": burst_log2}
        self._stalls = [
            {"name": INPUT, "density": to_board, **common},
            {"name": OUTPUT, "density": from_board, **common},
        ]

    def close(self) -> None:
        """End the simulator. Idempotent; unread bytes are lost."""
        if self._folder is None:
            return
        folder, self._folder = self._folder, None
        if hasattr(self, "_channel"):
            self._channel.close()
            stop_simulator(self._process, 0 if self._failure else _CLOSE_S)
        shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _cycles(self, seconds: float) -> int:
        return max(0, round(seconds * self.clock_hz))

    def _check_open(self) -> None:
        if self._failure is not None:
            raise SimulationError(self._failure)
        if self._folder is None:
            raise SimulationError("the simulated board is closed")

    def _request(self, limit_cycles: int, **header: Any) -> int:
        self._check_open()
        data, stalls = bytes(self._outgoing), self._stalls
        self._outgoing.clear()
        self._stalls = []
        try:
            self._channel.send({"limit_cycles": limit_cycles, "stalls": stalls, **header}, data)
        except OSError:
            self._fail("ended unexpectedly")
        try:
            return self._await_reply(_SILENCE_S)
        except KeyboardInterrupt:
            self._failure = "the simulated board was interrupted"  # its answer would be taken for the next call's
            raise

    def _await_reply(self, silence_s: float) -> int:
        """Wait for the answer through signs of life; the number of bytes that the board has not taken yet."""
        while True:
            try:
                message = self._channel.receive(silence_s)
            except TimeoutError:
                self._process.kill()
                self._fail(f"gave no sign of life for {silence_s:.0f} s")
            if message is None:
                self._fail("ended unexpectedly")
            header, data = message
            self._cycle = header["cycle"]
            count = len(data) - header.get("tapped", 0)
            self._incoming += data[:count]
            self._tapped += data[count:]
            if header.get("done", True):
                return int(header.get("waiting", 0))

    def _fail(self, what: str) -> NoReturn:
        assert self._folder is not None
        stop_simulator(self._process, _CLOSE_S)
        status = f"after cycle {self._cycle}, exit status {self._process.returncode}"
        self._failure = f"the simulated board {what} ({status}); the end of its log:\n{log_tail(self._folder)}"
        raise SimulationError(self._failure)


def simulate_architecture(
    architecture: Architecture, *, link: Link = "bytes", flash_bytes: int = 0, tap: Tapped | None = None, **options: Any
) -> SimulatedBoard:
    """The simulated board of an architecture: its accelerator and host link, with its clock.

    Parameters:
        link: ``"bytes"`` simulates the packets only, ``"uart"`` the serial line at the architecture's rate as well,
            which takes ten bit times for every byte.
        flash_bytes: of weights that the flash holds, on a machine that fetches them from there.
        tap: what ``take_tapped`` is to return: ``"writes"``, the groups that ROWs write, their addresses in the bytes
            behind them; ``"frames"``, when rows have come and results are there (`emberline.simulation.frame_events`).
        options: passed on to ``SimulatedBoard``.
    """
    from emberline.gateware.board import SimulationTop, UartTop
    from emberline.gateware.link.uart import divisor
    from emberline.gateware.machine import check_buildable
    from emberline.simulation.flash import FLASH_PORTS, Flashed, flash_size

    check_buildable(architecture)
    options.setdefault("clock_hz", architecture.clock_hz)
    top = UartTop if link == "uart" else SimulationTop
    if link == "uart":
        options["uart_divisor"] = divisor(architecture.clock_hz, architecture.uart_baud)
    if tap is not None:
        options["tap"] = _activation_writes(architecture) if tap == "writes" else frame_events(architecture)
    if not architecture.fetches_from_flash:
        return SimulatedBoard(
            lambda: top(architecture), recipe=make_recipe(top.__name__, architecture), link=link, **options
        )
    size = flash_size(flash_bytes)
    text = make_recipe(
        top.__name__, architecture, size, packages=("emberline.arch", "emberline.gateware", "emberline.simulation")
    )
    return SimulatedBoard(
        lambda: Flashed(top(architecture), size), recipe=text, link=link, write_ports=FLASH_PORTS, **options
    )


def _activation_writes(architecture: Architecture) -> Tap:
    """Groups on their way to the activation buffer, and in the upper bytes their addresses."""
    if architecture.compact:
        raise SimulationError(f"'{architecture.name}' is a compact machine: its writes cannot be tapped")
    path = f"{'inner.' if architecture.fetches_from_flash else ''}accelerator.buffer."
    group = (f"{path}write_group", 8 * architecture.lanes_out)
    address = (f"{path}write_address", (architecture.activation_depth_groups - 1).bit_length())
    return Tap((group, address), f"{path}write_valid")
