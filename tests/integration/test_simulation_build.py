"""Builds of simulated benches: the cache, missing tools, failing builds, waves."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.errors import SimulationError
from emberline.simulation import build as build_module
from emberline.simulation.board import SimulatedBoard
from emberline.simulation.build import _clear_in_loops, build_bench, cache_folder
from emberline.simulation.loopback import ByteLoopback
from emberline.simulation.recipe import recipe
from emberline.simulation.toolchain import find_toolchain, missing_tools

BUILD_ONCE = """
import sys
from emberline.simulation.build import build_bench
from emberline.simulation.loopback import ByteLoopback
print(build_bench(ByteLoopback(int(sys.argv[1]), int(sys.argv[2]))).fresh)
"""


def test_two_processes_build_once_and_a_third_not_at_all():
    chance = random.SystemRandom()
    offset, depth = chance.randrange(2, 256), chance.randrange(20, 4000)  # a component that no cache has
    command = [sys.executable, "-c", BUILD_ONCE, str(offset), str(depth)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert answers == ["False", "True"]
    assert not build_bench(ByteLoopback(offset, depth)).fresh


def test_an_opened_board_is_found_in_the_cache_again(monkeypatch):
    build_bench(ByteLoopback(offset=1))
    monkeypatch.setattr(build_module, "_compile", lambda *_: pytest.fail("a build"))
    with SimulatedBoard(ByteLoopback(offset=1)) as board:
        assert not board.build.fresh
        board.write(b"a")
        assert board.read(1) == b"b"


def test_a_recipe_finds_the_build_without_making_the_component():
    text = recipe("loopback", 1, packages=("emberline.simulation",))
    build = build_bench(lambda: ByteLoopback(offset=1), recipe=text)
    found = build_bench(lambda: pytest.fail("made"), recipe=text)
    assert (found.folder, found.plan, found.fresh) == (build.folder, build.plan, False)
    with pytest.raises(pytest.fail.Exception):
        build_bench(lambda: pytest.fail("made"), recipe=text, waves=True)
    assert recipe("loopback", 2, packages=("emberline.simulation",)) != text


def test_missing_programs_are_named_with_their_packages(monkeypatch, tmp_path):
    component = ByteLoopback(offset=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SimulationError, match=r"g\+\+ \(Debian package g\+\+\); make .*; perl \(Debian package perl\)"):
        SimulatedBoard(component)
    assert len(missing_tools()) == 3
    monkeypatch.undo()
    build_bench(component)


def test_all_tools_are_here_and_have_versions():
    assert missing_tools() == []
    toolchain = find_toolchain()
    assert toolchain.verilator.exists()
    assert all(version.strip() for version in toolchain.versions)


class Unknown(wiring.Component):
    """Contains a module that does not exist."""

    a: In(1)
    b: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.missing = Instance("no_such_module", i_a=self.a, o_b=self.b)
        return m


def test_a_failed_build_names_its_log(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBERLINE_CACHE", str(tmp_path))
    with pytest.raises(SimulationError, match=r"verilator failed while building .*; see .*build\.log") as error:
        build_bench(Unknown())
    log = Path(str(error.value).rsplit(" ", 1)[-1])
    assert "no_such_module" in log.read_text()


def test_a_cache_that_cannot_be_written_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBERLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SimulationError, match="cannot write the simulation cache"):
        build_bench(ByteLoopback())


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBERLINE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EMBERLINE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "emberline"


def test_the_least_used_builds_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(build_module, "_KEPT_ENTRIES", 2)
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    build_module._prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "middle.lock", "new", "new.lock"]


def test_waves_are_written_on_request(tmp_path):
    waves = tmp_path / "board.vcd"
    with SimulatedBoard(ByteLoopback(offset=1), waves=waves) as board:
        board.write(b"waves")
        assert board.read(5) == b"xbwft"
    text = waves.read_text()
    assert "i_bytes__payload" in text
    assert "#50" in text


def test_memories_of_zeros_are_cleared_in_a_loop() -> None:
    words = "".join(f"    bank[{index}] = 16'h0000;\n" for index in range(5))
    other = "  initial begin\n    table[0] = 8'h00;\n    table[1] = 8'h10;\n  end\n"
    text = _clear_in_loops(f"  reg [15:0] bank [4:0];\n  initial begin\n{words}  end\n{other}")
    assert text.count("bank[") == 1
    assert "bank_word < 5" in text
    assert text.endswith(other)
