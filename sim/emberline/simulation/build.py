"""Builds of simulated benches, cached by the hash of everything that goes into them.

A cache entry is a folder ``<cache>/simulation/<key>`` with the executable ``bench``, its plan ``plan.json``, the
Verilog and the compiler's log. It is made under a lock in a scratch folder and renamed into place when it is complete,
so an entry either exists whole or not at all, whoever else builds at the same time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emberline.errors import SimulationError
from emberline.simulation.plan import Plan, Tap, Uart, WritePort, plan_bench
from emberline.simulation.testbench import generate_bench, public_variables
from emberline.simulation.toolchain import Toolchain, find_toolchain

if TYPE_CHECKING:
    from amaranth.lib import wiring

_MAIN = Path(__file__).with_name("main.cpp")
_KEPT_ENTRIES = 48
_ZEROS = re.compile(r"  initial begin\n(?:    (?P<name>\w+)\[\d+\] = \d+'h0+;\n)+  end\n")
"""How yosys writes a memory that starts with zeros in every word; words have no gaps and begin at 0."""

# A bench is clocked by its main program, so the model needs no timing; unknown values start as zeros, which is cheap.
_VERILATOR_FLAGS = (
    *("-cc", "--exe", "--vpi", "--no-timing", "-O3", "--x-assign", "fast", "--x-initial", "fast"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "--timescale", "1ns/1ns"),
    *("--top-module", "bench", "--prefix", "Vbench", "--output-split", "20000"),
)

# The PyPI package's makefile leaves the flag that includes a precompiled header empty.
_MAKE_VARIABLES = ("CXX=g++", "LINK=g++", "CFG_CXXFLAGS_PCH_I=-include")


def _make_variables(waves: bool) -> tuple[str, ...]:
    """What the makefile is told; waves are for looking at a few cycles, so there the compiler is to be quick."""
    return (*_MAKE_VARIABLES, *(("OPT_FAST=-O0", "OPT_GLOBAL=-O0") if waves else ("OPT_FAST=-O2", "OPT_GLOBAL=-O1")))


@dataclass(frozen=True)
class Build:
    """A built bench: the folder of its cache entry, its plan, and whether this call had to build it."""

    folder: Path
    plan: Plan
    fresh: bool
    waves: bool

    @property
    def executable(self) -> Path:
        return self.folder / "bench"


def cache_folder() -> Path:
    """Where builds are kept: ``$EMBERLINE_CACHE``, or ``~/.cache/emberline``."""
    configured = os.environ.get("EMBERLINE_CACHE")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "emberline"


def build_bench(
    component: wiring.Component | Callable[[], wiring.Component],
    *,
    recipe: str | None = None,
    write_ports: dict[str, WritePort] | None = None,
    uart: Uart | None = None,
    taps: dict[str, Tap] | None = None,
    waves: bool = False,
) -> Build:
    """Build the bench of a component, or find it in the cache.

    Parameters:
        component: the component, or what makes it.
        recipe: a text that determines the component (see ``recipe.recipe``). A build that was made with the same
            recipe is found without making or elaborating the component, which takes seconds for a large one.
        write_ports: groups of input ports to be driven as one source each, by name.
        uart: drive two pins as a UART; the bench then has the source ``i_bytes`` and the sink ``o_bytes``.
        taps: signals inside the component to be collected by one sink each, by name.
        waves: build the model so that it can write waves (a separate, slower executable).

    Raises ``SimulationError`` when a tool is missing or the build fails; the message names the log.
    """
    toolchain = find_toolchain()
    root = cache_folder() / "simulation"
    note: Path | None = None
    if recipe is not None:
        own_sources = [path.read_text() for path in (_MAIN, *sorted(Path(__file__).parent.glob("*.py")))]
        text = [recipe, repr((write_ports, uart, taps, waves)), *toolchain.versions, *own_sources]
        note = root / "recipes" / _digest(text)
        if (build := _find(root, note, waves)) is not None:
            return build
    if callable(component):
        component = component()
    plan = plan_bench(component, write_ports=write_ports, uart=uart, taps=taps)
    key = _digest(_identity(component, plan, toolchain, waves))
    entry = root / key
    with _locked(root / f"{key}.lock"):
        fresh = not (entry / "bench").exists()
        if fresh:
            _build_entry(component, plan, toolchain, entry, waves)
            _prune(root)
        os.utime(entry)
        if note is not None:
            note.parent.mkdir(exist_ok=True)
            note.write_text(key)
    return Build(entry, plan, fresh=fresh, waves=waves)


def _find(root: Path, note: Path, waves: bool) -> Build | None:
    """The build that a recipe led to before, if it is still there."""
    try:
        entry = root / note.read_text()
        plan = Plan.from_json(json.loads((entry / "plan.json").read_text()))
        os.utime(entry)
    except (OSError, ValueError):
        return None
    return Build(entry, plan, fresh=False, waves=waves)


def _identity(component: wiring.Component, plan: Plan, toolchain: Toolchain, waves: bool) -> list[str]:
    """Everything that a build depends on."""
    from amaranth.back import rtlil

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        design = rtlil.convert(component, name="dut", emit_src=False)
    return [
        design,
        generate_bench(plan, ""),
        repr(public_variables(plan)),
        json.dumps(plan.to_json(), sort_keys=True),
        _MAIN.read_text(),
        *_VERILATOR_FLAGS,
        *_make_variables(waves),
        str(waves),
        *toolchain.versions,
    ]


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock that the system drops when the process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise SimulationError(f"cannot write the simulation cache {path.parent}: {error.strerror}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_entry(component: wiring.Component, plan: Plan, toolchain: Toolchain, entry: Path, waves: bool) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", dir=entry.parent))
    try:
        verilog = _to_verilog(component)
        (scratch / "dut.v").write_text(verilog)
        (scratch / "bench.v").write_text(generate_bench(plan, verilog))
        (scratch / "plan.json").write_text(json.dumps(plan.to_json(), indent=1))
        shutil.copy(_MAIN, scratch / "main.cpp")
        written, read = public_variables(plan)
        public = [f'public_flat_rw -module "bench" -var "{name}"' for name in written]
        public += [f'public_flat_rd -module "bench" -var "{name}"' for name in read]
        (scratch / "public.vlt").write_text("\n".join(["`verilator_config", *public, ""]))
        _compile(scratch, toolchain, waves)
        shutil.copy(scratch / "objects" / "bench", scratch / "bench")
        _keep_runtime(scratch / "objects", toolchain, waves)
        shutil.rmtree(scratch / "objects")
        if entry.exists():
            shutil.rmtree(entry)
        scratch.rename(entry)
    except SimulationError:
        raise  # the scratch folder stays: the message points to the log in it
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _to_verilog(component: wiring.Component) -> str:
    from amaranth.back import verilog

    try:
        return _clear_in_loops(verilog.convert(component, name="dut", emit_src=False, strip_internal_attrs=True))
    except verilog.YosysError as error:
        raise SimulationError(f"{type(component).__name__} cannot be turned into Verilog: {error}") from error


def _clear_in_loops(verilog: str) -> str:
    """Memories of zeros cleared in a loop, not by a statement a word: a large one would take minutes to compile."""

    def loop(found: re.Match[str]) -> str:
        name, count = found["name"], found[0].count("\n") - 2
        zeros = f"  integer {name}_word;\n  initial for ({name}_word = 0; {name}_word < {count}; "
        return f"{zeros}{name}_word = {name}_word + 1) {name}[{name}_word] = 0;\n"

    return _ZEROS.sub(loop, verilog)


def _compile(folder: Path, toolchain: Toolchain, waves: bool) -> None:
    import cocotb_tools.config

    objects = folder / "objects"
    objects.mkdir()
    restored = _restore_runtime(objects, toolchain, waves)
    libraries = cocotb_tools.config.libs_dir
    verilate = [
        str(toolchain.verilator),
        *_VERILATOR_FLAGS,
        *(["--trace"] if waves else []),
        *["-Mdir", "objects", "-o", "bench"],
        *["-LDFLAGS", f"-L{libraries} -lcocotbvpi_verilator"],
        *[str(folder / name) for name in ("public.vlt", "bench.v", "dut.v", "main.cpp")],
    ]
    make = ["make", "-j2", "-C", "objects", "-f", "Vbench.mk", *_make_variables(waves)]
    log = folder / "build.log"
    with log.open("w") as stream:
        for command in (verilate, make):
            for path in restored:  # newer than anything they are made from, so that make takes them as they are
                os.utime(path)
            stream.write(f"$ {' '.join(command)}\n")
            stream.flush()
            result = subprocess.run(
                command,
                cwd=folder,
                env=toolchain.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if result.returncode:
                raise SimulationError(f"{Path(command[0]).name} failed while building a simulation; see {log}")


def _runtime_folder(objects: Path, toolchain: Toolchain, waves: bool) -> Path:
    """Verilator's runtime library depends on the tools only: it is compiled once and shared by all builds."""
    text = "\n".join([*toolchain.versions, *_VERILATOR_FLAGS, *_make_variables(waves), str(waves)])
    return objects.parent.parent / f"runtime-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _restore_runtime(objects: Path, toolchain: Toolchain, waves: bool) -> list[Path]:
    folder = _runtime_folder(objects, toolchain, waves)
    return [Path(shutil.copy(path, objects)) for path in sorted(folder.glob("*.o"))]


def _keep_runtime(objects: Path, toolchain: Toolchain, waves: bool) -> None:
    folder = _runtime_folder(objects, toolchain, waves)
    if folder.exists():
        return
    scratch = Path(tempfile.mkdtemp(prefix="runtime.", dir=folder.parent))
    for path in objects.glob("verilated*.o"):
        shutil.copy(path, scratch)
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(scratch, ignore_errors=True)


def _prune(root: Path) -> None:
    """Remove the builds that were not used for the longest time, and what failed builds left behind."""
    entries = sorted(
        (path for path in root.iterdir() if path.is_dir() and not path.name.startswith(("runtime", "recipes"))),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in entries[_KEPT_ENTRIES:]:
        shutil.rmtree(path, ignore_errors=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
