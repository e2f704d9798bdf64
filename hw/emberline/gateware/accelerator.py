"""The accelerator without its link: sequencer, lanes, requantisers, activation buffer, frame input, result output."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from emberline.arch.architecture import Architecture
from emberline.gateware import activation_buffer, lane, requantiser, residual_adder, result_writer, row_issuer
from emberline.gateware import pooler as pooling
from emberline.gateware.activation_buffer import ActivationBuffer
from emberline.gateware.depthwise import DepthwiseSums
from emberline.gateware.frame_writer import ROW_BYTES_WIDTH, ROW_COUNT_WIDTH, FrameWriter
from emberline.gateware.lane import Lane
from emberline.gateware.lane_control import CHUNK_WIDTH, CONTROL, WEIGHT_LATENCY, weight_write_layout
from emberline.gateware.pooler import Pooler
from emberline.gateware.requantiser import Requantiser
from emberline.gateware.residual_adder import ResidualAdder
from emberline.gateware.residual_reader import ResidualReader
from emberline.gateware.result_reader import RESULT_BYTES_WIDTH, ResultReader
from emberline.gateware.result_writer import ResultWriter
from emberline.gateware.row_issuer import RowIssuer
from emberline.gateware.sequencer import Sequencer
from emberline.gateware.structures import delayed

FLUSH_CYCLES = 256
"""How long a reset lasts: longer than a group is on its way from the issuer to the buffer."""

CONTEXT_COUNT = 2
"""ROWs in flight: the one whose taps are walked and the one whose results are under way."""


def weight_chunk_count(architecture: Architecture) -> int:
    """Four-byte pieces of the weight image."""
    return architecture.weight_bytes * 8 // CHUNK_WIDTH


class Accelerator(wiring.Component):
    """Runs a compiled program on frames, one at a time, and counts their cycles.

    Members:
        program_enable, program_address, program_data: writes into the instruction memory, always accepted.
        weight_enable, weight_address, weight_data: four bytes of the weight image at byte ``4 * weight_address``.
        i_frame: bytes of frame rows; frame_free_rows, frame_row_bytes, frame_commit, frame_abort: `FrameWriter`.
        o_result: bytes of the result after result_start; result_bytes their number; result_valid: the result of the
            last of ``frames_done`` frames is there until result_release.
        start, running, fault, cycles, stall_cycles: `Sequencer`.
        clear: stop and reset all control state; the memories keep their contents.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "program_enable": In(1),
                "program_address": In(range(architecture.program_depth_words)),
                "program_data": In(32),
                "weight_enable": In(1),
                "weight_address": In(range(weight_chunk_count(architecture))),
                "weight_data": In(CHUNK_WIDTH),
                "i_frame": In(stream.Signature(8)),
                "frame_free_rows": Out(ROW_COUNT_WIDTH),
                "frame_row_bytes": Out(ROW_BYTES_WIDTH),
                "frame_commit": In(1),
                "frame_abort": In(1),
                "frames_done": Out(16),
                "result_valid": Out(1),
                "result_bytes": Out(RESULT_BYTES_WIDTH),
                "result_start": In(1),
                "result_release": In(1),
                "o_result": Out(stream.Signature(8)),
                "start": In(1),
                "clear": In(1),
                "running": Out(1),
                "fault": Out(8),
                "cycles": Out(32),
                "stall_cycles": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reset, start = self._build_reset(m)
        self._core = ResetInserter(reset)
        m.submodules.sequencer = self._core(self._build_sequencer(m, start))
        m.submodules.buffer = self._build_buffer(m)
        m.submodules.issuer = self._core(self._build_issuer(m, reset))
        self._build_lanes(m)
        self._build_results(m)
        return m

    def _build_reset(self, m: Module) -> tuple[Signal, Signal]:
        """The reset of what holds state, and a start that waits for its end.

        Taps, sums and groups on their way are not reset: what makes and what takes them is, until all have left.
        """
        reset = Signal()
        left = Signal(range(FLUSH_CYCLES))
        start, pending = Signal(), Signal()
        m.d.sync += [reset.eq(self.clear | (left != 0)), left.eq(Mux(left != 0, left - 1, 0))]
        with m.If(self.clear):
            m.d.sync += [left.eq(FLUSH_CYCLES - 1), pending.eq(0)]
        with m.Elif(self.start):
            m.d.sync += pending.eq(1)
        with m.Elif(start):
            m.d.sync += pending.eq(0)
        m.d.comb += start.eq(pending & ~reset & (left == 0))
        return reset, start

    def _build_sequencer(self, m: Module, start: Value) -> Sequencer:
        self._sequencer = sequencer = Sequencer(self._architecture)
        m.d.comb += [
            sequencer.write_enable.eq(self.program_enable),
            sequencer.write_address.eq(self.program_address),
            sequencer.write_data.eq(self.program_data),
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
        m.submodules.frame_writer = self._core(frame)
        connect(m, flipped(self.i_frame), frame.i_bytes)
        m.d.comb += [
            frame.settings.eq(sequencer.o_frame),
            frame.i_configure.eq(sequencer.o_frame_configure),
            frame.i_commit.eq(self.frame_commit),
            frame.i_abort.eq(self.frame_abort),
            frame.i_release.eq(sequencer.o_release),
            frame.i_release_count.eq(sequencer.o_release_count),
            self.frame_free_rows.eq(frame.o_free_rows),
            self.frame_row_bytes.eq(frame.o_row_bytes),
            sequencer.i_rows.eq(frame.o_committed),
            sequencer.i_rows_count.eq(frame.o_committed_count),
            buffer.frame_valid.eq(frame.o_valid),
            buffer.frame_address.eq(frame.o_address),
            buffer.frame_lane.eq(frame.o_lane),
            buffer.frame_byte.eq(frame.o_byte),
            frame.i_ready.eq(buffer.frame_ready),
        ]
        result = ResultReader(self._architecture)
        m.submodules.result_reader = self._core(result)
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
        group_bits = architecture.groups_per_word.bit_length() - 1
        row, settings = sequencer.o_row, issuer.i_settings
        resolved = ("source", "row_step", "row_back", "row_threshold")
        m.d.comb += [settings[name].eq(row[name]) for name, _ in settings.shape() if name not in resolved]
        # These settle while the pointers are resolved: registers, to keep the subtractions out of the hand-over.
        row_back = Signal.like(settings.row_back, reset_less=True)
        row_threshold = Signal.like(settings.row_threshold, reset_less=True)
        m.d.sync += [
            row_back.eq((row.row_step - (row.source_end - row.source_start)) >> group_bits),
            row_threshold.eq((row.source_end - row.row_step) >> group_bits),
        ]
        taken = Signal()
        context = Signal()
        m.d.comb += [
            settings.source.eq(sequencer.o_source >> group_bits),
            settings.row_step.eq(row.row_step >> group_bits),
            settings.row_back.eq(row_back),
            settings.row_threshold.eq(row_threshold),
            issuer.i_valid.eq(sequencer.o_row_valid),
            issuer.i_context.eq(context),
            taken.eq(issuer.i_valid & issuer.o_ready),
            sequencer.i_row_taken.eq(taken),
            sequencer.i_row_end.eq(issuer.o_end),
        ]
        with m.If(taken):
            m.d.sync += context.eq(~context)
        with m.If(reset):
            m.d.sync += context.eq(0)
        # The later stages have time: their copies are made a cycle later, and the hand-over drives few registers.
        late_context = Signal()
        late_taken = Signal()
        m.d.sync += [late_taken.eq(taken), late_context.eq(context)]
        self._build_contexts(m, late_taken, late_context)
        return issuer

    def _build_contexts(self, m: Module, taken: Value, context: Value) -> None:
        sequencer = self._sequencer
        row, add, pool = sequencer.o_row, sequencer.o_add, sequencer.o_pool
        self._writer = writer = ResultWriter(self._architecture)
        self._adder = adder = ResidualAdder(
            self._architecture.lanes_out, rate=self._architecture.adders, family=self._architecture.family
        )
        self._reader = reader = ResidualReader(self._architecture)
        self._pooler = pooler = Pooler(self._architecture.lanes_out, self._architecture.groups_per_word)
        self._adds, self._combines = Signal(CONTEXT_COUNT), Signal(CONTEXT_COUNT)
        self._requantiser_settings = Signal(data.ArrayLayout(requantiser.SETTINGS, CONTEXT_COUNT), reset_less=True)
        targets = Signal.like(writer.settings, reset_less=True)
        additions = Signal.like(adder.settings, reset_less=True)
        pools = Signal.like(pooler.settings, reset_less=True)
        m.d.comb += [writer.settings.eq(targets), adder.settings.eq(additions), pooler.settings.eq(pools)]
        extra_groups = Mux(row.depthwise, self._architecture.groups_per_word - 1, 0)
        stored_columns = Mux(row.pool, pool.pool_columns, row.columns)
        for index in range(CONTEXT_COUNT):
            with m.If(taken & (context == index)):
                m.d.sync += [
                    self._adds[index].eq(row.add),
                    self._combines[index].eq(row.pool & pool.combine),
                    *[self._requantiser_settings[index][name].eq(row[name]) for name, _ in requantiser.SETTINGS],
                    pools[index].columns.eq(row.columns),
                    pools[index].depthwise.eq(row.depthwise),
                    pools[index].pool_window.eq(Mux(row.pool, pool.pool_window, 1)),
                    pools[index].pool_stride.eq(Mux(row.pool, pool.pool_stride, 1)),
                    pools[index].pool_first.eq(Mux(row.pool, pool.pool_first, 0)),
                    pools[index].pool_columns.eq(stored_columns),
                    targets[index].target.eq(sequencer.o_target),
                    targets[index].target_pixel_step.eq(row.target_pixel_step - extra_groups),
                    targets[index].depthwise.eq(row.depthwise),
                    targets[index].columns.eq(stored_columns),
                    targets[index].groups.eq(row.groups),
                    targets[index].copy.eq(row.pool & pool.copy),
                    targets[index].copy_distance.eq(sequencer.o_third - sequencer.o_target),
                    additions[index].result_zero.eq(row.target_zero),
                    *[
                        additions[index][name].eq(add[name])
                        for name, _ in residual_adder.SETTINGS
                        if name != "result_zero"
                    ],
                ]
        m.d.comb += [
            reader.i_start.eq(taken & (row.add | (row.pool & pool.combine))),
            reader.i_settings.residual.eq(Mux(row.add, sequencer.o_third, sequencer.o_target)),
            reader.i_settings.residual_pixel_step.eq(Mux(row.add, add.residual_pixel_step, row.target_pixel_step)),
            reader.i_settings.columns.eq(stored_columns),
            reader.i_settings.groups.eq(row.groups),
        ]

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
        m.d.sync += [
            write.enable.eq(self.weight_enable),
            write.data.eq(self.weight_data),
        ]
        if len(self.weight_address) == len(fields):
            m.d.sync += fields.eq(self.weight_address)
        else:  # one chunk in a lane's word: the chunk field exists but counts nothing
            m.d.sync += [write.chunk.eq(0), Cat(write.lane, write.address).eq(self.weight_address)]

        self._lanes = []
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
            self._lanes.append(unit)
        if architecture.depthwise_columns:
            self._build_depthwise(m, first_control)

    def _build_depthwise(self, m: Module, control: data.View) -> None:
        """Column products from the first lanes, complete sums to all of them."""
        architecture = self._architecture
        unit = DepthwiseSums(architecture, lane.sum_latency(architecture))
        m.submodules.depthwise = unit
        m.d.comb += unit.i_control.eq(control)
        for index in range(architecture.depthwise_columns):
            m.d.comb += unit.i_products[index].eq(self._lanes[index].o_products)
        share = architecture.lanes_out // architecture.requantisers
        for index, each in enumerate(self._lanes):
            m.d.comb += each.i_sum.eq(unit.o_sums[index // share])

    def _build_results(self, m: Module) -> None:
        """Requantise, gather the skewed lanes into a group, add, write."""
        architecture = self._architecture
        share = architecture.lanes_out // architecture.requantisers
        last = architecture.lanes_out - 1
        channels = []
        for index in range(architecture.requantisers):
            lanes = self._lanes[index * share : (index + 1) * share]
            unit = Requantiser(share, family=architecture.family)
            m.submodules[f"requantiser_{index}"] = unit
            m.d.comb += unit.settings.eq(self._requantiser_settings)
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

        group = Cat(*channels)
        final = self._lanes[-1]
        valid = Signal()
        context = Signal()
        m.d.comb += [
            Cat(valid).eq(delayed(m, final.o_valid, requantiser.LATENCY, name="group_valid", reset=True)),
            Cat(context).eq(delayed(m, final.o_context, requantiser.LATENCY, name="group_context")),
        ]
        self._build_write(m, group, valid, context)

    def _build_write(self, m: Module, group: Value, valid: Value, context: Value) -> None:
        """Pool, then add a residual or combine with the target, then write."""
        buffer, pooler, adder, reader = self._buffer, self._pooler, self._adder, self._reader
        writer = self._writer
        m.submodules.pooler = self._core(pooler)
        m.submodules.adder = adder
        m.submodules.residual_reader = self._core(reader)
        m.submodules.writer = self._core(writer)
        add = self._adds.bit_select(pooler.o_context, 1)
        combine = self._combines.bit_select(pooler.o_context, 1)
        residual = data.View(pooler.o_group.shape(), reader.o_group)
        # One register behind the pooler for everything that is not added.
        combined, plain = (Signal(len(group), name=name, reset_less=True) for name in ("combined", "plain"))
        combined_context = Signal(reset_less=True)
        larger = Cat(*pooling.maximum(pooler.o_group, residual, self._architecture.lanes_out))
        m.d.sync += [
            combined.eq(Mux(combine, larger, pooler.o_group.as_value())),
            plain.eq(pooler.o_group.as_value()),
            combined_context.eq(pooler.o_context),
        ]
        combined_valid = delayed(m, pooler.o_valid & ~add, 1, name="combined_valid", reset=True)
        m.d.comb += [
            pooler.i_valid.eq(valid),
            pooler.i_context.eq(context),
            pooler.i_group.as_value().eq(group),
            adder.i_valid.eq(pooler.o_valid & add),
            adder.i_context.eq(pooler.o_context),
            adder.i_result.eq(pooler.o_group),
            adder.i_residual.eq(residual),
            reader.i_take.eq(pooler.o_valid & (add | combine)),
            buffer.residual_valid.eq(reader.o_valid),
            buffer.residual_address.eq(reader.o_address),
            reader.i_ready.eq(buffer.residual_ready),
            reader.i_done.eq(buffer.residual_done),
            reader.i_word.eq(buffer.shared_word),
            # A ROW with an addition and one without are never in flight together.
            writer.i_valid.eq(combined_valid | adder.o_valid),
            writer.i_context.eq(Mux(adder.o_valid, adder.o_context, combined_context)),
            writer.i_group.eq(Mux(adder.o_valid, adder.o_sum.as_value(), combined)),
            writer.i_copy.eq(plain),
            buffer.write_valid.eq(writer.o_valid),
            buffer.write_address.eq(writer.o_address),
            buffer.write_group.eq(writer.o_group),
            self._sequencer.i_row_done.eq(writer.o_done),
        ]


def write_latency(architecture: Architecture, *, add: bool = False, copy: bool = False, depthwise: bool = False) -> int:
    """Cycles from a ROW's last tap in the issuer to the write of its last group: the sum of the stages above."""
    sums = lane.sum_latency(architecture)
    if depthwise:
        others = (architecture.groups_per_word - 1) * architecture.lanes_out // architecture.requantisers
        sums = lane.depthwise_latency(architecture) + others
    array = row_issuer.LATENCY + activation_buffer.READ_LATENCY + 1 + architecture.lanes_out - 1
    result = sums + requantiser.LATENCY + pooling.LATENCY
    last = residual_adder.latency(architecture.lanes_out, architecture.adders) if add else 1
    return array + result + last + result_writer.LATENCY + copy
