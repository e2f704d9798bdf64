"""``emberline weights``: every layer's stored bytes, which decode to the weight image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emberline.arch.presets import preset
from emberline.cli.main import main
from emberline.cli.networks import load_network
from emberline.compiler.compile import compile_graph
from emberline.compiler.stored_weights import store_weights
from emberline.model.weight_decoder import WeightDecoder


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0


def test_layers_and_totals_agree_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.bin"
    run("weights", "ember_cifar10", "-o", str(file), "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["stored_bytes"] == file.stat().st_size == sum(row["stored_bytes"] for row in report["layers"])
    assert report["stored_bytes"] == report["weight_bytes"] + report["parameter_bytes"]
    assert report["stored_bytes"] < report["image_bytes"]
    assert 0 < report["density"] <= 1
    run("weights", "ember_cifar10")
    assert "decoded again without a difference" in capsys.readouterr().out


def test_stored_weights_are_the_program_s_weight_image() -> None:
    graph, architecture = load_network("ember_cifar10").need_graph("a test"), preset("max10-10m50")
    stored = store_weights(graph, architecture)
    words = np.concatenate([b.words for layer in stored for b in (*layer.weight_blocks, *layer.parameter_blocks)])
    image = b"".join(WeightDecoder(architecture.lanes_in // 4).decode(words))
    assert sorted(image) == sorted(compile_graph(graph, preset("ulx3s-85f")).weights)
