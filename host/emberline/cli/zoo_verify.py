"""What ``emberline zoo verify`` finds of one network: rows, each one way of running it against one reference.

The numpy model is compared with the outside reference: LiteRT's reference kernels, onnxruntime's integer kernels (after
quantisation with the default options, where the zoo's network is float), or published activations. The emulator and the
RTL are compared with the model, on a machine that holds the network: the asked for, else ``LARGE``. What the RTL
stores is compared with published activations where there are some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from emberline.arch.architecture import Architecture
from emberline.arch.program import Program
from emberline.cli import console
from emberline.cli.comparison import accuracy, compare
from emberline.cli.engines import Codes, FrameResult, ModelEngine, open_engine, open_reference
from emberline.cli.float_network import float_accuracy, quantised_network
from emberline.cli.frames import load_all
from emberline.cli.networks import Network, find_architecture, load_network
from emberline.cli.stored_maps import StoredMaps, compile_with_plan, run_checked, stored_map
from emberline.driver.images import FrameSet
from emberline.errors import CompileError, ModelError
from emberline.model.graph import Graph
from emberline.zoo import Reader, ZooEntry, data_root, golden

LARGE = "large-16x8"
"""The machine of networks that the one asked for cannot hold."""
ONNX_TOLERANCE = 2
"""onnxruntime computes sums and averages in float: codes may differ by one, and behind further layers by two."""
BOXES_TOLERANCE = 8
"""Of a detector's heads, several sums behind the first: what counts is that the boxes are the same."""
OTHER_BOXES = "other boxes"
SEED = 0


@dataclass(frozen=True)
class Row:
    """One comparison. ``differing_outputs`` is ``None`` where nothing could be compared, and ``note`` says why.

    Parameters:
        on, against: what was run; what with.
        arch: the machine, of emulator and RTL.
        images: frames, from ``source``.
        tolerance: how far codes may lie apart; more is a failure.
        cycles, predicted_cycles: of the first frame; the emulator's are predicted ones.
        stall_cycles: of a frame whose weights are fetched: waits for the host, which may hide waits for weights.
        top1, top5, float_top1, float_top5: shares of frames, where there are labels; the float network's beside them.
        faces: boxes that a detector found in each image.
    """

    name: str
    on: str
    against: str | None
    arch: str | None = None
    source: str | None = None
    images: int = 0
    outputs: int = 0
    differing_outputs: int | None = None
    max_abs_difference: int | None = None
    tolerance: int = 0
    cycles: int | None = None
    stall_cycles: int = 0
    predicted_cycles: int | None = None
    top1: float | None = None
    top5: float | None = None
    float_top1: float | None = None
    float_top5: float | None = None
    faces: tuple[int, ...] | None = None
    note: str | None = None

    @property
    def failed(self) -> bool:
        wrong = (self.max_abs_difference or 0) > self.tolerance
        if self.predicted_cycles is not None:
            wrong |= not FrameResult((), self.cycles, self.stall_cycles).takes(self.predicted_cycles)
        return wrong or self.note == OTHER_BOXES

    @property
    def result(self) -> str:
        """In words."""
        if self.differing_outputs is None:
            return self.note or "not compared"
        text = f"{self.differing_outputs:,} of {self.outputs:,} values differ"
        return text if not self.differing_outputs else f"{text}, by at most {self.max_abs_difference}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "failed": self.failed, "result": self.result}


def verify_entry(
    entry: ZooEntry, places: Sequence[str], architecture: Architecture, frames: int | None = None
) -> Iterator[Row]:
    """The rows of one network whose files are here and have the published hashes.

    Parameters:
        places: some of ``model``, ``emulator``, ``rtl``.
        frames: at most so many frames on each; by default the entry's counts, and one in the RTL.
    """
    with TemporaryDirectory() as folder:
        network = _load(entry, Path(folder))
        if network is None:
            yield Row(entry.name, "model", None, note="no images to calibrate with: set EMBERLINE_DATA")
            return
        images = _load_images(entry, network, frames)
        if "model" in places:
            yield _model_row(entry, network, images)
            if entry.reader is Reader.ZYNQNET and (root := data_root()) is not None:
                yield golden_row(entry, root / "zynqnet")
        for place in (each for each in ("emulator", "rtl") if each in places):
            count = min(len(images.frames), entry.image_count[1] if place == "emulator" else 1)
            yield _machine_row(entry, network, images.frames[:count], _source(entry, images), place, architecture)
        if "rtl" in places and entry.reader is Reader.ZYNQNET and (root := data_root()) is not None:
            from emberline.compiler.frontends.zynqnet_reader import read_zynqnet

            exact = replace(network, graph=read_zynqnet(root / "zynqnet", fuse=False))
            for each in (network, exact):
                yield stored_golden_row(entry, each, root / "zynqnet", architecture)


def _load(entry: ZooEntry, folder: Path) -> Network | None:
    if not entry.reader.is_float:
        return load_network(entry.name)
    images = _image_path(entry)
    return None if images is None else quantised_network(entry, images, folder)


def _image_path(entry: ZooEntry) -> Path | None:
    root = data_root()
    path = root / entry.images if root and entry.images else None
    return path if path is not None and path.exists() else None


def _load_images(entry: ZooEntry, network: Network, frames: int | None) -> FrameSet:
    """The entry's images, or else random codes."""
    count, path = min(frames or entry.image_count[0], entry.image_count[0]), _image_path(entry)
    if path is not None:
        found = load_all([str(path)], network, count)
        labels = None if found.labels is None else found.labels + network.label_offset
        return FrameSet(found.frames, labels, found.names)
    count = min(count, 2)
    codes = np.random.default_rng(SEED).integers(-128, 128, (count, *network.input.shape), np.int8)
    return FrameSet(codes, None, ("random",) * count)


def _source(entry: ZooEntry, images: FrameSet) -> str:
    return "random codes" if images.names[0] == "random" else str(entry.images)


def _model_row(entry: ZooEntry, network: Network, images: FrameSet) -> Row:
    against = {Reader.TFLITE: "litert", Reader.ZYNQNET: None}.get(entry.reader, "onnxruntime")
    ours = _outputs(ModelEngine(network), images.frames, f"{entry.name} in numpy")
    row: dict[str, Any] = {"source": _source(entry, images), "images": len(ours)}
    if images.labels is not None:
        scores = [outputs[0] for outputs in ours]
        row |= {"top1": accuracy(scores, images.labels), "top5": accuracy(scores, images.labels, 5)}
        if entry.reader.is_float:
            path = _image_path(entry)
            assert path is not None
            first, five = float_accuracy(entry.name, path, None, len(ours))
            row |= {"float_top1": first, "float_top5": five}
    if against is None:
        return Row(entry.name, "model", None, **row, note="accuracy only")
    theirs = _outputs(open_reference(against, network), images.frames, f"{entry.name} in {against}")
    if entry.outputs:
        row["faces"], row["note"] = _faces(network, ours, theirs)
    if against == "onnxruntime":
        row["tolerance"] = BOXES_TOLERANCE if entry.outputs else ONNX_TOLERANCE
    return Row(entry.name, "model", against, **row, **_difference(ours, theirs))


def golden_row(entry: ZooEntry, folder: Path) -> Row:
    """Every published activation of ZynqNet against the model's."""
    from emberline.compiler.frontends.zynqnet_reader import read_zynqnet
    from emberline.model import network

    if not (folder / golden.FILE).is_file():
        return Row(entry.name, "model", "published activations", note=f"{folder / golden.FILE} is not here")
    published = golden.golden_maps(folder)
    maps = network.run(read_zynqnet(folder, fuse=False), golden.golden_frame(published), keep=True)
    names = [name for name in published if name not in golden.RECOMPUTED]
    found = _difference(
        [tuple(golden.in_published_order(maps[name]) for name in names)], [tuple(published[name] for name in names)]
    )
    best = int(maps["prob"].argmax())
    note = f"class {best}" + ("" if best == golden.CLASS else f", not {golden.CLASS}")
    return Row(entry.name, "model", "published activations", None, golden.FILE, 1, **found, note=note)


def same_maps(graph: Graph, folder: Path) -> list[str]:
    """The published maps of ZynqNet that ``graph`` has with the published scale."""
    from emberline.compiler.frontends.zynqnet_reader import read_zynqnet

    exact = read_zynqnet(folder, fuse=False).feature_maps
    ours = graph.feature_maps
    names = [name for name in golden.golden_maps(folder) if name not in golden.RECOMPUTED]
    return [name for name in names if name in ours and ours[name].quantisation == exact[name].quantisation]


def stored_golden_row(entry: ZooEntry, network: Network, folder: Path, architecture: Architecture) -> Row:
    """Every published activation of ZynqNet that the schedule stores, as the RTL stores it.

    Expansions that are written as their concatenation has them are only there in the concatenation; in a ``network``
    that requantises them in layers of their own every published map is stored.

    Raises ``VerificationError`` for a value that is not the emulator's or the model's.
    """
    if not (folder / golden.FILE).is_file():
        return Row(entry.name, "rtl", "published activations", note=f"{folder / golden.FILE} is not here")
    published = golden.golden_maps(folder)
    found, reason = StoredMaps(), ""
    for machine in (architecture, find_architecture(LARGE)):
        try:
            plan, program = compile_with_plan(network, machine)
        except CompileError as error:
            reason = str(error)
            continue
        (result,) = run_checked(plan, program, golden.golden_frame(published), found)
        names = same_maps(network.need_graph("verifying"), folder)
        maps = {name: stored_map(plan, found, name) for name in names}
        stored = {name: codes for name, codes in maps.items() if codes is not None}
        ours = tuple(golden.in_published_order(codes[None]) for codes in stored.values())
        difference = _difference([ours], [tuple(published[name] for name in stored)])
        best = int(result.outputs[0].argmax())
        note = f"class {best}, {len(stored)} of {len(published) - len(golden.RECOMPUTED)} maps stored as published"
        cycles = _cycles(result, program)
        source, against = golden.FILE, "published activations"
        return Row(entry.name, "rtl", against, machine.name, source, 1, **difference, **cycles, note=note)
    return Row(entry.name, "rtl", "published activations", note=reason)


def _machine_row(
    entry: ZooEntry, network: Network, frames: Codes, source: str, place: str, architecture: Architecture
) -> Row:
    program, reason = find_program(network, architecture)
    if program is None:
        return Row(entry.name, place, "model", note=reason)
    machine = program.architecture
    with open_engine(place, replace(network, graph=None, program=program), machine) as engine:
        results = list(console.progress(engine.run(frames), f"{entry.name} on {place}", len(frames)))
    expected = _outputs(ModelEngine(network), frames, f"{entry.name} in numpy")
    found = _difference([result.outputs for result in results], expected)
    cycles = _cycles(results[0], program)
    return Row(entry.name, place, "model", machine.name, source, len(frames), **found, **cycles)


def _cycles(result: FrameResult, program: Program) -> dict[str, Any]:
    """A frame's columns of a `Row`."""
    stalls = result.stall_cycles if program.stream else 0
    return {"cycles": result.cycles, "stall_cycles": stalls, "predicted_cycles": program.predicted_cycles}


def find_program(network: Network, architecture: Architecture) -> tuple[Program | None, str]:
    """The program for the first machine that holds the network, or ``None`` and the reason."""
    reason = ""
    for machine in (architecture, find_architecture(LARGE)):
        try:
            return network.compile(machine), ""
        except CompileError as error:
            reason = str(error)
    return None, reason


def _outputs(engine: Any, frames: Codes, what: str) -> list[tuple[Codes, ...]]:
    return [result.outputs for result in console.progress(engine.run(frames), what, len(frames))]


def _difference(ours: Sequence[Any], theirs: Sequence[Any]) -> dict[str, Any]:
    found = compare(ours, theirs)
    return {
        "outputs": found.outputs,
        "differing_outputs": found.differing_outputs,
        "max_abs_difference": found.max_abs_difference,
    }


def _faces(network: Network, ours: Sequence[Any], theirs: Sequence[Any]) -> tuple[tuple[int, ...], str]:
    """How many faces there are in each image, and whether both runs give the same boxes."""
    from emberline.cli.detect import faces_of

    found = [[faces_of(network, FrameResult(outputs)) for outputs in run] for run in (ours, theirs)]
    same = "the same boxes" if found[0] == found[1] else OTHER_BOXES
    return tuple(len(faces) for faces in found[0]), same


def check_files(entry: ZooEntry) -> list[str]:
    """The files that are not here; raises ``EmberlineError`` for one with another hash."""
    from emberline.cli.zoo import check_hash

    missing = []
    for file in entry.files:
        try:
            path = file.find(entry.name, entry.origin)
        except ModelError:
            missing.append(file.name)
        else:
            check_hash(path.read_bytes(), file.sha256, str(path))
    return missing
