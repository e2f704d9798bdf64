"""The decoder of compressed weights against encoder and reference decoder: any stream, any stalls, any damage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from amaranth.lib import data
from hypothesis import given, settings
from hypothesis import strategies as st

from emberline.arch.block_memory import M9K
from emberline.arch.weight_code import HEADER, StreamFault
from emberline.compiler.weight_encoder import WeightEncoder
from emberline.errors import WeightStreamError
from emberline.gateware.resources import netlist_resources
from emberline.gateware.weight_decoder import INPUT, WeightDecoder
from emberline.model import weight_decoder as reference
from emberline.simulation.streams import PATTERNS, Pattern, simulate, sink, source

DISTANCE = 2


def weights(seed: int, size: int, density: float, spread: float = 15) -> bytes:
    rng = np.random.default_rng(seed)
    values = np.rint(rng.standard_normal(size) * spread).clip(-127, 127)
    return (values * (rng.random(size) < density)).astype(np.int8).tobytes()


def encoded(data: bytes, max_chunks: int = 1000, distance: int = 0, *, wide: bool = False) -> list[int]:
    blocks = WeightEncoder(max_chunks, wide).encode(data, distance=distance)
    return np.concatenate([block.words for block in blocks]).tolist()


def items(words: list[int]) -> list[data.Const]:
    return [INPUT.const({"word": word, "last": index == len(words) - 1}) for index, word in enumerate(words)]


def decode(words: list[int], chunks: int, pattern: Pattern, seed: int, *, wide: bool = False) -> tuple[bytes, int, int]:
    """What a decoder gives of a good stream, how many blocks, and in how many cycles."""
    dut = WeightDecoder(DISTANCE, wide=wide)
    out: list[int] = []
    done, cycles = 0, 0

    async def watch(ctx) -> None:
        nonlocal done, cycles
        after = 0
        while after < 12:
            _, _, now, fault = await ctx.tick().sample(dut.done, dut.fault)
            assert fault == StreamFault.NONE
            done += now
            after = after + 1 if len(out) == chunks else 0
            cycles += after == 0

    simulate(
        dut,
        source(dut.i, items(words), gaps=pattern.idle(seed)),
        sink(dut.o, chunks, into=out, gaps=pattern.stall(seed + 1)),
        watch,
        deadline_cycles=200_000,
    )
    return np.array(out, "<u4").tobytes(), done, cycles


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("density", "wide"), [(0.02, False), (0.3, False), (0.9, False), (0.2, True), (0.9, True)])
def test_weights_come_back_whatever_the_stalls(pattern: Pattern, density: float, wide: bool) -> None:
    data = weights(1, 1200, density)
    out, done, _ = decode(encoded(data, 100, DISTANCE * (density == 0.9), wide=wide), 300, pattern, 3, wide=wide)
    assert out == data
    assert done == 3


@settings(max_examples=12, deadline=None)
@given(
    st.binary(min_size=1, max_size=120) | st.builds(weights, st.integers(0, 99), st.integers(1, 300), st.floats(0, 1)),
    st.sampled_from([0, DISTANCE]),
    st.integers(1, 50),
    st.sampled_from(PATTERNS),
    st.booleans(),
)
def test_any_bytes_come_back(data: bytes, distance: int, max_chunks: int, pattern: Pattern, wide: bool) -> None:
    data += bytes(-len(data) % 4)
    out, done, _ = decode(encoded(data, max_chunks, distance, wide=wide), len(data) // 4, pattern, 5, wide=wide)
    assert out == data
    assert done == -(-len(data) // (4 * max_chunks))


@pytest.mark.parametrize("wide", [False, True])
def test_codes_of_every_length_come_back(wide: bool) -> None:
    """Frequencies that double give codes from 1 to 12 bits."""
    values = np.repeat(np.arange(1, 14), [1 << (12 - min(index, 11)) for index in range(13)]).astype(np.int8)
    data = np.random.default_rng(2).permutation(values)[:3000].tobytes()
    blocks = WeightEncoder().encode(data)
    counts = blocks[0].words[3:6].astype("<u4").tobytes()
    assert 0 not in counts[:11]
    assert decode(encoded(data, wide=wide), 750, PATTERNS[0], 1, wide=wide)[0] == data


@pytest.mark.parametrize(("density", "most"), [(1.0, 1.0), (0.6, 1.0), (0.2, 0.45), (0.05, 0.35), (0.0, 0.28)])
def test_at_least_a_weight_comes_in_each_cycle(density: float, most: float) -> None:
    """Most cycles for a weight of the payload; header, tables, the first and the last token take up to 130 more."""
    data = weights(4, 2000, density)
    assert decode(encoded(data), 500, PATTERNS[0], 1)[2] <= most * 2000 + 130


@pytest.mark.parametrize(
    ("density", "spread", "wide"),
    [(1.0, 15, True), (1.0, 60, True), (0.5, 15, True), (0.3, 1, False), (0.2, 15, False)],
)
def test_two_readers_take_the_cycles_that_the_encoder_says(density: float, spread: float, wide: bool) -> None:
    """At most those; header, tables, the first and the last token take up to 130 more."""
    data = weights(4, 4000, density, spread)
    (block,) = WeightEncoder(wide=True).encode(data)
    assert block.wide == wide
    out, _, cycles = decode(block.words.tolist(), 1000, PATTERNS[0], 1, wide=True)
    assert out == data
    assert cycles <= block.payload_cycles + 130
    assert cycles <= 0.62 * 4000 + 130


def damaged(
    words: list[int], goods: list[int], chunks_limit: int, pattern: Pattern = PATTERNS[0], *, wide: bool = False
) -> tuple[int, int]:
    """The fault of a damaged stream, after which a good one is decoded; and how many chunks came of the former."""
    dut = WeightDecoder(DISTANCE, wide=wide)
    out: list[int] = []
    seen = 0
    good_data = b"".join(reference.WeightDecoder(DISTANCE).decode(np.array(goods, np.uint32)))

    async def feed(ctx) -> None:
        nonlocal seen
        await source(dut.i, items(words), gaps=pattern.idle(1))(ctx)
        for _ in range(3000):
            await ctx.tick()
            if ctx.get(dut.fault) != StreamFault.NONE:
                break
        seen = ctx.get(dut.fault)
        for _ in range(8):
            await ctx.tick()
        out.clear()
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        await source(dut.i, items(goods))(ctx)
        for _ in range(3000):
            _, _, done = await ctx.tick().sample(dut.done)
            if done:
                break
        assert ctx.get(dut.fault) == StreamFault.NONE
        assert np.array(out, "<u4").tobytes() == good_data

    async def drain(ctx) -> None:
        ctx.set(dut.o.ready, 1)
        while True:
            _, _, valid, chunk = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid:
                out.append(chunk)
                assert len(out) <= chunks_limit

    from amaranth.sim import Simulator

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(feed)
    simulator.add_testbench(drain, background=True)
    simulator.run()
    return seen, len(out)


def reference_fault(words: list[int], *, wide: bool) -> StreamFault:
    try:
        reference.WeightDecoder(DISTANCE, wide).decode(np.array(words, np.uint32))
    except WeightStreamError as error:
        return StreamFault(error.cause)
    return StreamFault.NONE


GOOD = encoded(weights(9, 80, 0.5))


@pytest.mark.parametrize(("density", "wide"), [(0.2, False), (0.9, False), (0.9, True)])
def test_every_truncation_is_a_fault(density: float, wide: bool) -> None:
    words = encoded(weights(7, 80, density), distance=DISTANCE, wide=wide)
    for length in (*range(1, 8), *range(8, len(words), 3), len(words) - 1):
        assert damaged(words[:length], GOOD, 100, wide=wide)[0] == StreamFault.TRUNCATED


@pytest.mark.parametrize("wide", [False, True])
def test_flipped_bits_are_the_faults_that_the_reference_finds(wide: bool) -> None:
    words = encoded(weights(7, 80, 0.3), distance=DISTANCE, wide=wide)
    found = set()
    for bit in itertools.chain(range(96), range(96, 32 * len(words), 13)):
        wrong = list(words)
        wrong[bit // 32] ^= 1 << bit % 32
        expected = reference_fault(wrong, wide=wide)
        if expected in (StreamFault.NONE, StreamFault.TRUNCATED):
            # Words that end too early may be found earlier as something else.
            continue
        seen = damaged(wrong, GOOD, 1 << 17, wide=wide)[0]
        assert seen != StreamFault.NONE
        assert seen == expected or StreamFault.TRUNCATED in (seen, expected), bit
        found.add(seen)
    assert found >= {StreamFault.HEADER, StreamFault.TABLE, StreamFault.OVERRUN, StreamFault.CHECK}


@pytest.mark.parametrize("wide", [False, True])
def test_words_that_never_end_are_a_fault(wide: bool) -> None:
    words = encoded(weights(7, 120, 0.3), wide=wide)
    header = HEADER.unpack(words[:3])
    words[:3] = HEADER.pack({**header, "pairs": (1 << 17) - 1, "words": (1 << 17) - 1})
    assert damaged(words + [0x5A5A5A5A] * 300, GOOD, 1000, wide=wide)[0] == StreamFault.OVERRUN


@pytest.mark.parametrize("wide", [False, True])
def test_it_needs_a_block_memory_for_each_reader(wide: bool) -> None:
    dut = WeightDecoder(4, wide=wide)
    resources = netlist_resources(dut, [dut.i.p.as_value(), dut.i.valid, dut.o.ready, dut.o.payload])
    assert resources.block_memories(M9K) == 1 + wide
    assert resources.products == 0


def test_a_distance_it_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="distance must be in 1..31, not 0"):
        WeightDecoder(0)
