"""ZynqNet from its published 8-bit weights: every published activation, value by value."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from emberline.compiler.frontends.zynqnet_reader import DESCRIPTION_NAME, WEIGHTS_NAME, read_zynqnet
from emberline.errors import ModelError
from emberline.model import network, numerics
from emberline.zoo.golden import CLASS, RECOMPUTED, golden_frame, golden_maps, in_published_order

GOLDEN_VALUES = 4_073_472


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    return data_folder / "zynqnet"


def test_every_published_activation_is_equal(folder: Path) -> None:
    golden = golden_maps(folder)
    frame = golden_frame(golden)
    maps = network.run(read_zynqnet(folder, fuse=False), frame, keep=True)
    differing = {name: int((in_published_order(maps[name]) != values).sum()) for name, values in golden.items()}
    assert {name: count for name, count in differing.items() if count} == {}
    assert sum(values.size for name, values in golden.items() if name not in RECOMPUTED) == GOLDEN_VALUES
    assert maps["prob"].argmax() == CLASS


def test_fused_requantisation_changes_no_concatenation(folder: Path) -> None:
    golden = golden_maps(folder)
    frame = golden_frame(golden)
    graph = read_zynqnet(folder)
    maps = network.run(graph, frame, keep=True)
    concatenations = [name for name in golden if name.endswith("/concat")]
    assert len(concatenations) == 8
    for name in concatenations:
        np.testing.assert_array_equal(in_published_order(maps[name]), golden[name])
    assert maps["prob"].argmax() == CLASS
    assert not any(layer.name.endswith("/requantised") for layer in graph)


@pytest.mark.parametrize("right", [1, 2, 7, 11])
def test_multipliers_round_half_away_from_zero(right: int) -> None:
    sums = np.unique(np.concatenate([np.arange(-2000, 2000), np.arange(-128, 128) * (1 << right) + (1 << right >> 1)]))
    expected = [int(abs(Fraction(int(s), 1 << right)) + Fraction(1, 2)) * (1 if s > 0 else -1) for s in sums]
    ours = numerics.multiply_by_quantised_multiplier(sums, (1 << (31 - right)) + 1, 0)
    assert ours.tolist() == expected
    positive = sums > 0
    plain = numerics.multiply_by_quantised_multiplier(sums, 1 << (31 - right), 0)
    assert plain[positive].tolist() == np.array(expected)[positive].tolist()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=WEIGHTS_NAME):
        read_zynqnet(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("{}", "not a description of ZynqNet"),
        ('{"layers": [], "concat_fl": {}, "input_fl": 0}', "not a description of ZynqNet"),
    ],
)
def test_damaged_description_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / WEIGHTS_NAME).write_bytes(bytes(8))
    (tmp_path / DESCRIPTION_NAME).write_text(text)
    with pytest.raises(ModelError, match=message):
        read_zynqnet(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / DESCRIPTION_NAME).write_text((folder / DESCRIPTION_NAME).read_text())
    (tmp_path / WEIGHTS_NAME).write_bytes((folder / WEIGHTS_NAME).read_bytes()[:100_000])
    with pytest.raises(ModelError, match="not a description of ZynqNet"):
        read_zynqnet(tmp_path)


def test_fractional_lengths_that_need_a_left_shift_are_refused(tmp_path: Path, folder: Path) -> None:
    description = json.loads((folder / DESCRIPTION_NAME).read_text())
    description["layers"][0]["fl_out"] = 9
    (tmp_path / DESCRIPTION_NAME).write_text(json.dumps(description))
    (tmp_path / WEIGHTS_NAME).write_bytes((folder / WEIGHTS_NAME).read_bytes())
    with pytest.raises(ModelError, match="layer 'conv1'.*cannot be computed exactly"):
        read_zynqnet(tmp_path)
