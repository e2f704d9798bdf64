"""The single-port memory: its promise in simulation, and iCE40's blocks equal to the generic twin."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator
from synthesis import mapped_cells, prove_equal_from_start, vendor_model

from emberline.gateware.ice40 import sb_spram256ka
from emberline.gateware.single_port_memory import LATENCY, SinglePortMemory

DEPTH = 4
"""Words of a block in the proofs: of the real 16384, only addresses matter that are near each other or apart."""
STEPS = 6


class DefinedReads(wiring.Component):
    """A memory whose undefined words read as zero: after a write, and bytes that were never written."""

    def __init__(self, memory: SinglePortMemory) -> None:
        self._memory = memory
        super().__init__(dict(memory.signature.members))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = self._memory
        depth, bytes_ = 1 << len(self.address), len(self.write_bytes)
        written = Signal(depth * bytes_)
        defined = Signal(bytes_)
        m.d.sync += defined.eq(0)
        with m.If(self.write_bytes.any()):
            m.d.sync += written.word_select(self.address, bytes_).eq(
                written.word_select(self.address, bytes_) | self.write_bytes
            )
        with m.Else():
            m.d.sync += defined.eq(written.word_select(self.address, bytes_))
        m.d.comb += [
            memory.address.eq(self.address),
            memory.write_bytes.eq(self.write_bytes),
            memory.write_word.eq(self.write_word),
        ]
        for index in range(bytes_):
            word = memory.read_word.word_select(index, 8)
            m.d.comb += self.read_word.word_select(index, 8).eq(word & defined[index].replicate(8))
        return m


def small_model() -> str:
    """yosys' model of ``SB_SPRAM256KA`` with ``DEPTH`` words, and without the loss of contents at power-off."""
    text = vendor_model("ice40", "SB_SPRAM256KA")
    text, depths = re.subn(r"mem \[0:16383\]", f"mem [0:{DEPTH - 1}]", text)
    text, addresses = re.subn(r"mem\[ADDRESS\]", f"mem[ADDRESS[{(DEPTH - 1).bit_length() - 1}:0]]", text)
    text, events = re.subn(r"always @\(negedge POWEROFF\) begin.*?\n\s*end\n", "", text, count=1, flags=re.DOTALL)
    text, specifications = re.subn(r"specify.*?endspecify", "", text, flags=re.DOTALL)
    assert (depths, addresses, events, specifications) == (1, 5, 1, 1)
    return text


@pytest.mark.parametrize(("word_bytes", "banks"), [(2, 1), (4, 1), (2, 2), (4, 2), (2, 4)])
def test_blocks_equal_the_twin(tmp_path: Path, monkeypatch, word_bytes: int, banks: int) -> None:
    """Whatever is written and read, in any order of ``STEPS`` accesses."""
    monkeypatch.setattr(sb_spram256ka, "DEPTH", DEPTH)
    twin, primitive = (
        DefinedReads(SinglePortMemory(word_bytes, banks * DEPTH, family=family)) for family in ("generic", "ice40")
    )
    assert prove_equal_from_start(tmp_path, twin, primitive, small_model(), STEPS) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (MASKWREN[1])", "if (MASKWREN[2])"),
        ("if (CHIPSELECT) begin", "if (1) begin"),
        ("<= DATAIN[15:12]", "<= DATAIN[11: 8]"),
    ],
)
def test_a_difference_is_found(tmp_path: Path, monkeypatch, right: str, wrong: str) -> None:
    monkeypatch.setattr(sb_spram256ka, "DEPTH", DEPTH)
    twin, primitive = (DefinedReads(SinglePortMemory(2, 2 * DEPTH, family=family)) for family in ("generic", "ice40"))
    text = small_model()
    assert right in text
    assert "proof did fail" in prove_equal_from_start(tmp_path, twin, primitive, text.replace(right, wrong), STEPS)


def test_words_come_back() -> None:
    """Random writes of single bytes and reads, against an array."""
    depth, bytes_ = 13, 4
    memory = SinglePortMemory(bytes_, depth)
    rng = np.random.default_rng(1)
    expected = np.zeros((depth, bytes_), np.uint8)

    async def bench(ctx) -> None:
        for address in range(depth):
            ctx.set(memory.address, address)
            ctx.set(memory.write_bytes, 15)
            ctx.set(memory.write_word, 0)
            await ctx.tick()
        for _ in range(300):
            address, enable = int(rng.integers(depth)), int(rng.integers(16)) * int(rng.integers(2))
            value = rng.integers(0, 256, bytes_, np.uint8)
            ctx.set(memory.address, address)
            ctx.set(memory.write_bytes, enable)
            ctx.set(memory.write_word, int.from_bytes(value.tobytes(), "little"))
            await ctx.tick().repeat(LATENCY)
            if enable:
                chosen = [bool(enable >> index & 1) for index in range(bytes_)]
                expected[address][chosen] = value[chosen]
            else:
                assert ctx.get(memory.read_word) == int.from_bytes(expected[address].tobytes(), "little")

    simulator = Simulator(memory)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(("word_bytes", "depth", "blocks"), [(2, 16384, 1), (4, 16384, 2), (4, 20000, 4)])
def test_blocks_are_counted_by_synthesis(tmp_path: Path, word_bytes: int, depth: int, blocks: int) -> None:
    cells = mapped_cells(tmp_path, SinglePortMemory(word_bytes, depth, family="ice40"), "synth_ice40")
    assert cells["SB_SPRAM256KA"] == blocks
    assert cells.get("SB_RAM40_4K", 0) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 16), "word_bytes must be a multiple of 2, not 3"),
        ((0, 16), "word_bytes must be a multiple of 2, not 0"),
        ((2, 1), "depth must be at least 2, not 1"),
        ((2, 16, "xilinx"), "family must be one of generic, ecp5, ice40, gowin, not 'xilinx'"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple, message: str) -> None:
    options = {"family": arguments[2]} if len(arguments) == 3 else {}
    with pytest.raises(ValueError, match=message):
        SinglePortMemory(*arguments[:2], **options)
