"""From requantised groups to the activation buffer: maxima, residual sums, writes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH
from emberline.gateware import pooler as pooling
from emberline.gateware import requantiser, residual_adder, residual_reader, result_writer
from emberline.gateware.pooler import Pooler
from emberline.gateware.residual_adder import ResidualAdder
from emberline.gateware.residual_reader import ResidualReader
from emberline.gateware.result_writer import ResultWriter
from emberline.gateware.sequencer import ROW_AND_MORE
from emberline.gateware.structures import copies, delayed, structure

MEET_LATENCY = 2
"""Cycles from a pooled group to it and its residual side by side."""

COMBINE_LATENCY = MEET_LATENCY + 2
"""Cycles from a pooled group to the larger of it and what the target holds."""

ADDITION_COPIES = 4
"""Enables of an addition's settings, so that none has too many of them."""

CONTEXT_COUNT = 2
"""ROWs in flight: the one whose taps are walked and the one whose results are under way."""

PREPARED = data.StructLayout(
    {
        "combines": 1,
        "target": result_writer.SETTINGS,
        "pooled": pooling.SETTINGS,
        "reading": residual_reader.SETTINGS,
    }
)
"""Settings of a fetched ROW."""


class ResultPath(wiring.Component):
    """What happens to groups behind the requantisers, and the settings of the ROWs in flight that decide about it.

    The stages have time: their settings are copied in the two cycles behind the hand-over, part by part. Two ROWs have
    settings, each in its context.

    Members:
        row, add, pool, target, third, pair: a fetched ROW, as the sequencer gives it, and whether it computes two rows;
            there from some cycles before ``taken`` until two behind it.
        taken, taken_context: it is handed over, and to which context.
        requantisers: the part of the settings that the requantisers need.
        i_valid, i_context, i_group: a group of ``lanes_out`` bytes and its ROW's context.
        residual_*, write_*: `ActivationBuffer`; ``residual_word`` is its ``shared_word``.
        o_done: with a ROW's last write.
        reset: forgets what is under way.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._word_groups = architecture.groups_per_word
        group = 8 * architecture.lanes_out
        words = range(architecture.activation_depth_words)
        super().__init__(
            {
                "row": In(ROW_AND_MORE["row"].shape),
                "add": In(structure(isa.ADD)),
                "pool": In(structure(isa.POOL)),
                "target": In(ADDRESS_WIDTH),
                "third": In(ADDRESS_WIDTH),
                "pair": In(1),
                "taken": In(1),
                "taken_context": In(1),
                "requantisers": Out(data.ArrayLayout(requantiser.SETTINGS, CONTEXT_COUNT)),
                "i_valid": In(1),
                "i_context": In(1),
                "i_group": In(group),
                "residual_valid": Out(1),
                "residual_ready": In(1),
                "residual_address": Out(words),
                "residual_done": In(1),
                "residual_word": In(8 * architecture.lanes_in),
                "write_valid": Out(1),
                "write_address": Out(range(architecture.activation_depth_groups)),
                "write_group": Out(group),
                "o_done": Out(1),
                "reset": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._keep_settings(m)
        self._pass_groups(m)
        return m

    def _prepare(self, m: Module) -> data.View:
        """The fetched ROW's settings on half of the way to the contexts, which lie far from the sequencer.

        Fields are there when a ROW is taken, but for those that follow from its addresses: one cycle behind that
        ``copy_distance`` and what is read, two cycles behind it ``target_pixel_step`` and ``second_step``.
        """
        row, add, pool = self.row, self.add, self.pool
        single, double = self._word_groups - 1, 2 * self._word_groups - 1
        prepared = Signal(PREPARED, reset_less=True)
        target, pooled, reading = prepared.target, prepared.pooled, prepared.reading
        stored_columns = Signal(12, reset_less=True)
        word_step = Signal(ADDRESS_WIDTH, reset_less=True)
        m.d.sync += [
            stored_columns.eq(Mux(row.pool, pool.pool_columns, row.columns)),
            word_step.eq(row.target_pixel_step - Mux(row.depthwise, single, 0)),
            prepared.combines.eq(row.pool & pool.combine),
            target.target.eq(self.target),
            target.target_pixel_step.eq(word_step - Mux(self.pair, target.copy_distance, 0)),
            target.depthwise.eq(row.depthwise),
            target.column_groups.eq(Mux(row.depthwise, Mux(self.pair, double, single), 0)),
            target.pair.eq(self.pair),
            target.second_step.eq(target.copy_distance - single),
            target.columns.eq(stored_columns - 2),
            target.groups.eq(row.groups - 2),
            target.copy.eq(row.pool & pool.copy & ~row.depthwise),
            target.copy_distance.eq(self.third - self.target),
            pooled.single.eq(row.columns == 1),
            pooled.columns.eq(row.columns - 3),
            pooled.column_groups.eq(target.column_groups),
            pooled.window.eq(Mux(row.pool, pool.pool_window - 1, 0)),
            pooled.stride.eq(Mux(row.pool, pool.pool_stride - 2, -1)),
            pooled.first.eq(Mux(row.pool, pool.pool_first - 1, -1)),
            pooled.pool_columns.eq(stored_columns - 1),
            reading.residual.eq(Mux(row.add, self.third, self.target)),
            reading.residual_pixel_step.eq(Mux(row.add, add.residual_pixel_step, row.target_pixel_step)),
            reading.columns.eq(target.columns),
            reading.groups.eq(target.groups),
        ]
        return prepared

    def _keep_settings(self, m: Module) -> None:
        """The settings of the ROWs in flight, each in its context."""
        row, taken, architecture = self.row, self.taken, self._architecture
        self._writer = writer = ResultWriter(architecture)
        self._adder = adder = ResidualAdder(
            architecture.lanes_out, rate=architecture.adders, family=architecture.family
        )
        self._reader = reader = ResidualReader(architecture)
        self._pooler = pooler = Pooler(architecture.lanes_out, self._word_groups * (1 + architecture.pairs_rows))
        self._adds, self._combines = Signal(CONTEXT_COUNT), Signal(CONTEXT_COUNT)
        requantisers, targets, additions, pools = (
            Signal.like(settings, name=name, reset_less=True)
            for settings, name in (
                (self.requantisers, "requantisers"),
                (writer.settings, "targets"),
                (adder.settings, "additions"),
                (pooler.settings, "pools"),
            )
        )
        m.d.comb += [
            self.requantisers.eq(requantisers),
            writer.settings.eq(targets),
            adder.settings.eq(additions),
            pooler.settings.eq(pools),
        ]
        prepared = self._prepare(m)
        addition = Cat(
            row.target_zero if name == "result_zero" else self.add[name] for name, _ in residual_adder.SETTINGS
        )
        share = -(-len(addition) // ADDITION_COPIES)
        for index in range(CONTEXT_COUNT):
            first, second = (Signal(name=f"copy_{part}_{index}") for part in range(2))
            m.d.sync += [first.eq(taken & (self.taken_context == index)), second.eq(first)]
            with m.If(first):
                m.d.sync += [
                    self._adds[index].eq(row.add),
                    self._combines[index].eq(prepared.combines),
                    *[requantisers[index][name].eq(row[name]) for name, _ in requantiser.SETTINGS],
                    pools[index].eq(prepared.pooled),
                ]
            with m.If(second):
                m.d.sync += targets[index].eq(prepared.target)
            thirds = copies(m, second, ADDITION_COPIES, family=architecture.family, name=f"copy_third_{index}")
            for each, third in enumerate(thirds):
                part = slice(each * share, min(len(addition), (each + 1) * share))
                with m.If(third):
                    m.d.sync += additions[index].as_value()[part].eq(addition[part])
        m.d.comb += [
            reader.i_start.eq(delayed(m, taken, 1, name="taken") & (row.add | prepared.combines)),
            reader.i_settings.eq(prepared.reading),
        ]

    def _pass_groups(self, m: Module) -> None:
        """Pool, then add a residual or combine with the target, then write."""
        pooler, adder, reader, writer = self._pooler, self._adder, self._reader, self._writer
        reset = ResetInserter(self.reset)
        m.submodules.pooler = reset(pooler)
        m.submodules.adder = adder
        m.submodules.residual_reader = reset(reader)
        m.submodules.writer = reset(writer)
        m.d.comb += [
            pooler.i_valid.eq(self.i_valid),
            pooler.i_context.eq(self.i_context),
            pooler.i_group.as_value().eq(self.i_group),
        ]
        # Cycle 1: what happens to the group
        add = self._adds.bit_select(pooler.o_context, 1)
        combine = self._combines.bit_select(pooler.o_context, 1)
        added, passed, taken = (
            delayed(m, value, 1, name=name, reset=True)
            for value, name in (
                (pooler.o_valid & add, "added"),
                (pooler.o_valid & ~add, "passed"),
                (pooler.o_valid & (add | combine), "met"),
            )
        )
        combine = delayed(m, combine, 3, name="combine")
        met_context = delayed(m, pooler.o_context, 2, name="met_context")
        result = delayed(m, pooler.o_group.as_value(), 2, name="result")
        # Cycle 2: the residual
        residual = delayed(m, reader.o_group, 1, name="residual")
        # Cycle 3: compare; 4: choose
        shape = pooler.o_group.shape()
        larger = Signal(self._architecture.lanes_out, reset_less=True)
        m.d.sync += larger.eq(pooling.larger_channels(data.View(shape, residual), data.View(shape, result)))
        kept, other = delayed(m, result, 1, name="kept"), delayed(m, residual, 1, name="other")
        combined, plain = (Signal(len(self.i_group), name=name, reset_less=True) for name in ("combined", "plain"))
        m.d.sync += plain.eq(kept)
        for each in range(len(larger)):
            part = slice(8 * each, 8 * each + 8)
            m.d.sync += combined[part].eq(Mux(combine & larger[each], other[part], kept[part]))
        # Cycle 5: a sum or not. A ROW with an addition and one without are never in flight together.
        written = Signal(len(self.i_group), reset_less=True)
        m.d.sync += written.eq(Mux(adder.o_valid, adder.o_sum.as_value(), combined))
        passed = delayed(m, passed, COMBINE_LATENCY - 1, name="passed_on", reset=True)
        m.d.comb += [
            adder.i_valid.eq(delayed(m, added, 1, name="adds", reset=True)),
            adder.i_context.eq(met_context),
            adder.i_result.as_value().eq(result),
            adder.i_residual.as_value().eq(residual),
            reader.i_take.eq(taken),
            self.residual_valid.eq(reader.o_valid),
            self.residual_address.eq(reader.o_address),
            reader.i_ready.eq(self.residual_ready),
            reader.i_done.eq(self.residual_done),
            reader.i_word.eq(self.residual_word),
            writer.i_valid.eq(delayed(m, passed | adder.o_valid, 1, name="written_valid", reset=True)),
            writer.i_group.eq(written),
            writer.i_copy.eq(delayed(m, plain, 1, name="written_plain")),
            self.write_valid.eq(writer.o_valid),
            self.write_address.eq(writer.o_address),
            self.write_group.eq(writer.o_group),
            self.o_done.eq(writer.o_done),
        ]
