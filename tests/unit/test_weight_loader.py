"""LOADs from a flash that keeps its data sheet's times: what is written, when they are complete, what is a fault."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import xor
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import Fault
from emberline.compiler.weight_encoder import WeightEncoder
from emberline.gateware.flash.flash_reader import FlashReader
from emberline.gateware.weight_loader import WeightLoader
from emberline.simulation.streams import simulate
from tests.support.flash_model import FlashModel

MACHINE = Architecture("small", 4, 4, 256, 256, weight_word_cycles=16)
START = 2
"""Cycles from the last of what a LOAD waits for to its start."""


class Loader(wiring.Component):
    """A loader with its flash reader: everything between LOADs and the flash's lines."""

    def __init__(self) -> None:
        self.loader = WeightLoader(MACHINE)
        self.reader = FlashReader(clock_hz=100e6, divider=2, probe_bytes=12)
        self.pins = self.reader.pins
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.loader, m.submodules.reader = self.loader, self.reader
        wiring.connect(m, self.loader.read, self.reader.i)
        wiring.connect(m, self.reader.o, self.loader.i_bytes)
        m.d.comb += self.loader.i_flash_fault.eq(self.reader.o_fault)
        return m


@dataclass
class Stream:
    """The blocks of some weights, and the LOAD of all of them."""

    weights: bytes
    data: bytes
    load: dict[str, int]


def stored(words: int, *, seed: int = 1, source: int = 0, address: int = 0, cycles: int = 4000) -> Stream:
    rng = random.Random(seed)
    weights = bytes(rng.choice([0, 0, 0, *range(256)]) for _ in range(words * MACHINE.multipliers))
    blocks = WeightEncoder().encode(weights)
    data = b"".join(block.words.astype("<u4").tobytes() for block in blocks)
    check = reduce(xor, (int(block.words[-1]) for block in blocks))
    load = {"source": source, "length": len(data), "address": address, "words": words, "cycles": cycles, "check": check}
    load["page"] = 0
    return Stream(weights, data, load)


async def push(ctx: Any, dut: Loader, load: dict[str, int]) -> None:
    while ctx.get(dut.loader.o_pending) == isa.LOAD_QUEUE:
        await ctx.tick()
    ctx.set(dut.loader.i, load)
    ctx.set(dut.loader.i_valid, 1)
    await ctx.tick()
    ctx.set(dut.loader.i_valid, 0)


async def ready(ctx: Any, dut: Loader) -> None:
    while not (ctx.get(dut.reader.o_ready) or ctx.get(dut.reader.o_fault)):
        await ctx.tick()


def run(flash: FlashModel, bench: Any, deadline: int = 60_000) -> tuple[dict[int, int], Loader]:
    """Runs a bench; what was written, by chunk."""
    dut, written = Loader(), {}

    async def watch(ctx: Any) -> None:
        while True:
            _, _, enable, address, data = await ctx.tick().sample(
                dut.loader.write_enable, dut.loader.write_address, dut.loader.write_data
            )
            if enable:
                written[address] = data

    async def whole(ctx: Any) -> None:
        await ready(ctx, dut)
        await bench(ctx, dut)

    background = [*flash.testbenches(dut.pins), watch]
    simulate(dut, whole, background=background, monitored=[], deadline_cycles=deadline)
    return written, dut


def chunks(stream: Stream) -> dict[int, int]:
    first = stream.load["address"] * MACHINE.multipliers // 4
    words = (stream.weights[at : at + 4] for at in range(0, len(stream.weights), 4))
    return {first + index: int.from_bytes(word, "little") for index, word in enumerate(words)}


def test_writes_the_weights_of_loads_that_follow_each_other() -> None:
    streams = [stored(9, seed=1, cycles=5000)]
    for seed, words, address in ((2, 1, 20), (3, 30, 40), (4, 5, 250), (5, 2, 3), (6, 4, 100)):
        at = streams[-1].load["source"] + len(streams[-1].data)
        streams.append(stored(words, seed=seed, source=at, address=address, cycles=5000))
    complete: list[int] = []

    async def bench(ctx: Any, dut: Loader) -> None:
        cycle, pending, pushed = 0, 0, 0
        while len(complete) < len(streams):
            if pushed < len(streams) and ctx.get(dut.loader.o_pending) < isa.LOAD_QUEUE:
                ctx.set(dut.loader.i, streams[pushed].load)
                ctx.set(dut.loader.i_valid, 1)
                pushed += 1
                pending += 1
            else:
                ctx.set(dut.loader.i_valid, 0)
            await ctx.tick()
            cycle += 1
            while pending > ctx.get(dut.loader.o_pending):
                pending -= 1
                complete.append(cycle)
            assert not ctx.get(dut.loader.o_late)

    written, _ = run(FlashModel(b"".join(each.data for each in streams)), bench)
    expected: dict[int, int] = {}
    for each in streams:
        expected |= chunks(each)
    assert written == expected
    assert [b - a for a, b in pairwise(complete)] == [each.load["cycles"] + START for each in streams[1:]]


def test_a_page_is_written_to_the_instruction_memory_and_counted_for_itself() -> None:
    """Behind weights, of which nothing goes there."""
    weights = stored(3, cycles=2000)
    page = stored(4, seed=2, source=len(weights.data), address=70, cycles=3000)
    page.load.update(page=1, words=len(page.weights) // 4)
    pages: dict[int, int] = {}
    pending: list[tuple[int, int, int]] = []

    async def bench(ctx: Any, dut: Loader) -> None:
        loader = dut.loader
        for each in (weights, page):
            await push(ctx, dut, each.load)
        await ctx.tick()
        while not pending or pending[-1][0]:
            counts = tuple(
                ctx.get(each) for each in (loader.o_pending, loader.o_weights_pending, loader.o_pages_pending)
            )
            if not pending or pending[-1] != counts:
                pending.append(counts)
            _, _, enable, address, data = await ctx.tick().sample(
                loader.page_enable, loader.write_address, loader.write_data
            )
            if enable:
                pages[address] = data

    written, _ = run(FlashModel(weights.data + page.data), bench)
    assert written == chunks(weights)
    words = [int.from_bytes(page.weights[at : at + 4], "little") for at in range(0, len(page.weights), 4)]
    assert pages == {70 + index: word for index, word in enumerate(words)}
    assert pending == [(2, 1, 1), (1, 0, 1), (0, 0, 0)]


def test_starts_when_the_row_that_is_walked_has_ended() -> None:
    stream = stored(2, cycles=1000)
    times: dict[str, int] = {}

    async def bench(ctx: Any, dut: Loader) -> None:
        loader = dut.loader
        ctx.set(loader.i_row_taken, 1)
        await ctx.tick()
        ctx.set(loader.i_row_taken, 0)
        await push(ctx, dut, stream.load)
        for _ in range(300):
            await ctx.tick()
            assert not ctx.get(loader.read.valid)
        # This is the cycle after the row's last one; another one begins at once, and does not matter.
        ctx.set(loader.i_row_end, 1)
        ctx.set(loader.i_row_taken, 1)
        await ctx.tick()
        ctx.set(loader.i_row_end, 0)
        ctx.set(loader.i_row_taken, 0)
        cycle = 2  # since the row's last one
        while ctx.get(loader.o_pending):
            await ctx.tick()
            cycle += 1
        times["complete"] = cycle - 1

    written, _ = run(FlashModel(stream.data), bench)
    assert written == chunks(stream)
    assert times["complete"] == START + 1000


def test_what_takes_longer_than_announced_is_late_and_right() -> None:
    stream = stored(20, cycles=50)
    seen: dict[str, int] = {"late": 0, "cycles": 0}

    async def bench(ctx: Any, dut: Loader) -> None:
        await push(ctx, dut, stream.load)
        while ctx.get(dut.loader.o_pending):
            await ctx.tick()
            seen["late"] += ctx.get(dut.loader.o_late)
            seen["cycles"] += 1

    written, _ = run(FlashModel(stream.data), bench)
    assert written == chunks(stream)
    assert seen["late"] > 100
    assert seen["cycles"] == seen["late"] + 50 + START


def flipped(data: bytes, bit: int) -> bytes:
    value = bytearray(data)
    value[bit // 8] ^= 1 << bit % 8
    return bytes(value)


GOOD = stored(6)
OTHER = stored(6, seed=9)
DAMAGED = {
    "flipped payload": (FlashModel(flipped(GOOD.data, 4 * len(GOOD.data))), GOOD.load, Fault.WEIGHTS),
    "flipped header": (FlashModel(flipped(GOOD.data, 3)), GOOD.load, Fault.WEIGHTS),
    "cut off": (FlashModel(GOOD.data), GOOD.load | {"length": len(GOOD.data) - 8}, Fault.WEIGHTS),
    "too much": (FlashModel(GOOD.data + bytes(64)), GOOD.load | {"length": len(GOOD.data) + 32}, Fault.WEIGHTS),
    "too few words": (FlashModel(GOOD.data), GOOD.load | {"words": 7}, Fault.WEIGHTS),
    "too many words": (FlashModel(GOOD.data), GOOD.load | {"words": 5}, Fault.WEIGHTS),
    "erased": (FlashModel(b"\xff" * 4096), GOOD.load, Fault.WEIGHTS),
    "another program": (FlashModel(OTHER.data), GOOD.load | {"length": len(OTHER.data)}, Fault.WEIGHTS_CHECK),
    "no flash": (FlashModel(GOOD.data, stuck=0), GOOD.load, Fault.FLASH_ABSENT),
    "stranger": (FlashModel(GOOD.data, identity=bytes([0x55, 0x60, 0x18])), GOOD.load, Fault.FLASH_UNKNOWN),
    "no quad": (FlashModel(GOOD.data, keeps_quad=False), GOOD.load, Fault.FLASH_QUAD),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_faults_name_the_cause_and_are_never_complete(name: str) -> None:
    flash, load, fault = DAMAGED[name]
    found: dict[str, int] = {}

    async def bench(ctx: Any, dut: Loader) -> None:
        await push(ctx, dut, load)
        while not ctx.get(dut.loader.o_fault):
            await ctx.tick()
        found["fault"] = ctx.get(dut.loader.o_fault)
        for _ in range(5000):
            await ctx.tick()
        found["pending"] = ctx.get(dut.loader.o_pending)

    written, _ = run(flash, bench)
    assert Fault(found["fault"]) == fault
    assert found["pending"] == 1
    first = load["address"] * MACHINE.multipliers // 4
    assert all(first <= at < first + load["words"] * MACHINE.multipliers // 4 for at in written)
