"""The accelerator without its link: sequencer, lanes, requantisers, activation buffer, frame input, result output."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out, connect, flipped
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH
from emberline.gateware import activation_buffer, lane, requantiser, residual_adder, result_writer, row_issuer
from emberline.gateware import pooler as pooling
from emberline.gateware.activation_buffer import ActivationBuffer
from emberline.gateware.depthwise import DepthwiseSums
from emberline.gateware.frame_writer import FrameWriter
from emberline.gateware.lane import Lane
from emberline.gateware.lane_control import CONTROL, WEIGHT_LATENCY, weight_write_layout
from emberline.gateware.link.core_ports import CoreSignature
from emberline.gateware.link.stream_register import StreamRegister
from emberline.gateware.requantiser import Requantiser
from emberline.gateware.result_path import COMBINE_LATENCY, MEET_LATENCY, ResultPath
from emberline.gateware.result_reader import ResultReader
from emberline.gateware.row_issuer import RowIssuer
from emberline.gateware.sequencer import Sequencer
from emberline.gateware.structures import delayed
from emberline.gateware.weight_source import WeightSource, source_members

FLUSH_CYCLES = 256
"""How long a reset lasts: longer than a group is on its way from the issuer to the buffer."""

RESET_PARTS = 4
"""Parts of the machine that are reset one cycle after the other, so that no net reaches all of it."""


class Accelerator(wiring.Component):
    """Runs a compiled program on frames, one at a time, and counts their cycles.

    Members: `emberline.gateware.link.core_ports.CoreSignature`, from the accelerator's side, and ``flash``, the
    configuration flash's lines, where weights may come from it. ``clear`` resets all control state; the memories keep
    their contents.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        core = {name: member.flip() for name, member in CoreSignature(architecture).members.items()}
        super().__init__(core | source_members(architecture))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        resets, start = self._build_reset(m)
        self._sequencer_reset, self._link_reset, self._row_reset = map(ResetInserter, resets[:3])
        self._result_reset = resets[3]
        m.submodules.sequencer = self._sequencer_reset(self._build_sequencer(m, start))
        m.submodules.buffer = self._build_buffer(m)
        m.submodules.issuer = self._row_reset(self._build_issuer(m, resets[2]))
        self._weight_write = self.weight_enable, self.weight_address, self.weight_data
        self._program_write = self.program_enable, self.program_address, self.program_data
        if self._architecture.streams:
            self._build_source(m)
        sequencer = self._sequencer
        for port, value in zip(
            (sequencer.write_enable, sequencer.write_address, sequencer.write_data), self._program_write, strict=True
        ):
            m.d.comb += port.eq(value)
        self._build_lanes(m)
        self._build_requantisers(m)
        return m

    def _build_reset(self, m: Module) -> tuple[list[Value], Signal]:
        """The reset of what holds state, one part after the other, and a start that waits for its end.

        Taps, sums and groups on their way are not reset: what makes and what takes them is, until all have left.
        """
        left = Signal(signed(ceil_log2(FLUSH_CYCLES) + 1), init=-1)
        ends = left[-1]
        start, pending, quiet = Signal(), Signal(), Signal()
        self._source_settled = Signal(init=1)  # what is on the board is known
        resets: list[Value] = [Signal(name="reset")]
        m.d.sync += [
            resets[0].eq(self.clear | ~ends),
            left.eq(Mux(ends, -1, left - 1)),
            quiet.eq(ends & ~resets[0] & ~self.clear),
            start.eq(pending & quiet & self._source_settled & ~start & ~self.clear),
        ]
        for index in range(1, RESET_PARTS):
            resets.append(delayed(m, resets[-1], 1, name=f"reset_{index}", reset=True))
        with m.If(self.clear):
            m.d.sync += [left.eq(FLUSH_CYCLES - 1), pending.eq(0)]
        with m.Elif(self.start):
            m.d.sync += pending.eq(1)
        with m.Elif(start):
            m.d.sync += pending.eq(0)
        return resets, start

    def _build_sequencer(self, m: Module, start: Value) -> Sequencer:
        self._sequencer = sequencer = Sequencer(self._architecture)
        m.d.comb += [
            sequencer.start.eq(start),
            sequencer.result_release.eq(self.result_release),
            self.running.eq(sequencer.running),
            self.fault.eq(sequencer.fault),
            self.frames_done.eq(sequencer.frames_done),
            self.result_valid.eq(sequencer.result_valid),
            self.cycles.eq(sequencer.cycles),
            self.stall_cycles.eq(sequencer.stall_cycles),
        ]
        return sequencer

    def _build_buffer(self, m: Module) -> ActivationBuffer:
        """The activation buffer with the frame input and the result output at its shared port."""
        self._buffer = buffer = ActivationBuffer(self._architecture)
        sequencer = self._sequencer
        frame = FrameWriter(self._architecture)
        m.submodules.frame_writer = self._link_reset(frame)
        # Bytes come through a register, whose contents go with an abort and before a commit, and none come until then.
        abort = Signal()
        waiting = ResetInserter(abort)(self._link_reset(StreamRegister()))
        m.submodules.frame_register = waiting
        connect(m, waiting.o, frame.i_bytes)
        commits, commit = Signal(), Signal()
        m.d.comb += [
            abort.eq(self.frame_abort & ~commits),
            waiting.i.valid.eq(self.i_frame.valid & ~commits),
            waiting.i.payload.eq(self.i_frame.payload),
            self.i_frame.ready.eq(waiting.i.ready & ~commits),
        ]
        m.d.sync += [
            commit.eq(commits & ~commit & ~waiting.o.valid),
            commits.eq((commits | self.frame_commit) & ~commit),
        ]
        m.d.comb += [
            frame.settings.eq(sequencer.o_frame),
            frame.i_configure.eq(sequencer.o_frame_configure),
            frame.i_commit.eq(commit),
            frame.i_abort.eq(abort),
            frame.i_release.eq(sequencer.o_release),
            frame.i_release_count.eq(sequencer.o_release_count),
            self.frame_free_rows.eq(frame.o_free_rows),
            self.frame_row_bytes.eq(frame.o_row_bytes),
            sequencer.i_rows.eq(frame.o_committed),
            sequencer.i_rows_count.eq(frame.o_committed_count),
            buffer.frame_valid.eq(frame.o_valid),
            buffer.frame_address.eq(frame.o_address),
            buffer.frame_enable.eq(frame.o_enable),
            buffer.frame_bytes.eq(frame.o_bytes),
            frame.i_ready.eq(buffer.frame_ready),
        ]
        result = ResultReader(self._architecture)
        m.submodules.result_reader = self._link_reset(result)
        connect(m, result.o_bytes, flipped(self.o_result))
        m.d.comb += [
            result.settings.eq(sequencer.o_result),
            result.i_configure.eq(sequencer.o_result_configure),
            result.i_start.eq(self.result_start),
            self.result_bytes.eq(result.o_size),
            buffer.result_valid.eq(result.o_valid),
            buffer.result_address.eq(result.o_address),
            result.i_ready.eq(buffer.result_ready),
            result.i_done.eq(buffer.result_done),
            result.i_word.eq(buffer.shared_word),
        ]
        return buffer

    def _build_issuer(self, m: Module, reset: Value) -> RowIssuer:
        """Hand rows from the sequencer to the issuer, and keep what the later stages need in one of two contexts."""
        architecture, sequencer = self._architecture, self._sequencer
        self._issuer = issuer = RowIssuer(architecture)
        self._prepare_settings(m, issuer)
        taken = Signal()
        context = Signal()
        m.d.comb += [
            issuer.i_valid.eq(sequencer.o_row_valid),
            issuer.i_context.eq(context),
            taken.eq(issuer.i_valid & issuer.o_ready),
            sequencer.i_row_taken.eq(taken),
            sequencer.i_ready.eq(issuer.o_ready),
            sequencer.i_row_end.eq(issuer.o_end),
        ]
        with m.If(taken):
            m.d.sync += context.eq(~context)
        with m.If(reset):
            m.d.sync += context.eq(0)
        self._build_results(m, taken, context)
        return issuer

    def _prepare_settings(self, m: Module, issuer: RowIssuer) -> None:
        """A fetched ROW as the issuer counts it. All of it settles while the pointers are resolved."""
        architecture, row = self._architecture, self._sequencer.o_row
        group_bits = architecture.groups_per_word.bit_length() - 1
        settings = Signal.like(issuer.i_settings, reset_less=True)
        m.d.comb += issuer.i_settings.eq(settings)
        ring, back, threshold = (
            Signal(signed(ADDRESS_WIDTH + 2), name=name, reset_less=True) for name in ("ring", "row_back", "threshold")
        )
        m.d.sync += [
            ring.eq(row.source_end - row.source_start),
            back.eq(row.row_step - ring),
            threshold.eq((row.source_end - row.row_step) >> group_bits),
        ]
        words = architecture.parameter_words
        self._pair = Signal(name="pair")
        if architecture.pairs_rows:
            m.d.sync += self._pair.eq(row.depthwise & row.pool & self._sequencer.o_pool.copy)
        resolved = {
            "parameters": Mux(row.depthwise, architecture.groups_per_word * words - 2, words - 2),
            "never_idle": row.idle == 0,
            "leads": row.lead != 0,
            "lane_rows": Mux(row.depthwise, row.kernel_rows[:3], 0),
            "pair": self._pair,
            "source": self._sequencer.o_source >> group_bits,
            "source_wraps": (self._sequencer.o_source >> group_bits) >= threshold,
            "row_step": row.row_step >> group_bits,
            "row_back": back >> group_bits,
            "step_threshold": threshold - (row.row_step >> group_bits),
            "back_threshold": threshold - (back >> group_bits),
        }
        for name, _ in settings.shape():
            if name in resolved:
                m.d.sync += settings[name].eq(resolved[name])
            elif name in row_issuer.COUNTS:
                m.d.sync += settings[name].eq(row[name] - 2)
            else:
                m.d.sync += settings[name].eq(row[name])

    def _build_results(self, m: Module, taken: Value, context: Value) -> None:
        """What is behind the requantisers, between the sequencer and the buffer."""
        sequencer, buffer = self._sequencer, self._buffer
        self._results = results = ResultPath(self._architecture)
        m.submodules.results = results
        m.d.comb += [
            results.row.eq(sequencer.o_row),
            results.add.eq(sequencer.o_add),
            results.pool.eq(sequencer.o_pool),
            results.target.eq(sequencer.o_target),
            results.third.eq(sequencer.o_third),
            results.pair.eq(self._pair),
            results.taken.eq(taken),
            results.taken_context.eq(context),
            results.reset.eq(self._result_reset),
            sequencer.i_row_done.eq(results.o_done),
            buffer.residual_valid.eq(results.residual_valid),
            buffer.residual_address.eq(results.residual_address),
            results.residual_ready.eq(buffer.residual_ready),
            results.residual_done.eq(buffer.residual_done),
            results.residual_word.eq(buffer.shared_word),
            buffer.write_valid.eq(results.write_valid),
            buffer.write_address.eq(results.write_address),
            buffer.write_group.eq(results.write_group),
        ]

    def _build_source(self, m: Module) -> None:
        """What is fetched stands between the link's writes and both memories."""
        sequencer = self._sequencer
        source = WeightSource(self._architecture)
        m.submodules.source = self._row_reset(source)
        m.d.comb += [
            source.load.eq(sequencer.o_load),
            source.load_valid.eq(sequencer.o_load_valid),
            source.row_taken.eq(sequencer.i_row_taken),
            source.row_end.eq(sequencer.i_row_end),
            sequencer.i_loads_pending.eq(source.pending),
            sequencer.i_weights_pending.eq(source.weights_pending),
            sequencer.i_pages_pending.eq(source.pages_pending),
            sequencer.i_load_late.eq(source.late),
            sequencer.i_load_fault.eq(source.fault),
            self._source_settled.eq(source.settled),
            Cat(source.i_weight_enable, source.i_weight_address, source.i_weight_data).eq(Cat(*self._weight_write)),
            Cat(source.i_program_enable, source.i_program_address, source.i_program_data).eq(Cat(*self._program_write)),
        ]
        self._weight_write = source.o_weight_enable, source.o_weight_address, source.o_weight_data
        self._program_write = source.o_program_enable, source.o_program_address, source.o_program_data
        for name, member in source_members(self._architecture).items():
            inner, outer = getattr(source, name), getattr(self, name)
            if member.is_signature:
                connect(m, inner, flipped(outer))
            else:
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)

    def _build_lanes(self, m: Module) -> None:
        """The array: everything enters at lane 0 and is forwarded."""
        architecture, issuer, buffer = self._architecture, self._issuer, self._buffer
        # Activations: the buffer's cycles, then one register that puts the padding in.
        inside = delayed(m, issuer.o_inside, activation_buffer.READ_LATENCY, name="inside")
        zero = delayed(m, issuer.o_zero, activation_buffer.READ_LATENCY, name="padding")
        activation = Signal(8 * architecture.lanes_in, reset_less=True)
        m.d.comb += buffer.read_address.eq(issuer.o_address)
        m.d.sync += activation.eq(Mux(inside, buffer.read_word, zero.as_unsigned().replicate(architecture.lanes_in)))
        # A lane's weight address comes as much earlier than the activation as the weight memory takes.
        lead = activation_buffer.READ_LATENCY + 1 - WEIGHT_LATENCY
        weight_address = delayed(m, issuer.o_weight_address, lead, name="weight_address")
        control = data.View(CONTROL, delayed(m, issuer.o_control.as_value(), lead, name="control", reset=True))
        first_control = control
        write = Signal(weight_write_layout(architecture), reset_less=True)
        fields = Cat(write.chunk, write.lane, write.address)
        enable, address, chunk = self._weight_write
        m.d.sync += [write.enable.eq(enable), write.data.eq(chunk)]
        if len(address) == len(fields):
            m.d.sync += fields.eq(address)
        else:  # one chunk in a lane's word: the chunk field exists but counts nothing
            m.d.sync += [write.chunk.eq(0), Cat(write.lane, write.address).eq(address)]

        self._lanes = []
        undelayed = activation
        for index in range(architecture.lanes_out):
            unit = Lane(architecture, index)
            m.submodules[f"lane_{index}"] = unit
            m.d.comb += [
                unit.i_write.eq(write),
                unit.i_address.eq(weight_address),
                unit.i_control.eq(control),
                unit.i_activation.eq(activation),
            ]
            write, weight_address = unit.o_write, unit.o_address
            control, activation = unit.o_control, unit.o_activation
            if "i_undelayed" in unit.signature.members:
                m.d.comb += unit.i_undelayed.eq(undelayed)
            if "o_undelayed" in unit.signature.members:
                undelayed = unit.o_undelayed
            self._lanes.append(unit)
        if architecture.depthwise_columns:
            self._build_depthwise(m, first_control)

    def _build_depthwise(self, m: Module, control: data.View) -> None:
        """Column products from the lanes that take part, complete sums to all of them."""
        architecture = self._architecture
        unit = DepthwiseSums(architecture, lane.sum_latency(architecture))
        m.submodules.depthwise = unit
        m.d.comb += unit.i_control.eq(control)
        for index, products in enumerate(unit.i_products):
            m.d.comb += products.eq(self._lanes[index].o_products)
        share = architecture.lanes_out // architecture.requantisers
        for index, each in enumerate(self._lanes):
            m.d.comb += each.i_sum.eq(unit.o_sums[index // share])

    def _build_requantisers(self, m: Module) -> None:
        """Requantise, and gather the skewed lanes into a group."""
        architecture = self._architecture
        share = architecture.lanes_out // architecture.requantisers
        last = architecture.lanes_out - 1
        channels = []
        for index in range(architecture.requantisers):
            lanes = self._lanes[index * share : (index + 1) * share]
            unit = Requantiser(share, family=architecture.family)
            m.submodules[f"requantiser_{index}"] = unit
            m.d.comb += unit.settings.eq(self._results.requantisers)
            for position, each in enumerate(lanes):
                m.d.comb += [
                    unit.i_valid[position].eq(each.o_valid),
                    unit.i_contexts[position].eq(each.o_context),
                    unit.i_sums[position].eq(each.o_sum),
                    unit.i_parameters[position].eq(each.o_parameters),
                ]
            # Lane n's result comes n cycles after lane 0's: one delay line, tapped where each lane has waited enough.
            line = [unit.o_value]
            for stage in range(last - index * share):
                line.append(delayed(m, line[-1], 1, name=f"skew_{index}_{stage}"))
            channels += [line[last - index * share - position] for position in range(share)]

        final = self._lanes[-1]
        m.d.comb += [
            self._results.i_group.eq(Cat(*channels)),
            self._results.i_valid.eq(delayed(m, final.o_valid, requantiser.LATENCY, name="group_valid", reset=True)),
            self._results.i_context.eq(delayed(m, final.o_context, requantiser.LATENCY - 1, name="group_context")),
        ]


def write_latency(architecture: Architecture, *, add: bool = False, copy: bool = False, depthwise: bool = False) -> int:
    """Cycles from a ROW's last tap in the issuer to the write of its last group: the sum of the stages above.

    A depthwise ROW with ``copy`` computes two rows.
    """
    sums = lane.sum_latency(architecture)
    if depthwise:
        others = (1 + copy) * architecture.groups_per_word - 1
        others = others * architecture.lanes_out // architecture.requantisers
        sums = lane.depthwise_latency(architecture) + others
    array = row_issuer.LATENCY + activation_buffer.READ_LATENCY + 1 + architecture.lanes_out - 1
    result = sums + requantiser.LATENCY + pooling.LATENCY
    addition = MEET_LATENCY + residual_adder.latency(architecture.lanes_out, architecture.adders)
    last = (addition if add else COMBINE_LATENCY) + 1
    return array + result + last + result_writer.LATENCY + (copy and not depthwise)
