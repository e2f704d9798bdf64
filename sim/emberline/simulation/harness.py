"""Inside the simulator: what a cocotb bench uses to talk to the component.

Nothing here wakes once per cycle. Items are queued for the sources, and ``run_until`` clocks the component until the
wanted thing happened; Python is served only to refill a source's ring or to empty a sink's.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emberline.simulation.plan import Channel, Plan

PLAN_VARIABLE = "EMBERLINE_BENCH_PLAN"
PARAMETERS_VARIABLE = "EMBERLINE_BENCH_PARAMETERS"
RESULT_VARIABLE = "EMBERLINE_BENCH_RESULT"

DEFAULT_LIMIT_CYCLES = 10_000_000


class BenchTimeoutError(AssertionError):
    """What a bench waited for did not happen within its limit of simulated cycles."""


class StreamRuleError(AssertionError):
    """The component changed a stream's payload or dropped ``valid`` before the transfer."""


class _Source:
    """Items on their way into the component."""

    def __init__(self, dut: Any, channel: Channel) -> None:
        self.channel = channel
        self.queue: deque[bytes] = deque()
        self._ring = getattr(dut, f"host_{channel.name}_ring")
        self._limit = getattr(dut, f"host_{channel.name}_limit")
        self._refill = getattr(dut, f"host_{channel.name}_refill")
        self._taken = getattr(dut, f"{channel.name}_taken")
        self._loaded = 0
        self._bytes = bytearray()

    def queue_items(self, items: bytes | Iterable[int | tuple[int, ...]]) -> None:
        slot = self.channel.slot_bytes
        if isinstance(items, bytes | bytearray | memoryview):
            if self.channel.width != 8:
                raise ValueError(f"items of '{self.channel.name}' are {self.channel.width} bits wide, not bytes")
            self._bytes += items
        else:
            self._bytes += b"".join([self._pack(item).to_bytes(slot, "little") for item in items])

    def _pack(self, item: int | tuple[int, ...]) -> int:
        """One item as its bits; an integer for several fields is taken as already packed."""
        values = item if isinstance(item, tuple) else (item,)
        widths = [port.width for port in self.channel.payload] if isinstance(item, tuple) else [self.channel.width]
        if len(values) != len(widths):
            raise ValueError(f"an item of '{self.channel.name}' has {len(widths)} fields, not {len(values)}")
        packed, offset = 0, 0
        for value, width in zip(values, widths, strict=True):
            if not -(1 << (width - 1)) <= value < 1 << width:
                raise ValueError(f"{value} does not fit the {width} bits of '{self.channel.name}'")
            packed |= (value & ((1 << width) - 1)) << offset
            offset += width
        return packed

    def waiting(self) -> int:
        """Items that the component has not taken yet."""
        return len(self._bytes) // self.channel.slot_bytes + (self._loaded - _read(self._taken)) % (1 << 32)

    def prepare(self, stop_when_sent: bool) -> None:
        """Fill the ring if it is empty, and choose whether the run stops when it is empty again."""
        channel = self.channel
        if self._bytes and _read(self._taken) == self._loaded:
            chunk = bytes(self._bytes[: channel.ring_items * channel.slot_bytes])
            del self._bytes[: len(chunk)]
            first = (self._loaded % channel.ring_items) * channel.slot_bytes
            ring_bytes = channel.ring_items * channel.slot_bytes
            room = ring_bytes - first
            image = chunk[room:].ljust(first, b"\0") + chunk[:room]  # the ring starts in the middle
            self._ring.value = int.from_bytes(image.ljust(ring_bytes, b"\0"), "little")
            self._loaded = (self._loaded + len(chunk) // channel.slot_bytes) % (1 << 32)
            self._limit.value = self._loaded
        self._refill.value = int(bool(self._bytes) or (stop_when_sent and self.waiting() > 0))


class _Sink:
    """Items that came out of the component."""

    def __init__(self, dut: Any, channel: Channel) -> None:
        self.channel = channel
        self._bytes = bytearray()
        self._ring = getattr(dut, f"{channel.name}_ring")
        self._base = getattr(dut, f"host_{channel.name}_base")
        self._target = getattr(dut, f"host_{channel.name}_target")
        self._given = getattr(dut, f"{channel.name}_given")
        self._broken = getattr(dut, f"{channel.name}_broken")
        self._drained = 0

    def __len__(self) -> int:
        return len(self._bytes) // self.channel.slot_bytes

    def prepare(self, wanted: int) -> None:
        """Stop the run when ``wanted`` more items than are here have come; 0 for no such stop."""
        self._target.value = (self._drained + (wanted or -1)) % (1 << 32)

    def drain(self) -> None:
        channel = self.channel
        if _read(self._broken):
            raise StreamRuleError(f"stream '{channel.name}' changed or withdrew an item before it was taken")
        given = _read(self._given)
        count = (given - self._drained) % (1 << 32)
        if count:
            ring_bytes = channel.ring_items * channel.slot_bytes
            image = _read(self._ring).to_bytes(ring_bytes, "little")
            first = (self._drained % channel.ring_items) * channel.slot_bytes
            self._bytes += (image[first:] + image[:first])[: count * channel.slot_bytes]
            self._drained = given
            self._base.value = given

    def take_slots(self, count: int | None = None) -> bytes:
        """Items as they lie in the ring, ``slot_bytes`` each, little endian."""
        taken = bytes(self._bytes[: None if count is None else count * self.channel.slot_bytes])
        del self._bytes[: len(taken)]
        return taken

    def take(self, count: int | None) -> bytes | list[int]:
        slot = self.channel.slot_bytes
        taken = self.take_slots(count)
        if self.channel.width == 8:
            return taken
        return [int.from_bytes(taken[i : i + slot], "little") for i in range(0, len(taken), slot)]


class Bench:
    """The component under test as a cocotb test sees it.

    Parameters:
        dut: the handle that cocotb passes to the test.

    Members:
        parameters: what ``run_bench`` was given, from JSON.
        cycle: clock cycles since the simulation began.
    """

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.plan = Plan.from_json(json.loads(Path(os.environ[PLAN_VARIABLE]).read_text()))
        self.parameters: dict[str, Any] = json.loads(os.environ.get(PARAMETERS_VARIABLE, "{}"))
        self._sources = {channel.name: _Source(dut, channel) for channel in self.plan.sources}
        self._sinks = {channel.name: _Sink(dut, channel) for channel in self.plan.sinks}
        self._widths = {port.name: port.width for port in (*self.plan.inputs, *self.plan.outputs)}
        self._inputs = {port.name: getattr(dut, f"host_in_{port.name}") for port in self.plan.inputs}
        self._outputs = {port.name: getattr(dut, f"out_{port.name}") for port in self.plan.outputs}
        self._watched: list[str] = []
        self._requests = 0

    @property
    def cycle(self) -> int:
        return _read(self.dut.cycle)

    def set(self, name: str, value: int) -> None:
        """Drive an input from the next run on; it keeps the value."""
        width = self._widths[name]
        self._inputs[name].value = value & ((1 << width) - 1)

    def get(self, name: str, *, signed: bool = False) -> int:
        """Read an output or an input as it is now."""
        value = _read(self._outputs[name] if name in self._outputs else self._inputs[name])
        return value - (1 << self._widths[name]) if signed and value >> (self._widths[name] - 1) else value

    def stall(self, name: str, density: float, *, seed: int = 0, burst_log2: int = 0) -> None:
        """Pause a source's valid or a sink's ready in a fraction ``density`` of the cycles.

        Pauses come in groups of ``2 ** burst_log2`` cycles. A density of 0 ends them; 1 stops the stream for good.
        """
        if not 0 <= density <= 1 or not 0 <= burst_log2 <= 15:
            raise ValueError(f"stall density must be 0 to 1 and burst_log2 0 to 15, not {density} and {burst_log2}")
        if name not in self._sources and name not in self._sinks:
            raise ValueError(f"there is no stream '{name}', only {[*self._sources, *self._sinks]}")
        getattr(self.dut, f"host_{name}_stall").value = round(density * 256)
        getattr(self.dut, f"host_{name}_stall_seed").value = seed & 0xFFFFFFFF
        getattr(self.dut, f"host_{name}_stall_shift").value = burst_log2

    async def reset(self, cycles: int = 2) -> None:
        """Hold the component's reset for some cycles. Call it with empty queues."""
        self.dut.host_rst.value = 1
        await self.run(cycles)
        self.dut.host_rst.value = 0

    def send(self, name: str, items: bytes | Iterable[int | tuple[int, ...]]) -> None:
        """Queue items for a source: bytes, integers, or tuples with one integer per field. Costs no cycle."""
        self._sources[name].queue_items(items)

    def waiting(self, name: str) -> int:
        """Items queued for a source that the component has not taken yet."""
        return self._sources[name].waiting()

    def received(self, name: str) -> int:
        """Items that have come out of a sink and were not fetched yet."""
        return len(self._sinks[name])

    def fetch(self, name: str, count: int | None = None) -> bytes | list[int]:
        """Take what came out of a sink, at most ``count`` items: bytes where items are bytes, else integers."""
        return self._sinks[name].take(count)

    def fetch_slots(self, name: str) -> bytes:
        """Take all that came out of a sink, ``Channel.slot_bytes`` little endian bytes an item."""
        return self._sinks[name].take_slots()

    async def run(self, cycles: int) -> None:
        """Advance by exactly so many cycles."""
        await self.run_until(limit_cycles=cycles)

    async def receive(self, name: str, count: int, *, limit_cycles: int = DEFAULT_LIMIT_CYCLES) -> bytes | list[int]:
        """Advance until a sink gave ``count`` items and return them; raise ``BenchTimeoutError`` if it does not."""
        if not await self.run_until(received={name: count}, limit_cycles=limit_cycles):
            have = self.received(name)
            raise BenchTimeoutError(f"'{name}' gave {have} of {count} items within {limit_cycles} cycles")
        return self.fetch(name, count)

    async def wait(self, limit_cycles: int = DEFAULT_LIMIT_CYCLES, **outputs: int) -> None:
        """Advance through the first cycle in which one of the outputs has its value; raise when that never comes."""
        if not await self.run_until(outputs=outputs, limit_cycles=limit_cycles):
            raise BenchTimeoutError(f"none of {outputs} within {limit_cycles} cycles")

    async def run_until(
        self,
        *,
        received: Mapping[str, int] | None = None,
        sent: Iterable[str] = (),
        outputs: Mapping[str, int] | None = None,
        limit_cycles: int = DEFAULT_LIMIT_CYCLES,
    ) -> bool:
        """Advance until something wanted is so, at most ``limit_cycles``; whether it was.

        Parameters:
            received: sinks and how many unfetched items each must have; the run ends when all have.
            sent: sources that must have nothing left; the run ends when all are empty and ``received`` holds.
            outputs: outputs and values; the run ends with the first cycle in which one of them has its value.
        """
        received, sent, outputs = received or {}, tuple(sent), outputs or {}
        end = self.cycle + limit_cycles
        self._watch(outputs)

        def satisfied() -> bool:
            return all(len(self._sinks[name]) >= count for name, count in received.items()) and not any(
                self._sources[name].waiting() for name in sent
            )

        while not ((received or sent) and satisfied()) and self.cycle < end:
            for name, source in self._sources.items():
                source.prepare(stop_when_sent=name in sent)
            for name, sink in self._sinks.items():
                sink.prepare(max(0, received.get(name, 0) - len(sink)))
            await self._clock_until(end)
            for sink in self._sinks.values():
                sink.drain()
            if any(getattr(self.dut, f"watch_{name}_hit").value for name in outputs):
                return True
        return bool(received or sent) and satisfied()

    def _watch(self, outputs: Mapping[str, int]) -> None:
        for name in self._watched:
            getattr(self.dut, f"host_watch_{name}").value = 0
        for name, value in outputs.items():
            getattr(self.dut, f"host_watch_{name}").value = 1
            getattr(self.dut, f"host_watch_{name}_value").value = value & ((1 << self._widths[name]) - 1)
        self._watched = list(outputs)

    async def _clock_until(self, end: int) -> None:
        self.dut.host_deadline.value = end
        self._requests = (self._requests + 1) % (1 << 32)
        self.dut.host_request.value = self._requests
        await self.dut.served.value_change

    def report(self, result: Any) -> None:
        """Hand a JSON-able result to the caller of ``run_bench``."""
        Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps(result))


def _read(handle: Any) -> int:
    return int(handle.value)
