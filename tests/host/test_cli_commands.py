"""The commands, as a person or a script calls them: results, JSON documents, exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke
from PIL import Image

from emberline.arch.program import Program
from emberline.cli import verify as verify_command
from emberline.zoo import CIFAR10_LABELS

VERIFY_KEYS = ["network", "on", "against", "images", "outputs", "differing_outputs", "differing_images",
               "max_abs_difference", "accuracy", "top5"]  # fmt: skip
RUN_KEYS = [
    "image",
    "class",
    "label",
    "confidence",
    "cycles",
    "predicted_cycles",
    "stall_cycles",
    "milliseconds",
    "outputs",
]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    random = np.random.default_rng(1)
    np.savez(path, x=random.integers(0, 256, (5, 32, 32, 3), np.uint8), y=random.integers(0, 10, 5))
    return path


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "noise.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


def test_verify_prints_one_json_document(capfd: pytest.CaptureFixture[str], frames: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    finished = invoke(capfd, "verify", "ember_cifar10", "--images", frames, "--on", "model", "--json")
    document = finished.json()
    assert finished.status == 0
    assert list(document) == VERIFY_KEYS
    assert document["network"] == "ember_cifar10"
    assert (document["on"], document["against"]) == ("model", "litert")
    assert (document["images"], document["outputs"], document["differing_outputs"]) == (5, 50, 0)
    assert 0 <= document["accuracy"] <= 1


def test_verify_takes_several_sources_and_a_limit(
    capfd: pytest.CaptureFixture[str], frames: Path, photograph: Path
) -> None:
    arguments = ["verify", "ember_cifar10", "--on", "model", "--against", "model", "--json"]
    document = invoke(capfd, *arguments, "--images", photograph, "--images", frames, "--limit", 3).json()
    assert document["images"] == 3
    assert document["accuracy"] is None


def test_verify_for_people_says_how_many_differ(capfd: pytest.CaptureFixture[str], frames: Path) -> None:
    finished = invoke(capfd, "verify", "ember_cifar10", "--on", "model", "--against", "model", "--images", frames)
    assert "5 images, 50 output values, 0 differ" in finished.out
    assert "accuracy" in finished.out


def test_verify_report_counts_differences() -> None:
    ours, theirs = [(np.array([1, 5], np.int8),)], [(np.array([1, 2], np.int8),)]
    report = verify_command.build_report("x", "rtl", "litert", ours, theirs, np.array([1]))
    assert list(report) == VERIFY_KEYS
    assert (report["differing_outputs"], report["differing_images"], report["max_abs_difference"]) == (1, 1, 3)
    assert report["accuracy"] == 1


def test_verify_fails_when_an_output_differs(
    capfd: pytest.CaptureFixture[str], frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emberline.cli import engines

    class Wrong(engines.ModelEngine):
        def run(self, frames):  # type: ignore[no-untyped-def]
            for result in super().run(frames):
                yield engines.FrameResult(tuple(output ^ 1 for output in result.outputs))

    monkeypatch.setattr(engines, "open_reference", lambda against, network: Wrong(network))
    finished = invoke(capfd, "verify", "ember_cifar10", "--on", "model", "--images", frames, "--json")
    assert finished.status == 1
    assert finished.json()["differing_outputs"] == 50


def test_compile_writes_a_program_that_knows_its_labels(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "network.ember"
    finished = invoke(capfd, "compile", "ember_cifar10", "-o", path, "--arch", "ulx3s-85f", "--json")
    document, program = finished.json(), Program.load(path)
    assert finished.status == 0
    assert document["file"] == str(path)
    assert document["predicted_cycles"] == program.predicted_cycles
    assert program.labels == CIFAR10_LABELS


def test_compile_for_people_has_layers_memory_and_totals(capfd: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capfd, "compile", "ember_cifar10")
    assert "activation buffer" in finished.out
    assert "cycles a frame" in finished.out
    assert "M9K blocks" in finished.out


def test_run_on_the_model_knows_no_cycles(capfd: pytest.CaptureFixture[str], photograph: Path, frames: Path) -> None:
    finished = invoke(capfd, "run", "ember_cifar10", photograph, frames, "--on", "model", "--json")
    document = finished.json()
    assert finished.status == 0
    assert (document["on"], document["arch"]) == ("model", None)
    assert [entry["image"] for entry in document["images"]][:2] == ["noise.png", "frames.npz[0]"]
    for entry in document["images"]:
        assert list(entry) == RUN_KEYS
        assert entry["cycles"] is None
        (values,) = entry["outputs"].values()
        assert entry["class"] == int(np.argmax(values))
        assert entry["label"] == CIFAR10_LABELS[entry["class"]]


def test_run_of_a_program_on_the_emulator_has_cycles(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, frames: Path
) -> None:
    path = tmp_path / "network.ember"
    invoke(capfd, "compile", "ember_cifar10", "-o", path, "--arch", "small-8x8")
    document = invoke(capfd, "run", path, frames, "--on", "emulator", "--json").json()
    model = invoke(capfd, "run", "ember_cifar10", frames, "--on", "model", "--json").json()
    program = Program.load(path)
    assert document["arch"] == "small-8x8"
    for entry, expected in zip(document["images"], model["images"], strict=True):
        assert list(entry) == RUN_KEYS
        assert entry["cycles"] == entry["predicted_cycles"] == program.predicted_cycles
        assert entry["milliseconds"] == pytest.approx(program.predicted_cycles / program.architecture.clock_hz * 1e3)
        assert entry["outputs"] == expected["outputs"]
        assert entry["confidence"] == expected["confidence"]


def test_preprocess_says_what_pixels_mean(capfd: pytest.CaptureFixture[str], photograph: Path) -> None:
    arguments = ["run", "ember_cifar10", photograph, "--on", "model", "--json"]
    plain = invoke(capfd, *arguments).json()
    same = invoke(capfd, *arguments, "--preprocess", "scale=0.00392156863").json()
    swapped = invoke(capfd, *arguments, "--preprocess", "order=BGR,scale=0.00392156863").json()
    assert same == plain
    assert swapped["images"][0]["outputs"] != plain["images"][0]["outputs"]


def test_run_for_people_is_a_line_an_image(capfd: pytest.CaptureFixture[str], frames: Path) -> None:
    finished = invoke(capfd, "run", "ember_cifar10", frames, "--on", "model", "--limit", 2)
    assert len(finished.out.splitlines()) == 2
    assert finished.out.startswith("frames.npz[0]: ")


def test_info_lists_presets_and_networks(capfd: pytest.CaptureFixture[str]) -> None:
    document = invoke(capfd, "info", "--json").json()
    assert {"ulx3s-85f", "max10-10m50"} <= {each["name"] for each in document["architectures"]}
    assert {"ember_cifar10", "resnet8"} <= {each["name"] for each in document["networks"]}
    assert "architectures" in invoke(capfd, "info").out


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from emberline.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'numpy', 'amaranth', 'PIL', 'tflite', 'serial', 'ai_edge_litert'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "verify" in finished.stdout


def test_a_program_whose_weights_come_over_the_link(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, frames: Path
) -> None:
    """Compiled for the machine that is named after the preset, and run there without naming it again."""
    file = tmp_path / "linked.ember"
    command = ("compile", "ember_cifar10", "--arch", "tiny-4x4", "--weights", "link", "-o", file)
    report = invoke(capfd, *command, "--json").json()
    assert report["arch"] == "tiny-4x4-link" and report["fetched_bytes"] >= report["stored_bytes"] > 0
    assert "bytes of weights for the link, " in invoke(capfd, *command).out
    program = Program.load(file)
    assert program.architecture.weight_source == "link" and not program.weights
    linked = invoke(capfd, "run", file, frames, "--limit", 1, "--json").json()
    plain = invoke(capfd, "run", "ember_cifar10", frames, "--limit", 1, "--arch", "tiny-4x4", "--json").json()
    assert linked["arch"] == "tiny-4x4-link"
    assert linked["images"][0]["outputs"] == plain["images"][0]["outputs"]
    refused = invoke(capfd, "run", file, frames, "--arch", "tiny-4x4")
    assert refused.status == 1 and "weight_source link instead of flash" in refused.err


@pytest.mark.parametrize("option", [("--flash-rate", "25"), ("--flash-image", "weights.bin")])
def test_weights_from_the_link_and_from_a_flash_exclude_each_other(
    capfd: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    finished = invoke(capfd, "compile", "ember_cifar10", "--weights", "link", *option)
    assert finished.status == 1 and "--weights link takes no --flash-rate and no --flash-image" in finished.err


@pytest.mark.parametrize("arch", ["ulx3s-85f-flash", "ulx3s-85f-two-flashes"])
def test_what_the_flashes_must_hold_is_written_for_each(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arch: str
) -> None:
    """Of two flashes each has every other word, from the byte on that was asked for."""
    file, image = tmp_path / "flashed.ember", tmp_path / "weights.bin"
    command = ("compile", "ember_cifar10", "--arch", arch, "--weights", "flash", "-o", file)
    assert invoke(capfd, *command, "--flash-image", image, "--flash-offset", "0x200000").status == 0
    program = Program.load(file)
    images = sorted(tmp_path.glob("weights*"))
    assert program.stream_offset == 0x200000 * len(images)
    words = [program.stream[at : at + 4] for at in range(0, len(program.stream), 4)]
    if arch == "ulx3s-85f-flash":
        assert [each.name for each in images] == ["weights.bin"] and images[0].read_bytes() == program.stream
    else:
        assert [each.name for each in images] == ["weights.0.bin", "weights.1.bin"]
        assert [each.read_bytes() for each in images] == [b"".join(words[0::2]), b"".join(words[1::2])]
