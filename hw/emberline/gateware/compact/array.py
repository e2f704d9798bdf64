"""The compact machine's lanes: one group's weights in a cache, products, accumulators."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.gateware import multiplier
from emberline.gateware.lane import SUM_WIDTH
from emberline.gateware.structures import delayed, tree_sum


def latency(architecture: Architecture) -> int:
    """Cycles from a tap's address to the sums that hold its products: memory, multiply, adder tree, add."""
    return 1 + multiplier.LATENCY + ceil_log2(architecture.lanes_in) + 1


class CompactArray(wiring.Component):
    """``lanes_in x lanes_out`` multipliers, all of them at the same tap.

    Members:
        i_tap, i_word, i_last: a tap is being read from memory; its weights in the cache; it is a pixel's last.
        i_activation: its word, a cycle later.
        i_load, i_load_lane, i_load_word, i_load_data: a lane's part of a weight word for the cache.
        o_sums, o_done: for one cycle, a pixel's sums, ``latency`` cycles after its last tap. The next pixel's first tap
            comes at least two cycles after that tap.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        cache = range(architecture.weight_cache_words)
        super().__init__(
            {
                "i_tap": In(1),
                "i_word": In(cache),
                "i_last": In(1),
                "i_activation": In(8 * architecture.lanes_in),
                "i_load": In(1),
                "i_load_lane": In(range(architecture.lanes_out)),
                "i_load_word": In(cache),
                "i_load_data": In(8 * architecture.lanes_in),
                "o_sums": Out(data.ArrayLayout(signed(SUM_WIDTH), architecture.lanes_out)),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        token = delayed(m, Cat(self.i_tap, self.i_last), latency(architecture) - 1, name="token", reset=True)
        m.d.sync += self.o_done.eq(token[1])
        for lane in range(architecture.lanes_out):
            m.submodules[f"cache_{lane}"] = memory = Memory(
                shape=unsigned(8 * architecture.lanes_in), depth=architecture.weight_cache_words, init=[]
            )
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.i_load & (self.i_load_lane == lane)),
                write.addr.eq(self.i_load_word),
                write.data.eq(self.i_load_data),
                read.addr.eq(self.i_word),
            ]
            factors = [
                (self.i_activation.word_select(each, 8).as_signed(), read.data.word_select(each, 8).as_signed())
                for each in range(architecture.lanes_in)
            ]
            m.submodules[f"lane_{lane}"] = products = Module()
            terms = multiplier.multiply_all(products, factors, family=architecture.family)
            term = tree_sum(m, terms, name=f"tree_{lane}")
            total = self.o_sums[lane]
            with m.If(self.o_done):
                m.d.sync += total.eq(0)
            with m.Elif(token[0]):
                m.d.sync += total.eq(total + term)
        return m
