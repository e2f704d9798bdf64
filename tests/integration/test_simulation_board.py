"""The simulated board as a transport, with loopbacks in the place of an accelerator."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from emberline.errors import SimulationError
from emberline.simulation import board as board_module
from emberline.simulation.board import SimulatedBoard
from emberline.simulation.loopback import ByteLoopback, PinLoopback

UART_DIVISOR = 5


@pytest.fixture(scope="module")
def echo():
    with SimulatedBoard(ByteLoopback(offset=1)) as board:
        yield board


@pytest.fixture(autouse=True)
def _no_stalls(request):
    yield
    if "echo" in request.fixturenames:
        request.getfixturevalue("echo").stall(0, 0)


def echoed(data: bytes) -> bytes:
    return bytes((byte + 1) & 0xFF for byte in data)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pid: int, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < end, f"process {pid} is still running after {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("to_board, from_board, burst_log2", [(0, 0, 0), (0.5, 0, 0), (0, 0.5, 2), (0.7, 0.6, 3)])
def test_packets_of_any_size_return_whole_and_in_order(echo, to_board, from_board, burst_log2, seed):
    generator = random.Random(seed)
    echo.stall(to_board, from_board, seed=seed, burst_log2=burst_log2)
    for size in (1, 2, 255, 1023, 1024, 1025, generator.randrange(3000, 6000)):
        data = generator.randbytes(size)
        for start in range(0, size, 700):
            echo.write(data[start : start + 700])
        assert echo.read(size) == echoed(data)


def test_a_large_transfer_takes_a_cycle_per_byte(echo):
    data = random.Random(1).randbytes(300_000)
    echo.write(data)
    start = echo.cycle
    assert echo.read(len(data)) == echoed(data)
    assert len(data) <= echo.cycle - start < len(data) + 10


def test_cycles_do_not_depend_on_how_the_traffic_is_cut():
    def cycles(cut: int) -> int:
        with SimulatedBoard(ByteLoopback(offset=1)) as board:
            board.stall(0.3, 0.4, seed=9)
            for _ in range(2000 // cut):
                board.write(bytes(cut))
            received = b""
            while len(received) < 2000:
                received += board.read(cut)
            return board.cycle

    assert cycles(2000) == cycles(250) == cycles(8)


def test_time_passes_only_when_asked(echo):
    start = echo.cycle
    echo.write(b"abc")
    time.sleep(0.2)
    assert echo.cycle == start
    echo.advance(1000)
    assert echo.cycle == start + 1000
    assert echo.read(3, timeout_s=0) == b"bcd"
    assert echo.cycle == start + 1000


def test_a_read_in_vain_ends_by_the_boards_clock(echo):
    start = echo.cycle
    echo.write(b"xy")
    assert echo.read(5, timeout_s=20e-6) == b"yz"
    assert echo.cycle == start + 2000
    assert echo.read(1, timeout_s=1e-6) == b""


def test_the_cycle_limit_ends_a_read_without_a_timeout():
    with SimulatedBoard(ByteLoopback(offset=1), limit_cycles=700_000) as board:
        assert board.read(1) == b""
        assert board.cycle == 700_002
        assert board.read(1, timeout_s=3600) == b""


def test_flush_reports_what_the_board_did_not_take():
    with SimulatedBoard(ByteLoopback(offset=1), limit_cycles=1000) as board:
        board.write(bytes(100))
        assert board.flush() == 0
        assert board.read(100) == b"\1" * 100
        board.stall(to_board=1)
        board.write(bytes(10))
        assert board.flush() > 0


def test_reset_empties_the_board(echo):
    echo.stall(from_board=1)
    echo.write(b"lost")
    echo.advance(50)
    echo.stall()
    echo.reset()
    echo.write(b"kept")
    assert echo.read(4) == b"lfqu"
    assert echo.read(1, timeout_s=1e-6) == b""


def test_uart_pins_carry_bytes():
    with SimulatedBoard(PinLoopback(), link="uart", uart_divisor=UART_DIVISOR) as board:
        data = bytes(range(256)) * 3
        board.write(data)
        start = board.cycle
        assert board.read(len(data)) == data
        assert board.cycle - start >= len(data) * 10 * UART_DIVISOR
        board.stall(to_board=0.9, burst_log2=5)
        board.write(data[:50])
        assert board.read(50) == data[:50]


def test_a_simulator_that_dies_is_an_error_with_its_log():
    board = SimulatedBoard(ByteLoopback(offset=1))
    os.kill(board.pid, signal.SIGKILL)
    board.write(b"a")
    with pytest.raises(SimulationError, match=r"(?s)ended unexpectedly .*exit status -9.*log"):
        board.read(1)
    with pytest.raises(SimulationError, match="ended unexpectedly"):
        board.write(b"b")
    board.close()
    board.close()
    with pytest.raises(SimulationError):
        board.read(1)


def test_a_simulator_that_hangs_is_ended(monkeypatch):
    with SimulatedBoard(ByteLoopback(offset=1)) as board:
        monkeypatch.setattr(board_module, "_SILENCE_S", 0.5)
        os.kill(board.pid, signal.SIGSTOP)
        with pytest.raises(SimulationError, match="no sign of life"):
            board.read(1)
        assert not is_alive(board.pid)


def test_a_closed_board_is_an_error():
    with SimulatedBoard(ByteLoopback(offset=1)) as board:
        pid = board.pid
    assert not is_alive(pid)
    with pytest.raises(SimulationError, match="closed"):
        board.write(b"a")


def test_an_unknown_link_is_refused():
    with pytest.raises(ValueError, match="link must be 'bytes' or 'uart', not 'spi'"):
        SimulatedBoard(None, link="spi")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_simulator_ends_with_the_program_that_started_it(end):
    program = """
        from emberline.simulation.board import SimulatedBoard
        from emberline.simulation.loopback import ByteLoopback

        with SimulatedBoard(ByteLoopback(offset=1), limit_cycles=10**12) as board:
            print(board.pid, flush=True)
            board.read(1)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores interrupts, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    simulator = int(process.stdout.readline())
    time.sleep(0.3)
    process.send_signal(end)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode != 0
    assert end == signal.SIGKILL or "KeyboardInterrupt" in errors
    wait_for_end(simulator)
