"""One output lane: its weight memory, its multipliers, its adder tree and its accumulator."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import PARAMETER_BYTES, Architecture
from emberline.arch.isa import MAX_DEPTHWISE_ROWS, PARAMETERS
from emberline.gateware import depthwise, multiplier
from emberline.gateware.lane_control import CHUNK_WIDTH, CONTROL, WEIGHT_LATENCY, weight_write_layout
from emberline.gateware.structures import delayed, memory_output, structure, tree_sum

SUM_WIDTH = 32
"""Accumulators are int32, as LiteRT's are; the compiler proves that no layer overflows them."""

_PARAMETER_SET = data.StructLayout({"bank": 1, "group": 4})
"""Which parameters a sum is requantised with."""


def sum_latency(architecture: Architecture) -> int:
    """Cycles from a tap's activation word at a lane to the accumulator that holds it."""
    return multiplier.LATENCY + 1 + ceil_log2(architecture.lanes_in) + 1


def depthwise_latency(architecture: Architecture) -> int:
    """Cycles from a depthwise tap's word at a lane to the accumulator that holds the lane's sum of the first group."""
    return depthwise.sum_latency(architecture, sum_latency(architecture))


class Lane(wiring.Component):
    """Multiplies ``lanes_in`` activations by its own weights each cycle and accumulates the sums of one output channel.

    Everything that reaches the lane is passed on one cycle later (systolic forwarding): nothing in the array is
    broadcast. Weight address and control come `WEIGHT_LATENCY` cycles before the activation word that they belong to,
    so that the weight memory is in step.

    In depthwise ROWs the lanes below ``depthwise_columns`` pass a word on only ``rows`` taps later, a column of the
    kernel, and hand their products to `DepthwiseSums`. Every lane's results come back from there as complete sums.

    Parameters: ``architecture``; ``index``, the lane's position, 0 to ``lanes_out - 1``.

    Members:
        i_write, o_write: a write into the weight memories, and the same for the next lane.
        i_address, i_control, o_address, o_control: weight word to read and what to do with it.
        i_activation, o_activation: ``lanes_in`` int8 channels, channel 0 in the low byte.
        o_products: of the lanes below ``depthwise_columns``. i_sum: a depthwise sum, ``depthwise_latency - 1`` cycles
            after its last tap, the next group's ``lanes_out / requantisers`` cycles later.
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
        products = data.ArrayLayout(signed(depthwise.PRODUCT_WIDTH), architecture.lanes_in)
        self._multiplies_columns = index < architecture.depthwise_columns
        super().__init__(
            {
                **({"o_products": Out(products)} if self._multiplies_columns else {}),
                "i_sum": In(signed(depthwise.sum_width(architecture))),
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
        for name in ("write", "address", "control"):
            forwarded = Value.cast(getattr(self, f"i_{name}"))
            m.d.comb += Value.cast(getattr(self, f"o_{name}")).eq(delayed(m, forwarded, 1, name=f"next_{name}"))
        weights = self._weight_memory(m)
        control = Signal(CONTROL, name="control")
        m.d.comb += Cat(control).eq(delayed(m, self.i_control.as_value(), WEIGHT_LATENCY, name="control", reset=True))
        m.d.comb += self.o_activation.eq(delayed(m, self._word_to_forward(m, control), 1, name="next_activation"))
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

    def _word_to_forward(self, m: Module, control: data.View) -> Value:
        """This word, or that of a column of a depthwise kernel before it: ``rows`` taps ago."""
        if self._index >= self._architecture.depthwise_columns - 1:
            return self.i_activation
        past = [
            Signal(8 * self._architecture.lanes_in, name=f"past_{age}", reset_less=True)
            for age in range(1, MAX_DEPTHWISE_ROWS + 1)
        ]
        words = [self.i_activation, *past]
        with m.If(control.tap):
            m.d.sync += [place.eq(newer) for place, newer in zip(past, words, strict=False)]
        return Array(words)[control.rows]

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
        if self._multiplies_columns:
            m.d.comb += [self.o_products[channel].eq(product) for channel, product in enumerate(products)]
        return tree_sum(m, products, name="tree")

    def _accumulate(self, m: Module, control: data.View, total: Signal) -> None:
        latency = sum_latency(self._architecture) - 1
        is_depthwise = control.rows.any() if self._architecture.depthwise_columns else Const(0)
        tap = delayed(m, control.tap & ~is_depthwise, latency, name="tap", reset=True)
        last = delayed(m, control.tap & ~is_depthwise & control.last, latency, name="last", reset=True)
        first, bank, context = (delayed(m, control[name], latency, name=name) for name in ("first", "bank", "context"))
        accumulator = Signal(signed(SUM_WIDTH), reset_less=True)
        with m.If(tap):
            m.d.sync += accumulator.eq(total)
            with m.If(~first):
                m.d.sync += accumulator.eq(accumulator + total)
        self._used = Signal(_PARAMETER_SET)
        m.d.sync += [
            self.o_valid.eq(last),
            self._used.bank.eq(bank),
            self._used.group.eq(0),
            self.o_context.eq(context),
        ]
        m.d.comb += self.o_sum.eq(accumulator)
        if self._architecture.depthwise_columns:
            self._take_depthwise_sums(m, control, accumulator)

    def _take_depthwise_sums(self, m: Module, control: data.View, accumulator: Signal) -> None:
        """Complete sums, one for each group of a word, take the way of ordinary ones."""
        architecture = self._architecture
        share = architecture.lanes_out // architecture.requantisers
        valid, context = Signal(), Signal(reset_less=True)
        used = Signal(_PARAMETER_SET, reset_less=True)
        token = Cat(control.tap & control.rows.any() & control.last, control.bank, control.context)
        token = delayed(m, token, depthwise_latency(architecture) - 2, name="depthwise", reset=True)
        m.d.sync += valid.eq(0)
        for group in range(architecture.groups_per_word):
            with m.If(token[0]):
                m.d.sync += [valid.eq(1), used.group.eq(group), used.bank.eq(token[1]), context.eq(token[2])]
            token = delayed(m, token, share, name=f"depthwise_{group}", reset=True)
        with m.If(valid):
            m.d.sync += [
                accumulator.eq(self.i_sum),
                self.o_valid.eq(1),
                self._used.eq(used),
                self.o_context.eq(context),
            ]

    def _hold_parameters(self, m: Module, control: data.View, weights: Signal) -> None:
        """Two banks, each with the parameters of one group, or of a word's groups in depthwise ROWs."""
        architecture = self._architecture
        word_width, words = 8 * architecture.lanes_in, architecture.parameter_words
        groups = architecture.groups_per_word if architecture.depthwise_columns else 1
        chosen = []
        for bank in range(2):
            registers = [
                Signal(8 * PARAMETER_BYTES, name=f"parameters_{bank}_{group}", reset_less=True)
                for group in range(groups)
            ]
            for index in range(groups * words):
                with m.If(control.parameter & (control.bank == bank) & (control.parameter_index == index)):
                    place = index % words * word_width
                    m.d.sync += registers[index // words][place : place + word_width].eq(weights)
            chosen.append(Array(registers)[self._used.group])
        m.d.comb += self.o_parameters.eq(Mux(self._used.bank, chosen[1], chosen[0]))
