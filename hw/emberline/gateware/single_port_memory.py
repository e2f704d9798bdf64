"""A memory with one access a cycle, on iCE40 in the big single-port memories."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import FAMILIES
from emberline.gateware.ice40 import sb_spram256ka

LATENCY = 1
"""Cycles from an address to its word."""

BYTES_PER_BLOCK = sb_spram256ka.WIDTH // 8


class SinglePortMemory(wiring.Component):
    """``depth`` words of ``word_bytes`` bytes; in each cycle some bytes of a word are written, or the word is read.

    ``read_word`` is the word ``LATENCY`` cycles after a cycle without a write, and undefined after one with. Contents
    are undefined until written.

    Parameters:
        word_bytes: an even number.
        depth: words, at least 2.
        family: ``ice40`` (one ``SB_SPRAM256KA`` for each two bytes and 16384 words) or ``generic``, as all others:
            the tools infer a memory.

    Members: ``address``; ``write_bytes``, one bit a byte; ``write_word``; ``read_word``.
    """

    def __init__(self, word_bytes: int, depth: int, *, family: str = "generic") -> None:
        if word_bytes < BYTES_PER_BLOCK or word_bytes % BYTES_PER_BLOCK:
            raise ValueError(f"word_bytes must be a multiple of {BYTES_PER_BLOCK}, not {word_bytes}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth}")
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
        self._depth = depth
        self._family = family
        super().__init__(
            {
                "address": In(range(depth)),
                "write_bytes": In(word_bytes),
                "write_word": In(8 * word_bytes),
                "read_word": Out(8 * word_bytes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._family == "ice40":
            self._blocks(m)
            return m
        m.submodules.memory = memory = Memory(shape=unsigned(len(self.read_word)), depth=self._depth, init=[])
        write, read = memory.write_port(granularity=8), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.address),
            write.data.eq(self.write_word),
            write.en.eq(self.write_bytes),
            read.addr.eq(self.address),
            self.read_word.eq(read.data),
        ]
        return m

    def _blocks(self, m: Module) -> None:
        """Banks of 16384 words; the last access's bank gives the word."""
        address_width = ceil_log2(sb_spram256ka.DEPTH)
        bank_count = -(-self._depth // sb_spram256ka.DEPTH)
        block_address = Signal(address_width)
        m.d.comb += block_address.eq(self.address)
        words = []
        for bank in range(bank_count):
            word = Signal.like(self.read_word, name=f"word_{bank}")
            words.append(word)
            select = self.address[address_width:] == bank if bank_count > 1 else Const(1)
            for block in range(len(self.write_bytes) // BYTES_PER_BLOCK):
                m.submodules[f"block_{bank}_{block}"] = sb_spram256ka.instance(
                    block_address,
                    self.write_bytes.word_select(block, BYTES_PER_BLOCK),
                    self.write_word.word_select(block, sb_spram256ka.WIDTH),
                    word.word_select(block, sb_spram256ka.WIDTH),
                    select=select,
                )
        if bank_count == 1:
            m.d.comb += self.read_word.eq(words[0])
            return
        bank = Signal(range(bank_count))
        m.d.sync += bank.eq(self.address[address_width:])
        with m.Switch(bank):
            for index, word in enumerate(words):
                with m.Case(index):
                    m.d.comb += self.read_word.eq(word)
