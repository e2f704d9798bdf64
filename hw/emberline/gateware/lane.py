"""One output lane: its weight memory, its multipliers, its adder tree and its accumulator."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import PARAMETER_BYTES, Architecture
from emberline.arch.isa import PARAMETERS
from emberline.gateware import multiplier
from emberline.gateware.structures import delayed, memory_output, structure, tree_sum

SUM_WIDTH = 32
"""Accumulators are int32, as LiteRT's are; the compiler proves that no layer overflows them."""

CHUNK_WIDTH = 32
"""Bits of one weight write."""

WEIGHT_LATENCY = 3
"""Cycles from a weight address to its word at the multipliers: memory, output register, a register on the way."""

CONTROL = data.StructLayout(
    {
        "tap": 1,  # the word at this address is multiplied and accumulated
        "first": 1,  # the first tap of a sum
        "last": 1,  # the last tap of a sum
        "parameter": 1,  # the word at this address holds requantisation parameters
        "parameter_index": 2,  # which of them
        "bank": 1,  # which parameter registers this group of outputs loads and uses
        "context": 1,  # which of the two instructions in flight this belongs to
    }
)
"""What travels along the lanes beside a weight address."""


def weight_write_layout(architecture: Architecture) -> data.StructLayout:
    """A write of four bytes into the weight image: it travels along the lanes until it meets its own."""
    return data.StructLayout(
        {
            "enable": 1,
            "chunk": max(1, ceil_log2(architecture.lanes_in * 8 // CHUNK_WIDTH)),
            "lane": max(1, ceil_log2(architecture.lanes_out)),
            "address": ceil_log2(architecture.weight_depth_words),
            "data": CHUNK_WIDTH,
        }
    )


def sum_latency(architecture: Architecture) -> int:
    """Cycles from a tap's activation word at a lane to the accumulator that holds it."""
    return multiplier.LATENCY + 1 + ceil_log2(architecture.lanes_in) + 1


class Lane(wiring.Component):
    """Multiplies ``lanes_in`` activations by its own weights each cycle and accumulates the sums of one output channel.

    Everything that reaches the lane is passed on one cycle later (systolic forwarding): nothing in the array is
    broadcast. Weight address and control come `WEIGHT_LATENCY` cycles before the activation word that they belong to,
    so that the weight memory is in step.

    Parameters: ``architecture``; ``index``, the lane's position, 0 to ``lanes_out - 1``.

    Members:
        i_write, o_write: a write into the weight memories, and the same for the next lane.
        i_address, i_control, o_address, o_control: weight word to read and what to do with it.
        i_activation, o_activation: ``lanes_in`` int8 channels, channel 0 in the low byte.
        o_valid: for one cycle, ``o_sum`` is complete, ``sum_latency`` cycles after its last activation word.
        o_sum: int32. ``o_parameters``: its requantisation parameters. ``o_context``: its instruction.

    Throughput one tap per cycle; no back-pressure. A parameter bank must not be loaded again before the last sum that
    uses it has left (`emberline.arch.timing.minimum_group_cycles`).
    """

    def __init__(self, architecture: Architecture, index: int) -> None:
        self._architecture = architecture
        self._index = index
        depth = architecture.weight_depth_words
        word_width = 8 * architecture.lanes_in
        write = weight_write_layout(architecture)
        super().__init__(
            {
                "i_write": In(write),
                "o_write": Out(write),
                "i_address": In(range(depth)),
                "o_address": Out(range(depth)),
                "i_control": In(CONTROL),
                "o_control": Out(CONTROL),
                "i_activation": In(word_width),
                "o_activation": Out(word_width),
                "o_valid": Out(1),
                "o_context": Out(1),
                "o_sum": Out(signed(SUM_WIDTH)),
                "o_parameters": Out(structure(PARAMETERS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in ("write", "address", "control", "activation"):
            forwarded = Value.cast(getattr(self, f"i_{name}"))
            m.d.comb += Value.cast(getattr(self, f"o_{name}")).eq(delayed(m, forwarded, 1, name=f"next_{name}"))
        weights = self._weight_memory(m)
        control = Signal(CONTROL, name="control")
        m.d.comb += Cat(control).eq(delayed(m, self.i_control.as_value(), WEIGHT_LATENCY, name="control", reset=True))
        total = self._products(m, weights)
        self._accumulate(m, control, total)
        self._hold_parameters(m, control, weights)
        return m

    def _weight_memory(self, m: Module) -> Signal:
        """The weight word that belongs to the activation word now at the lane's input."""
        architecture = self._architecture
        word_width = 8 * architecture.lanes_in
        m.submodules.memory = memory = Memory(
            shape=unsigned(word_width), depth=architecture.weight_depth_words, init=[]
        )
        write = memory.write_port(granularity=CHUNK_WIDTH)
        read = memory.read_port()
        chunk_count = word_width // CHUNK_WIDTH
        enable = Signal(chunk_count)
        address = Signal.like(write.addr, reset_less=True)
        value = Signal(CHUNK_WIDTH, reset_less=True)
        m.d.sync += [address.eq(self.i_write.address), value.eq(self.i_write.data)]
        hit = self.i_write.enable & (self.i_write.lane == self._index)
        for chunk in range(chunk_count):
            m.d.sync += enable[chunk].eq(hit & (self.i_write.chunk == chunk))
        m.d.comb += [
            write.addr.eq(address),
            write.data.eq(value.replicate(chunk_count)),
            write.en.eq(enable),
            read.addr.eq(self.i_address),
        ]
        word = memory_output(m, read.data, family=architecture.family, name="weights")
        # Half way from the memories to the multipliers
        return delayed(m, word, 1, name="near_weights")

    def _products(self, m: Module, weights: Signal) -> Signal:
        """The dot product of activation and weight word."""
        factors = [
            (self.i_activation.word_select(channel, 8).as_signed(), weights.word_select(channel, 8).as_signed())
            for channel in range(self._architecture.lanes_in)
        ]
        # A register in the fabric: the route from a DSP to its adder is as long as the adder.
        products = [
            delayed(m, product, 1, name=f"product_{channel}")
            for channel, product in enumerate(multiplier.multiply_all(m, factors, family=self._architecture.family))
        ]
        return tree_sum(m, products, name="tree")

    def _accumulate(self, m: Module, control: data.View, total: Signal) -> None:
        latency = sum_latency(self._architecture) - 1
        tap, first, last, bank, context = (
            delayed(m, control[name], latency, name=name, reset=name in ("tap", "last"))
            for name in ("tap", "first", "last", "bank", "context")
        )
        accumulator = Signal(signed(SUM_WIDTH), reset_less=True)
        with m.If(tap):
            m.d.sync += accumulator.eq(total)
            with m.If(~first):
                m.d.sync += accumulator.eq(accumulator + total)
        self._result_bank = Signal()
        m.d.sync += [self.o_valid.eq(tap & last), self._result_bank.eq(bank), self.o_context.eq(context)]
        m.d.comb += self.o_sum.eq(accumulator)

    def _hold_parameters(self, m: Module, control: data.View, weights: Signal) -> None:
        word_width = 8 * self._architecture.lanes_in
        banks = [Signal(8 * PARAMETER_BYTES, name=f"parameters_{bank}", reset_less=True) for bank in range(2)]
        for bank, register in enumerate(banks):
            for index in range(self._architecture.parameter_words):
                with m.If(control.parameter & (control.bank == bank) & (control.parameter_index == index)):
                    part = register[index * word_width : (index + 1) * word_width]
                    m.d.sync += part.eq(weights)
        with m.If(self._result_bank):
            m.d.comb += self.o_parameters.eq(banks[1])
        with m.Else():
            m.d.comb += self.o_parameters.eq(banks[0])
