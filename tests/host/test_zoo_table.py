"""The table of networks known by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from emberline.cli.networks import load_network
from emberline.driver.preprocessing import Preprocessing
from emberline.errors import ModelError
from emberline.zoo import CIFAR10_LABELS, PACKAGE_FOLDER, ZOO, data_root, find_by_contents


@pytest.mark.parametrize("name", ZOO)
def test_entry_is_complete(name: str) -> None:
    entry = ZOO[name]
    assert entry.name == name
    assert entry.title
    assert entry.origin
    assert entry.licence
    assert entry.in_package or len(entry.sha256 or "") == 64


@pytest.mark.parametrize("name", ZOO)
def test_files_are_the_published_ones(name: str, data_folder: Path) -> None:
    entry = ZOO[name]
    for file in entry.files:
        found = file.find(name, entry.origin)
        assert hashlib.sha256(found.read_bytes()).hexdigest() == file.sha256, file.name
    assert entry.in_package == (not entry.files)


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if not entry.reader.is_float])
def test_network_has_as_many_outputs_as_labels(name: str, data_folder: Path) -> None:
    network = load_network(name)
    assert network.name == name
    assert network.scores.size >= len(ZOO[name].class_names()) > 0


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.reader.is_float])
def test_float_network_says_what_to_do(name: str, data_folder: Path) -> None:
    with pytest.raises(ModelError, match=f"'{name}' is float.*emberline quantize"):
        load_network(name)


def test_missing_file_names_its_origin_and_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    with pytest.raises(ModelError, match=r"vww_96_int8\.tflite.*mlcommons/tiny.*emberline zoo fetch vww_96"):
        ZOO["vww_96"].path()
    assert ZOO["mobilenet_v2"].class_names() == ()


@pytest.mark.parametrize("name", ["ember_cifar10", "resnet8"])
def test_cifar_pixels_become_codes_by_subtracting_128(name: str, data_folder: Path) -> None:
    quantisation = load_network(name).input.quantisation
    preprocessing = Preprocessing.from_json(ZOO[name].preprocessing)
    pixels = np.arange(256, dtype=np.uint8).reshape(-1, 1).repeat(3, axis=1)
    assert (preprocessing.to_codes(pixels, quantisation) == pixels.astype(int) - 128).all()


def test_labels_of_our_own_network_are_its_description_s() -> None:
    description = json.loads((PACKAGE_FOLDER / "ember_cifar10.json").read_text())
    assert tuple(description["labels"]) == CIFAR10_LABELS
    assert ZOO["ember_cifar10"].labels == CIFAR10_LABELS


def test_file_is_recognised_by_its_contents(tmp_path: Path) -> None:
    data = ZOO["ember_cifar10"].path().read_bytes()
    assert find_by_contents(data) is ZOO["ember_cifar10"]
    assert find_by_contents(data + b"\0") is None
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(data)
    assert load_network(str(copy)).labels == CIFAR10_LABELS


def test_data_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBERLINE_DATA", str(tmp_path))
    assert data_root() == tmp_path
