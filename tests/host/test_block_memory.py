"""Block memories for a shape."""

from __future__ import annotations

import pytest

from emberline.arch.block_memory import DP16KD, M9K, MemoryShape, Ports


@pytest.mark.parametrize(
    ("width", "depth", "ports", "granularity", "blocks"),
    [
        (1, 8192, Ports.SINGLE, 1, 1),
        (36, 256, Ports.SINGLE, 36, 1),
        (36, 256, Ports.SIMPLE_DUAL, 36, 1),
        (36, 256, Ports.TRUE_DUAL, 36, 2),
        (36, 257, Ports.SIMPLE_DUAL, 36, 2),
        (32, 768, Ports.SIMPLE_DUAL, 32, 3),
        (8, 1025, Ports.SIMPLE_DUAL, 8, 2),
        (13, 1024, Ports.SIMPLE_DUAL, 13, 2),
        # a slice of 512 x 18 and one of 256 x 36: 2 + 1
        (36, 768, Ports.SIMPLE_DUAL, 36, 3),
        (18, 768, Ports.SIMPLE_DUAL, 18, 2),
        # 1024 x 9 and 256 x 36, where either alone would take 2 x 2 and 5
        (18, 1280, Ports.SIMPLE_DUAL, 18, 3),
        # bytes with enables leave the parity bits idle
        (36, 256, Ports.SIMPLE_DUAL, 9, 4),
        (128, 256, Ports.SIMPLE_DUAL, 32, 4),
        (144, 256, Ports.SIMPLE_DUAL, 144, 4),
        (144, 256, Ports.SIMPLE_DUAL, 8, 5),
        (128, 512, Ports.TRUE_DUAL, 64, 8),
        (128, 5120, Ports.TRUE_DUAL, 64, 80),
    ],
)
def test_m9k_blocks(width: int, depth: int, ports: Ports, granularity: int, blocks: int) -> None:
    assert M9K.blocks(MemoryShape(width, depth, ports, granularity)) == blocks


@pytest.mark.parametrize(
    ("width", "depth", "ports", "granularity", "blocks"),
    [
        (128, 8192, Ports.TRUE_DUAL, 64, 64),
        (128, 1024, Ports.SIMPLE_DUAL, 32, 8),
        (32, 1024, Ports.SIMPLE_DUAL, 32, 2),
    ],
)
def test_dp16kd_blocks(width: int, depth: int, ports: Ports, granularity: int, blocks: int) -> None:
    assert DP16KD.blocks(MemoryShape(width, depth, ports, granularity)) == blocks


@pytest.mark.parametrize("depth", [1, 255, 256, 257, 1000, 3000, 8192, 10000])
@pytest.mark.parametrize("width", [1, 9, 20, 36])
def test_blocks_hold_every_bit_and_never_shrink(width: int, depth: int) -> None:
    blocks = M9K.blocks(MemoryShape(width, depth, Ports.SIMPLE_DUAL, width))
    assert blocks * 9216 >= width * depth
    assert M9K.blocks(MemoryShape(width, depth + 1, Ports.SIMPLE_DUAL, width)) >= blocks


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("depth", 0), ("granularity", 0), ("granularity", 3)])
def test_shape_names_what_is_wrong(field: str, value: int) -> None:
    arguments = {"width": 32, "depth": 16, "ports": Ports.SINGLE, "granularity": 32, field: value}
    with pytest.raises(ValueError, match=f"{field} must .*not {value}"):
        MemoryShape(**arguments)
