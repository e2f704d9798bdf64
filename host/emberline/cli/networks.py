"""What a command's MODEL argument means: a name from the zoo, a model file, or a compiled program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emberline.arch.architecture import Architecture
from emberline.arch.presets import PRESETS
from emberline.arch.program import MAGIC, MapInfo, Program
from emberline.errors import EmberlineError, ModelError
from emberline.model.graph import FeatureMap, Graph, Quantisation, Softmax
from emberline.zoo import ZOO, Reader, ZooEntry, find_by_contents, find_by_name
from emberline.zoo.synthetic import SYNTHETIC, synthetic_network

if TYPE_CHECKING:
    from emberline.compiler.network_plan import WeightPlace

DEFAULT_ARCHITECTURE = "ulx3s-85f"


@dataclass(frozen=True)
class Network:
    """A network as the commands take it.

    Parameters:
        name: the zoo's, the file's, or the one in the program.
        path: its file.
        graph: ``None`` when it came as a compiled program.
        program: ``None`` when it came as a model.
        labels: a class name for each output value, if known.
        preprocessing: how photographs become frames, if known; kept with programs.
        label_offset: the output value of the data set's class 0.
    """

    name: str
    path: Path
    graph: Graph | None = None
    program: Program | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    label_offset: int = 0

    @property
    def input(self) -> FeatureMap:
        """The one input; ``ModelError`` where there are more."""
        if self.graph is None:
            assert self.program is not None
            return _feature_map(self.program.input.map)
        if len(self.graph.inputs) != 1:
            raise ModelError(f"network '{self.name}' has {len(self.graph.inputs)} inputs, the accelerator takes one")
        return self.graph.feature_maps[self.graph.inputs[0]]

    @property
    def scores(self) -> FeatureMap:
        """The first output: of a classifier, its scores."""
        if self.graph is not None:
            return self.graph.feature_maps[self.graph.outputs[0]]
        assert self.program is not None
        maps = {output.map.name: output.map for output in self.program.outputs}
        maps.update((layer.output.name, layer.output) for layer in self.program.host_layers)
        return _feature_map(maps[self.program.results[0]])

    @property
    def output_names(self) -> tuple[str, ...]:
        if self.graph is not None:
            return self.graph.outputs
        assert self.program is not None
        return self.program.results

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the first output is a probability already."""
        name = self.output_names[0]
        if self.graph is not None:
            return isinstance(self.graph.producer(name), Softmax)
        assert self.program is not None
        return any(layer.output.name == name and layer.kind == "softmax" for layer in self.program.host_layers)

    def need_graph(self, why: str) -> Graph:
        """The graph; ``EmberlineError`` for a compiled program, which no longer has one."""
        if self.graph is None:
            raise EmberlineError(f"{self.path} is a compiled program, but {why} needs the model itself")
        return self.graph

    def compile(
        self,
        architecture: Architecture | None,
        weights: WeightPlace | None = None,
        flash_offset: int | None = None,
    ) -> Program:
        """The program for an architecture; a network that came as a program must already be made for it.

        ``None`` means the program's own architecture, or the default one; weights in the machine if they fit; the
        usual place in the flash.
        """
        if self.program is not None:
            if architecture is not None:
                self.program.check_architecture(architecture)
            return self.program
        from emberline.arch.flash import FLASH_OFFSET
        from emberline.compiler.compile import compile_graph
        from emberline.compiler.network_plan import WeightPlace

        return compile_graph(
            self.need_graph("compiling"),
            architecture or find_architecture(DEFAULT_ARCHITECTURE),
            labels=self.labels,
            preprocessing=self.preprocessing,
            weights=weights or WeightPlace.AUTO,
            flash_offset=FLASH_OFFSET if flash_offset is None else flash_offset,
        )


def load_network(text: str) -> Network:
    """The network that ``text`` names: a file if there is one, else a name from the zoo or a synthetic network.

    Raises ``EmberlineError``: no such file or name, or a damaged or unsupported file.
    """
    path = Path(text)
    if not path.is_file():
        if text in SYNTHETIC:
            return Network(text, path, synthetic_network(text))
        entry = find_by_name(text)
        if entry is None:
            kind = "is a folder" if path.is_dir() else "is neither a file nor a network of the zoo"
            raise ModelError(f"'{text}' {kind}; the zoo has {', '.join(ZOO)}; synthetic are {', '.join(SYNTHETIC)}")
        return _load_model(entry.path(), entry)
    with path.open("rb") as file:
        is_program = file.read(len(MAGIC)) == MAGIC
    if is_program or path.suffix == ".ember":
        program = Program.load(path)
        return Network(program.network, path, None, program, program.labels, program.preprocessing)
    return _load_model(path, find_by_contents(path.read_bytes()))


def _load_model(path: Path, entry: ZooEntry | None) -> Network:
    """A model file, by its contents and, if the zoo knows it, what the zoo says of it."""
    reader = Reader.TFLITE if entry is None else entry.reader
    if reader.is_float:
        assert entry is not None
        raise ModelError(f"network '{entry.name}' is float: quantise it first (emberline quantize {entry.name} ...)")
    if reader is Reader.ZYNQNET:
        from emberline.compiler.frontends.zynqnet_reader import read_zynqnet

        graph = read_zynqnet(path.parent)
        preprocessing: Mapping[str, Any] = {}
    else:
        graph, preprocessing = _read(path, entry.name if entry else None)
    if entry is None:
        return Network(graph.name, path, graph, preprocessing=preprocessing)
    return Network(entry.name, path, graph, None, entry.class_names(), entry.preprocessing, entry.label_offset)


def _read(path: Path, name: str | None) -> tuple[Graph, Mapping[str, Any]]:
    """A ``.tflite`` or ``.onnx`` file, whatever its name, and the preprocessing that it carries."""
    if is_onnx(path):
        from emberline.compiler.frontends.onnx_reader import read_onnx, read_preprocessing

        data = path.read_bytes()
        return read_onnx(path if name is None else data, name), read_preprocessing(data)
    from emberline.compiler.frontends.tflite_reader import read_tflite

    return (read_tflite(path) if name is None else read_tflite(path.read_bytes(), name)), {}


def is_onnx(path: Path) -> bool:
    """Whether a model file is to be read as ONNX: by its name, unless it says that it is a TFLite file."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".onnx" and file.read(8)[4:] != b"TFL3"


def find_architecture(name: str) -> Architecture:
    """The preset of that name; ``EmberlineError`` lists the names."""
    if name not in PRESETS:
        raise EmberlineError(f"no architecture is called '{name}'; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _feature_map(info: MapInfo) -> FeatureMap:
    return FeatureMap(info.name, *info.shape, Quantisation(info.scale, info.zero_point))
