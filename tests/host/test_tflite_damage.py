"""No file breaks the TFLite front end: truncated, altered and random files are refused or read, quickly."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import Limits, random_graph

from emberline.compiler.frontends.tflite_reader import read_tflite
from emberline.compiler.frontends.tflite_writer import write_tflite
from emberline.errors import ModelError


@pytest.fixture(scope="module")
def intact() -> bytes:
    graph = random_graph(np.random.default_rng(6), Limits(softmax=True, depthwise=True, max_channels=6))
    return write_tflite(graph)


def must_not_break(data: bytes) -> bool:
    """Read a file that may be damaged; whether it was refused. Any error but ModelError fails the test, and so does
    a second of time."""
    start = time.process_time()
    try:
        read_tflite(data)
    except ModelError:
        return True
    finally:
        assert time.process_time() - start < 1
    return False


def test_truncated_files_are_refused(intact: bytes) -> None:
    refused = [must_not_break(intact[:length]) for length in range(0, len(intact), 37)]
    assert sum(refused) > 0.9 * len(refused)  # what is cut off may be padding or an unused table


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_break_the_reader(intact: bytes, data: st.DataObject) -> None:
    damaged = bytearray(intact)
    positions = st.integers(0, len(intact) - 1)
    for position, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8)):
        damaged[position] = value
    must_not_break(bytes(damaged))


def test_every_offset_replaced_by_extremes(intact: bytes) -> None:
    """Each aligned word in turn becomes 0, -1, the largest number or an offset of one."""
    rng = np.random.default_rng(1)
    for position in rng.permutation(np.arange(0, len(intact) - 4, 4))[:80]:
        for value in (0, 0xFFFF_FFFF, 0x7FFF_FFFF, 1):
            must_not_break(intact[:position] + value.to_bytes(4, "little") + intact[position + 4 :])


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_random_files_are_refused(data: bytes) -> None:
    assert must_not_break(data)
    assert must_not_break(b"\x10\0\0\0TFL3" + data)
