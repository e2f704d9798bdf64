"""Streams in Amaranth's own simulator: sources, sinks, a protocol monitor, and a simulation with a deadline.

A unit test is a component, the items that go in, the items that must come out, and the four patterns of ``PATTERNS``
with a few seeds:

    simulate(
        component,
        source(component.i, items, gaps=pattern.idle(seed)),
        sink(component.o, len(expected), into=outputs, gaps=pattern.stall(seed + 1)),
    )
    assert outputs == expected
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import stream, wiring
from amaranth.sim import SimulatorContext

# Nothing here suspends in an asynchronous generator (`repeat`, `until`, `async for`): when another testbench fails
# meanwhile, some releases of CPython 3.11 lose count of the recursion depth and pytest breaks down.
Testbench = Callable[[SimulatorContext], Awaitable[None]]

DEFAULT_DEADLINE_CYCLES = 20_000


def no_gaps() -> Iterator[bool]:
    """Never pause."""
    while True:
        yield False


def random_gaps(seed: int, density: float = 0.5, burst: int = 1) -> Iterator[bool]:
    """Pause in a fraction ``density`` of the cycles, in groups of up to ``burst`` cycles."""
    generator = random.Random(seed)
    while True:
        pause = generator.random() < density
        yield from [pause] * generator.randint(1, burst)


@dataclass(frozen=True)
class Pattern:
    """How a source idles and a sink stalls in one run of a test; pytest shows the name."""

    name: str
    idle_density: float
    stall_density: float
    burst: int = 1

    def idle(self, seed: int) -> Iterator[bool]:
        """The gaps of a source."""
        return random_gaps(seed, self.idle_density, self.burst)

    def stall(self, seed: int) -> Iterator[bool]:
        """The gaps of a sink; independent of ``idle`` with the same seed."""
        return random_gaps(~seed, self.stall_density, self.burst)

    def __str__(self) -> str:
        return self.name


# The product of idle and stall: full speed, a slow source, a slow sink, and both with pauses in bursts.
PATTERNS = (
    Pattern("flowing", 0, 0),
    Pattern("idling", 0.6, 0),
    Pattern("stalling", 0, 0.6),
    Pattern("bursty", 0.5, 0.5, burst=5),
)


def source(port: stream.Interface, items: Iterable[Any], *, gaps: Iterator[bool] | None = None) -> Testbench:
    """A testbench that sends ``items`` into an input stream, pausing where ``gaps`` says so.

    Keeps the stream rule: ``valid``, once raised, holds with its payload until the transfer. While idle, the payload
    is changed, so that a component that looks at it without ``valid`` fails.
    """
    gaps = no_gaps() if gaps is None else gaps
    width = len(_as_value(port.payload))
    noise = random.Random(width)

    async def send(ctx: SimulatorContext) -> None:
        for item in items:
            while next(gaps):
                ctx.set(_as_value(port.payload), noise.getrandbits(width))
                await ctx.tick()
            ctx.set(port.payload, item)
            ctx.set(port.valid, 1)
            _, _, ready = await ctx.tick().sample(port.ready)
            while not ready:
                _, _, ready = await ctx.tick().sample(port.ready)
            ctx.set(port.valid, 0)

    return send


def sink(
    port: stream.Interface, count: int, *, into: list[Any], gaps: Iterator[bool] | None = None, spare_cycles: int = 8
) -> Testbench:
    """A testbench that appends ``count`` items of an output stream to ``into``, stalling where ``gaps`` says so.

    Afterwards it stays ready for ``spare_cycles`` and fails if one more item comes. It also fails when ``valid``
    depends on ``ready`` within a cycle; a component that waits for ``ready`` over several cycles runs into the deadline
    with ``reluctant_sink``.
    """
    gaps = no_gaps() if gaps is None else gaps

    async def receive(ctx: SimulatorContext) -> None:
        while len(into) < count:
            ctx.set(port.ready, 0)
            offered = ctx.get(port.valid)
            if next(gaps):
                await ctx.tick()
                continue
            ctx.set(port.ready, 1)
            if ctx.get(port.valid) != offered:
                raise AssertionError(f"valid of {port!r} depends on ready within a cycle")
            _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
            if valid:
                into.append(payload)
        ctx.set(port.ready, 1)
        for _ in range(spare_cycles):
            _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
            if valid:
                raise AssertionError(f"after its {count} items {port!r} gave one more: {payload!r}")
        ctx.set(port.ready, 0)

    return receive


def reluctant_sink(port: stream.Interface, count: int, *, into: list[Any], patience_cycles: int = 3) -> Testbench:
    """A sink that becomes ready only after ``valid`` has been seen for some cycles: ``valid`` must not wait for it."""

    async def receive(ctx: SimulatorContext) -> None:
        ctx.set(port.ready, 0)
        while len(into) < count:
            seen = 0
            while seen < patience_cycles:
                _, _, valid = await ctx.tick().sample(port.valid)
                seen += valid
            ctx.set(port.ready, 1)
            _, _, _, payload = await ctx.tick().sample(port.valid, port.payload)
            ctx.set(port.ready, 0)
            into.append(payload)

    return receive


def monitor(port: stream.Interface, name: str = "stream") -> Testbench:
    """A background testbench that fails when ``valid`` or the payload does not hold until the transfer."""

    async def watch(ctx: SimulatorContext) -> None:
        held: Any = None
        waiting = False
        payload_value = _as_value(port.payload)
        while True:
            _, reset, valid, ready, payload = await ctx.tick().sample(port.valid, port.ready, payload_value)
            if waiting and not reset:
                if not valid:
                    raise AssertionError(f"{name}: valid fell before the transfer of {held:#x}")
                if payload != held:
                    raise AssertionError(f"{name}: payload changed from {held:#x} to {payload:#x} before the transfer")
            waiting, held = bool(valid and not ready and not reset), payload

    return watch


def simulate(
    component: wiring.Component,
    *testbenches: Testbench,
    deadline_cycles: int = DEFAULT_DEADLINE_CYCLES,
    monitored: Sequence[stream.Interface] | None = None,
    background: Sequence[Testbench] = (),
    waves: Path | None = None,
) -> None:
    """Run testbenches on a component until all have ended, under the stream rule and with a deadline.

    Parameters:
        deadline_cycles: the simulation fails when some testbench has not ended by then.
        monitored: streams to check; ``None`` for all output streams of the component.
        background: testbenches that run until all others have ended.
        waves: write a VCD file there.

    Deprecation warnings are errors.
    """
    from amaranth.sim import Simulator

    if monitored is None:
        monitored = output_streams(component)
    running = len(testbenches)

    def counted(testbench: Testbench) -> Testbench:
        async def run(ctx: SimulatorContext) -> None:
            nonlocal running
            await testbench(ctx)
            running -= 1

        return run

    async def deadline(ctx: SimulatorContext) -> None:
        for _ in range(deadline_cycles):
            await ctx.tick()
        raise AssertionError(f"{running} of {len(testbenches)} testbenches did not end within {deadline_cycles} cycles")

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        simulator = Simulator(component)
        simulator.add_clock(1e-8)
        for testbench in testbenches:
            simulator.add_testbench(counted(testbench))
        for port in monitored:
            simulator.add_testbench(monitor(port, repr(port)), background=True)
        for testbench in background:
            simulator.add_testbench(testbench, background=True)
        simulator.add_testbench(deadline, background=True)
        if waves is None:
            simulator.run()
        else:
            with simulator.write_vcd(str(waves)):
                simulator.run()


def output_streams(component: wiring.Component) -> list[stream.Interface]:
    """The streams that leave a component, those in its signature's top level."""
    found = []
    for name, member in component.signature.members.items():
        if not member.is_signature or member.dimensions:
            continue
        port = getattr(component, name)
        if member.flow is wiring.Out and isinstance(member.signature, stream.Signature):
            found.append(port)
    return found


def _as_value(payload: Any) -> Any:
    """The bits of a payload of any shape."""
    from amaranth.hdl import Value

    return Value.cast(payload)
