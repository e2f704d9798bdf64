"""One output lane: its weight memory, its multipliers, its adder tree and its accumulator."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import MAX_PAIR_ROWS, PARAMETERS
from emberline.gateware import depthwise, multiplier
from emberline.gateware.lane_control import CHUNK_WIDTH, CONTROL, PRODUCT_LATENCY, WEIGHT_LATENCY, weight_write_layout
from emberline.gateware.structures import copies, delayed, memory_output, structure, tree_sum

SUM_WIDTH = 32
"""Accumulators are int32, as LiteRT's are; the compiler proves that no layer overflows them."""

_PARAMETER_SET = data.StructLayout({"bank": 1, "group": 3})
"""Which parameters a sum is requantised with."""

LUT_MEMORY_WORDS = 16
"""Words of a LUT memory of ECP5 (Lattice TN1264, *ECP5 Memory Usage Guide*); fewer take as much."""

_HISTORY_WORDS = 1 << MAX_PAIR_ROWS.bit_length()
"""The last words of earlier columns that a lane keeps: a power of two above the rows of a column."""

_HISTORY_COPIES = 8
"""Registers that steer them, each for its share of a word."""


def sum_latency(architecture: Architecture) -> int:
    """Cycles from a tap's activation word at a lane to the accumulator that holds it."""
    return PRODUCT_LATENCY + ceil_log2(architecture.lanes_in) + 1


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
    Where a ROW can compute two rows, as many lanes behind them do the same: the first of these gets the words at once,
    as the undelayed ones go along the lanes before it too.

    Parameters: ``architecture``; ``index``, the lane's position, 0 to ``lanes_out - 1``.

    Members:
        i_write, o_write: a write into the weight memories, and the same for the next lane.
        i_address, i_control, o_address, o_control: weight word to read and what to do with it.
        i_activation, o_activation: ``lanes_in`` int8 channels, channel 0 in the low byte.
        i_undelayed, o_undelayed: what arrives at the first lane, for the first one of the second row.
        o_products: of the lanes that take part in depthwise ROWs. i_sum: a depthwise sum, ``depthwise_latency - 1``
            cycles after its last tap, the next group's ``lanes_out / requantisers`` cycles later, the second row's
            behind those of the first.
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
        columns, pairs = architecture.depthwise_columns, architecture.pairs_rows
        self._multiplies_columns = index < columns * (1 + pairs)
        self._has_undelayed = pairs and index < columns
        self._has_history = self._multiplies_columns and index % columns < columns - 1
        super().__init__(
            {
                **({"i_undelayed": In(word_width)} if self._has_undelayed else {}),
                **({"o_undelayed": Out(word_width)} if self._has_undelayed and self._has_history else {}),
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
        before = delayed(m, self.i_control.as_value(), WEIGHT_LATENCY - 1, name="control", reset=True)
        # The lane's own: other lanes have the same at other places of their delay lines.
        control = data.View(CONTROL, copies(m, before, 1, family=self._architecture.family, name="own_control")[0])
        m.d.comb += self.o_activation.eq(delayed(m, self._word_to_forward(m), 1, name="next_activation"))
        if self._has_undelayed and self._has_history:
            m.d.comb += self.o_undelayed.eq(delayed(m, self.i_undelayed, 1, name="next_undelayed"))
        total = self._products(m, weights)
        self._accumulate(m, control, total)
        self._hold_parameters(m, data.View(CONTROL, before), weights)
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

    def _word_to_forward(self, m: Module) -> Value:
        """This word, or that of a column of a depthwise kernel before it: ``rows`` taps ago.

        A ring of the last words, written with every tap: registers one behind the other would be ten times the wires.
        """
        architecture = self._architecture
        if not self._has_history:
            return self.i_undelayed if self._has_undelayed else self.i_activation
        early = Cat(self.i_control.tap, self.i_control.rows)
        early = delayed(m, early, WEIGHT_LATENCY - 1, name="history")
        tap, rows = early[0], early[1:]
        place = Signal(range(_HISTORY_WORDS), reset_less=True)
        m.d.sync += place.eq(place + tap)
        steering = Cat(tap, ~rows.any(), place, (place - rows)[: len(place)])
        controls = copies(m, steering, _HISTORY_COPIES, family=architecture.family, name="history")
        share = 8 * architecture.lanes_in // _HISTORY_COPIES
        forwarded: list[Value] = []
        for index, control in enumerate(controls):
            word = self.i_activation[index * share : (index + 1) * share]
            depth = LUT_MEMORY_WORDS if architecture.family == "ecp5" else _HISTORY_WORDS
            m.submodules[f"history_{index}"] = memory = Memory(shape=unsigned(share), depth=depth, init=[])
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(control[0]),
                write.addr.eq(control[2 : 2 + len(place)]),
                write.data.eq(word),
                read.addr.eq(control[2 + len(place) :]),
            ]
            forwarded.append(Mux(control[1], word, read.data))
        return Cat(*forwarded)

    def _products(self, m: Module, weights: Signal) -> Signal:
        """The dot product of activation and weight word."""
        family = self._architecture.family
        # The lane's own: the register that forwards has another way to go.
        activation = copies(m, self.i_activation, 1, family=family, name="own_activation")[0]
        weights = delayed(m, weights, 1, name="own_weights")
        factors = [
            (activation.word_select(channel, 8).as_signed(), weights.word_select(channel, 8).as_signed())
            for channel in range(self._architecture.lanes_in)
        ]
        # Registers in the fabric: the route from a DSP to its adder is longer than the adder.
        products = [
            delayed(m, product, PRODUCT_LATENCY - 1 - multiplier.LATENCY, name=f"product_{channel}")
            for channel, product in enumerate(multiplier.multiply_all(m, factors, family=family))
        ]
        if self._multiplies_columns:
            m.d.comb += [self.o_products[channel].eq(product) for channel, product in enumerate(products)]
        return tree_sum(m, products, name="tree")

    def _accumulate(self, m: Module, control: data.View, total: Signal) -> None:
        latency = sum_latency(self._architecture) - 1
        is_depthwise = control.rows.any() if self._architecture.depthwise_columns else Const(0)
        tap = delayed(m, control.tap & ~is_depthwise, latency, name="tap", reset=True)
        last = delayed(m, control.tap & ~is_depthwise & control.last, latency, name="last", reset=True)
        first, context = (delayed(m, control[name], latency, name=name) for name in ("first", "context"))
        bank = delayed(m, control.bank, latency - 1, name="bank")
        accumulator = Signal(signed(SUM_WIDTH), reset_less=True)
        with m.If(tap):
            m.d.sync += accumulator.eq(total)
            with m.If(~first):
                m.d.sync += accumulator.eq(accumulator + total)
        # The parameters take one cycle more than the sum that they belong to
        self._used = Signal(_PARAMETER_SET, reset_less=True)
        valid_out, context_out = Signal(), Signal(reset_less=True)
        m.d.comb += [self.o_valid.eq(valid_out), self.o_context.eq(context_out)]
        m.d.sync += [
            valid_out.eq(last),
            self._used.bank.eq(bank),
            self._used.group.eq(0),
            context_out.eq(context),
        ]
        m.d.comb += self.o_sum.eq(accumulator)
        if self._architecture.depthwise_columns:
            self._take_depthwise_sums(m, control, accumulator, valid_out, context_out)

    def _take_depthwise_sums(
        self, m: Module, control: data.View, accumulator: Signal, valid_out: Signal, context_out: Signal
    ) -> None:
        """Complete sums, one for each group of a word and then of the second row's, take the way of ordinary ones."""
        architecture = self._architecture
        share = architecture.lanes_out // architecture.requantisers
        early, early_context = Signal(), Signal(reset_less=True)
        used = Signal(_PARAMETER_SET, reset_less=True)
        complete = control.tap & control.rows.any() & control.last
        token = Cat(complete, control.bank, control.context, complete & control.pair)
        token = delayed(m, token, depthwise_latency(architecture) - 3, name="depthwise", reset=True)
        m.d.sync += early.eq(0)
        for row in range(1 + architecture.pairs_rows):
            for group in range(architecture.groups_per_word):
                with m.If(token[3 if row else 0]):
                    m.d.sync += [early.eq(1), used.group.eq(group), used.bank.eq(token[1]), early_context.eq(token[2])]
                token = delayed(m, token, share, name=f"depthwise_{row}_{group}", reset=True)
        with m.If(early):
            m.d.sync += self._used.eq(used)
        valid = delayed(m, early, 1, name="taken", reset=True)
        context = delayed(m, early_context, 1, name="taken_context")
        with m.If(valid):
            m.d.sync += [accumulator.eq(self.i_sum), valid_out.eq(1), context_out.eq(context)]

    def _hold_parameters(self, m: Module, control: data.View, weights: Signal) -> None:
        """Two banks, each with the parameters of one group, or of a word's groups in depthwise ROWs.

        ``control`` comes a cycle before the words.
        """
        architecture = self._architecture
        word_width, words = 8 * architecture.lanes_in, architecture.parameter_words
        width = structure(PARAMETERS).size
        index = control.parameter_index
        groups = architecture.groups_per_word if architecture.depthwise_columns else 1
        where = Signal(_PARAMETER_SET)
        m.d.comb += where.bank.eq(control.bank)
        for group in range(1, groups):
            with m.If(index >= group * words):
                m.d.comb += where.group.eq(group)
        address = where.as_value()[: ceil_log2(2 * groups)]
        parts = []
        for part, start in enumerate(range(0, width, word_width)):
            size = min(word_width, width - start)
            depth = LUT_MEMORY_WORDS if architecture.family == "ecp5" else 2 * groups
            memory = Memory(shape=unsigned(size), depth=depth, init=[])
            m.submodules[f"parameters_{part}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            enable = control.parameter & index.matches(*(group * words + part for group in range(groups)))
            steering = copies(m, Cat(enable, address), 1, family=architecture.family, name=f"parameters_{part}")[0]
            m.d.comb += [
                write.en.eq(steering[0]),
                write.addr.eq(steering[1:]),
                write.data.eq(weights[:size]),
                read.addr.eq(self._used),
            ]
            parts.append(delayed(m, read.data, 1, name=f"used_{part}"))
        m.d.comb += Cat(self.o_parameters).eq(Cat(*parts))
