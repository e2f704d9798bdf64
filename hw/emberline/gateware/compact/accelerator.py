"""The compact accelerator: sequencer, walker, array, requantiser and one memory for weights and activations."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from emberline.arch.architecture import Architecture
from emberline.gateware.compact.array import CompactArray
from emberline.gateware.compact.frame_writer import CompactFrameWriter
from emberline.gateware.compact.requantiser import SerialRequantiser
from emberline.gateware.compact.sequencer import CompactSequencer
from emberline.gateware.compact.walker import CompactWalker
from emberline.gateware.link.core_ports import CoreSignature
from emberline.gateware.result_reader import ResultReader
from emberline.gateware.single_port_memory import SinglePortMemory
from emberline.gateware.structures import delayed


class CompactAccelerator(wiring.Component):
    """Runs the programs of an architecture with ``weight_cache_words``, one ROW, one group of it at a time.

    Weights lie at the start of the memory, activations at its end and backwards: an activation's address is that of
    the memory with all bits inverted. In each cycle one of these has the memory: a weight write of the host, who
    writes only while no program runs; the walker; a group of results; a residual read; a frame byte; a result read.

    Members: `emberline.gateware.link.core_ports.CoreSignature`, from the accelerator's side.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__({name: member.flip() for name, member in CoreSignature(architecture).members.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        core = ResetInserter(self.clear)
        self._sequencer, self._walker = CompactSequencer(architecture), CompactWalker(architecture)
        self._array, self._requantiser = CompactArray(architecture), SerialRequantiser(architecture)
        self._frame, self._result = CompactFrameWriter(architecture), ResultReader(architecture)
        m.submodules.sequencer = core(self._sequencer)
        m.submodules.walker = core(self._walker)
        m.submodules.array = core(self._array)
        m.submodules.requantiser = core(self._requantiser)
        m.submodules.frame_writer = core(self._frame)
        m.submodules.result_reader = core(self._result)
        m.submodules.memory = self._memory = SinglePortMemory(
            architecture.lanes_in, architecture.memory_words, family=architecture.family
        )
        self._connect_host(m)
        self._connect_row(m)
        self._connect_memory(m)
        return m

    def _connect_host(self, m: Module) -> None:
        sequencer, frame, result = self._sequencer, self._frame, self._result
        connect(m, flipped(self.i_frame), frame.i_bytes)
        connect(m, result.o_bytes, flipped(self.o_result))
        m.d.comb += [
            sequencer.write_enable.eq(self.program_enable),
            sequencer.write_address.eq(self.program_address),
            sequencer.write_data.eq(self.program_data),
            sequencer.start.eq(self.start),
            sequencer.result_release.eq(self.result_release),
            self.running.eq(sequencer.running),
            self.fault.eq(sequencer.fault),
            self.frames_done.eq(sequencer.frames_done),
            self.result_valid.eq(sequencer.result_valid),
            self.cycles.eq(sequencer.cycles),
            self.stall_cycles.eq(sequencer.stall_cycles),
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
            result.settings.eq(sequencer.o_result),
            result.i_configure.eq(sequencer.o_result_configure),
            result.i_start.eq(self.result_start),
            self.result_bytes.eq(result.o_size),
        ]

    def _connect_row(self, m: Module) -> None:
        sequencer, walker, array, requantiser = self._sequencer, self._walker, self._array, self._requantiser
        word = self._memory.read_word
        inside = delayed(m, walker.o_inside, 1, name="inside")
        loaded = delayed(m, Cat(walker.o_load, walker.o_load_parameter), 1, name="loaded", reset=True)
        place = delayed(m, Cat(walker.o_load_lane, walker.o_word), 1, name="place")
        lane_bits = len(walker.o_load_lane)
        m.d.comb += [
            walker.i_row.eq(sequencer.o_row),
            walker.i_source.eq(sequencer.o_source),
            walker.i_start.eq(sequencer.o_row_start),
            walker.i_written.eq(requantiser.i_accept),
            sequencer.i_row_done.eq(walker.o_done),
            sequencer.i_next_group.eq(walker.o_next_group),
            sequencer.i_rotate.eq(requantiser.o_rotate),
            array.i_tap.eq(walker.o_tap),
            array.i_word.eq(walker.o_word),
            array.i_last.eq(walker.o_last),
            array.i_activation.eq(
                Mux(inside, word, sequencer.o_row.source_zero.as_unsigned().replicate(self._architecture.lanes_in))
            ),
            array.i_load.eq(loaded[0] & ~loaded[1]),
            array.i_load_lane.eq(place[:lane_bits]),
            array.i_load_word.eq(place[lane_bits:]),
            array.i_load_data.eq(word),
            requantiser.i_row.eq(sequencer.o_row),
            requantiser.i_add.eq(sequencer.o_add),
            requantiser.i_parameter.eq(loaded[0] & loaded[1]),
            requantiser.i_parameter_index.eq(place),
            requantiser.i_parameter_data.eq(word),
            requantiser.i_sums.eq(array.o_sums),
            requantiser.i_start.eq(array.o_done),
            requantiser.i_residual.eq(word),
        ]

    def _connect_memory(self, m: Module) -> None:
        """Who has the memory, and where groups are written and residuals read."""
        sequencer, walker, requantiser = self._sequencer, self._walker, self._requantiser
        frame, result, memory = self._frame, self._result, self._memory
        row = sequencer.o_row
        target, residual = Signal.like(walker.o_address), Signal.like(walker.o_address)
        wants_residual = Signal()
        with m.If(walker.o_last & row.add):
            m.d.sync += wants_residual.eq(1)
        reads = Signal(2)  # residual, result: their words come in the next cycle
        m.d.sync += reads.eq(0)
        m.d.comb += [
            requantiser.i_residual_valid.eq(reads[0]),
            result.i_done.eq(reads[1]),
            result.i_word.eq(memory.read_word),
            memory.write_word.eq(self.weight_data),
        ]

        def activation(address: Value) -> Value:
            wide = Signal.like(memory.address)
            m.d.comb += wide.eq(address)
            return ~wide

        with m.If(self.weight_enable):
            m.d.comb += [memory.address.eq(self.weight_address), memory.write_bytes.eq(~0)]
        with m.Elif(walker.o_tap):
            m.d.comb += memory.address.eq(activation(walker.o_address))
        with m.Elif(walker.o_load):
            m.d.comb += memory.address.eq(walker.o_load_address)
        with m.Elif(requantiser.o_valid):
            m.d.comb += [
                memory.address.eq(activation(target)),
                memory.write_bytes.eq(~0),
                memory.write_word.eq(requantiser.o_group),
                requantiser.i_accept.eq(1),
            ]
            m.d.sync += target.eq(target + row.target_pixel_step)
        with m.Elif(wants_residual):
            m.d.comb += memory.address.eq(activation(residual))
            m.d.sync += [
                residual.eq(residual + sequencer.o_add.residual_pixel_step),
                wants_residual.eq(0),
                reads[0].eq(1),
            ]
        with m.Elif(frame.o_valid):
            m.d.comb += [
                memory.address.eq(activation(frame.o_address)),
                memory.write_bytes.eq(frame.o_enable),
                memory.write_word.eq(frame.o_byte.replicate(len(memory.write_bytes))),
                frame.i_ready.eq(1),
            ]
        with m.Elif(result.o_valid):
            m.d.comb += [memory.address.eq(activation(result.o_address)), result.i_ready.eq(1)]
            m.d.sync += reads[1].eq(1)
        with m.If(walker.o_begin):
            m.d.sync += [target.eq(sequencer.o_target), residual.eq(sequencer.o_residual)]
        with m.If(self.clear):
            m.d.sync += [wants_residual.eq(0), reads.eq(0)]
