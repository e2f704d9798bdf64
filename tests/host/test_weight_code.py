"""Weights in their code and back: every image, every malformed stream."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emberline.arch.weight_code import HEADER, MAX_LENGTH, StreamFault
from emberline.compiler.weight_encoder import Block, Code, WeightEncoder, limited_lengths, split_runs
from emberline.errors import WeightStreamError
from emberline.model.weight_decoder import Table, WeightDecoder


def weights(seed: int, size: int, density: float, spread: float = 15) -> bytes:
    rng = np.random.default_rng(seed)
    values = np.rint(rng.standard_normal(size) * spread).clip(-127, 127)
    return (values * (rng.random(size) < density)).astype(np.int8).tobytes()


def joined(blocks: list[Block]) -> NDArray[np.uint32]:
    return np.concatenate([block.words for block in blocks])


def decoded(words: NDArray[np.uint32]) -> bytes:
    return b"".join(WeightDecoder().decode(words))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 31), st.integers(1, 60), st.booleans())
def test_any_bytes_come_back(data: bytes, distance: int, max_chunks: int, wide: bool) -> None:
    data = data + bytes(-len(data) % 4)
    assert decoded(joined(WeightEncoder(max_chunks, wide).encode(data, distance=distance))) == data


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.integers(1, 3000),
    st.floats(0, 1),
    st.sampled_from([0.6, 4, 30, 200]),
    st.booleans(),
    st.booleans(),
)
def test_any_weights_come_back(
    seed: int, chunks: int, density: float, spread: float, predicted: bool, wide: bool
) -> None:
    data = weights(seed, 4 * chunks, density, spread)
    blocks = WeightEncoder(1500, wide).encode(data, distance=4 * predicted)
    assert decoded(joined(blocks)) == data
    most = 2 * 1500 if wide and not blocks[0].wide else 4 * 1500
    assert all(2 * block.pairs <= most for block in blocks), "at least a weight for each cycle, or two"


@pytest.mark.parametrize(
    "data", [bytes(range(256)), bytes(70000), b"\x80" * 64, bytes(4), bytes(255) + b"\1"], ids=lambda data: data[:2]
)
def test_extremes_come_back(data: bytes) -> None:
    assert decoded(joined(WeightEncoder().encode(data))) == data


def test_long_data_become_several_blocks_that_share_tables() -> None:
    blocks = WeightEncoder(max_chunks=4000).encode(weights(3, 64000, 0.33))
    assert len(blocks) == 4
    assert [block.new_tables for block in blocks] == [2, 0, 0, 0]
    assert all(block.sparse for block in blocks)


@pytest.mark.parametrize("density", [0.1, 0.33, 0.7, 1.0])
def test_size_is_close_to_the_entropy(density: float) -> None:
    data = weights(5, 200_000, density)
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    share = counts[counts > 0] / len(data)
    entropy = -(share * np.log2(share)).sum() * len(data) / 8
    assert sum(block.size for block in WeightEncoder().encode(data)) < 1.035 * entropy


def test_lengths_are_limited_and_complete() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = limited_lengths(np.array([0, *fibonacci]), MAX_LENGTH)
    assert lengths[0] == 0
    assert lengths.max() == MAX_LENGTH
    assert sum(2.0 ** -lengths[lengths > 0]) == 1


def test_lengths_without_a_limit_are_huffman_s() -> None:
    assert limited_lengths(np.array([45, 13, 12, 16, 9, 5]), MAX_LENGTH).tolist() == [1, 3, 3, 3, 4, 4]


def test_runs_are_cut_where_they_are_too_long() -> None:
    runs, values = split_runs(np.array([*[0] * 9, 5, 6, 0, 0], np.uint8), 3)
    assert runs.tolist() == [3, 3, 1, 0, 1]
    assert values.tolist() == [0, 0, 5, 6, 0]


@pytest.mark.parametrize("size", [0, 3, 6])
def test_bytes_that_are_not_whole_chunks_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are not whole chunks"):
        WeightEncoder().encode(bytes(size))


def test_a_distance_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="distance must be in 0..31, not 32"):
        WeightEncoder().encode(bytes(8), distance=32)


def stream(density: float = 0.4, wide: bool = False) -> tuple[bytes, NDArray[np.uint32]]:
    data = weights(7, 400, density)
    return data, joined(WeightEncoder(60, wide).encode(data, distance=2))


@pytest.mark.parametrize(("density", "wide"), [(0.2, False), (1.0, False), (1.0, True)])
def test_every_flipped_bit_is_found_or_harmless(density: float, wide: bool) -> None:
    """Harmless: bits that fill up a word, symbols that do not occur."""
    data, words = stream(density, wide)
    harmless = 0
    for bit in range(32 * len(words)):
        damaged = words.copy()
        damaged[bit // 32] ^= np.uint32(1 << bit % 32)
        with contextlib.suppress(WeightStreamError):
            assert decoded(damaged) == data
            harmless += 1
    assert harmless < 0.12 * 32 * len(words)


@pytest.mark.parametrize("wide", [False, True])
def test_every_truncation_is_found(wide: bool) -> None:
    _, words = stream(wide=wide)
    first_block = len(WeightEncoder(60, wide).encode(weights(7, 400, 0.4), distance=2)[0].words)
    for length in range(1, len(words)):
        if length == first_block:
            continue
        with pytest.raises(WeightStreamError, match="the words end within the block") as caught:
            WeightDecoder().decode(words[:length])
        assert caught.value.cause == StreamFault.TRUNCATED


def test_a_block_without_its_tables_is_refused() -> None:
    blocks = WeightEncoder(max_chunks=4000).encode(weights(3, 32000, 0.33))
    with pytest.raises(WeightStreamError, match="weight block 0: a table is missing") as caught:
        decoded(blocks[1].words)
    assert caught.value.cause == StreamFault.TABLE


def test_a_block_with_the_tables_of_another_is_found() -> None:
    a = WeightEncoder(max_chunks=4000).encode(weights(3, 32000, 0.33))
    b = WeightEncoder(max_chunks=4000).encode(weights(4, 32000, 0.33, 40))
    with pytest.raises(WeightStreamError, match="weight block 1"):
        decoded(np.concatenate([a[0].words, b[1].words]))


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("identifier", 0xEA, StreamFault.HEADER),
        ("identifier", 0xE9, StreamFault.OVERRUN),
        ("chunks", 0, StreamFault.HEADER),
        ("pairs", 0, StreamFault.HEADER),
        ("reserved_1", 1, StreamFault.HEADER),
        ("chunks", 59, StreamFault.OVERRUN),
        ("words", 30, StreamFault.OVERRUN),
        ("distance", 3, StreamFault.CHECK),
    ],
)
def test_wrong_headers_are_found(field: str, value: int, fault: StreamFault) -> None:
    _, words = stream()
    header = HEADER.unpack(words[:3].tolist())
    damaged = words.copy()
    damaged[:3] = HEADER.pack({**header, field: value})
    with pytest.raises(WeightStreamError, match="weight block 0") as caught:
        WeightDecoder().decode(damaged)
    assert caught.value.cause == fault


def test_wide_blocks_are_of_decoders_with_two_readers() -> None:
    data, words = stream(wide=True)
    assert decoded(words) == data
    with pytest.raises(WeightStreamError, match="identifier 0xe9 instead of 0xe8") as caught:
        WeightDecoder(wide=False).decode(words)
    assert caught.value.cause == StreamFault.HEADER


def test_a_wide_block_that_says_it_is_sparse_is_refused() -> None:
    _, words = stream(wide=True)
    damaged = words.copy()
    damaged[:3] = HEADER.pack({**HEADER.unpack(words[:3].tolist()), "sparse": 1})
    with pytest.raises(WeightStreamError, match="a wide block cannot be sparse") as caught:
        decoded(damaged)
    assert caught.value.cause == StreamFault.HEADER


def test_a_wide_stream_is_hardly_larger() -> None:
    """Two more streams in each block: two words more, and what fills up the last ones."""
    data = weights(5, 40_000, 1.0)
    narrow, wide = (sum(block.size for block in WeightEncoder(wide=each).encode(data)) for each in (False, True))
    assert narrow <= wide <= narrow + 16


@pytest.mark.parametrize(
    ("counts", "symbols", "message"),
    [([1], [3], "not complete"), ([3], [1, 2, 3], "not complete"), ([2], [1], "2 codes for 1 symbols")],
)
def test_impossible_tables_are_refused(counts: list[int], symbols: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table.from_counts(counts + [0] * (MAX_LENGTH - len(counts)), symbols)


def test_codes_are_canonical() -> None:
    code = Code.of(np.bincount([5] * 8 + [9] * 4 + [2] * 2 + [7] * 2, minlength=256))
    assert code.symbols.tolist() == [5, 9, 2, 7]
    assert code.codes[[5, 9, 2, 7]].tolist() == [0b0, 0b10, 0b110, 0b111]
