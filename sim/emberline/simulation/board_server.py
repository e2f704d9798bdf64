"""The simulator's side of a simulated board: a cocotb test that serves the transport's requests.

The simulation stands still, inside ``receive``, until a request comes. A request may take long: after every slice of
cycles the server sends a sign of life, which also tells it when the other process is gone.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import cocotb

from emberline.simulation.channel import Channel
from emberline.simulation.flash import flash_words
from emberline.simulation.harness import Bench

SOCKET_VARIABLE = "EMBERLINE_BOARD_SOCKET"
SLICE_CYCLES = 200_000
INPUT, OUTPUT, FLASH, TAPPED = "i_bytes", "o_bytes", "flash", "tapped"


@cocotb.test()
async def serve(dut: Any) -> None:
    """Serve requests until the other end closes."""
    bench = Bench(dut)
    await bench.reset()
    channel = Channel(socket.socket(fileno=int(os.environ[SOCKET_VARIABLE])))
    try:
        channel.send({"cycle": bench.cycle})
        while (message := channel.receive()) is not None:
            header, data = message
            reply = await _serve_request(bench, channel, header, data)
            tapped = _take_tapped(bench)
            state = {"cycle": bench.cycle, "waiting": bench.waiting(INPUT), "tapped": len(tapped), "done": True}
            channel.send(state, reply + tapped)
    except ConnectionError:
        pass  # the driver's process has ended: so does this one
    finally:
        channel.close()


async def _serve_request(bench: Bench, channel: Channel, header: dict[str, Any], data: bytes) -> bytes:
    """Queue ``data`` for the board, then advance as asked; what the board has sent meanwhile."""
    bench.send(INPUT, data)
    for stall in header.get("stalls", ()):
        bench.stall(**stall)
    if header.get("reset"):
        await bench.reset()
    for name, value in header.get("inputs", {}).items():
        bench.set(name, value)
    if FLASH in header:
        await _write_flash(bench, header[FLASH], bytes.fromhex(header["data"]))
    end = bench.cycle + header["limit_cycles"]
    wanted, sent = header.get("wanted", 0), header.get("until_sent", False)
    while bench.cycle < end:
        satisfied = await bench.run_until(
            received={OUTPUT: wanted} if wanted else None,
            sent=[INPUT] if sent else (),
            limit_cycles=min(SLICE_CYCLES, end - bench.cycle),
        )
        if satisfied:
            break
        tapped = _take_tapped(bench)
        channel.send({"cycle": bench.cycle, "tapped": len(tapped), "done": False}, tapped)
    reply = bench.fetch(OUTPUT)
    assert isinstance(reply, bytes)
    return reply


def _take_tapped(bench: Bench) -> bytes:
    """What the tap of that name, if there is one, has seen since the last time."""
    tapped = any(sink.name == TAPPED for sink in bench.plan.sinks)
    return bench.fetch_slots(TAPPED) if tapped else b""


async def _write_flash(bench: Bench, offset: int, data: bytes) -> None:
    """A word a cycle, addresses wrapping around at the flash's size."""
    address = next(channel for channel in bench.plan.sources if channel.name == FLASH).payload[0]
    bench.send(FLASH, flash_words(data, offset, 4 << address.width))
    await bench.run_until(sent=[FLASH])
