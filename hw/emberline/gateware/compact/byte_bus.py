"""The compact accelerator behind a bus of eight bits: for a microcontroller beside an FPGA without room for packets."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from emberline.arch.architecture import Architecture
from emberline.gateware.machine import accelerator


class Kind(enum.Enum, shape=2):
    """What a byte on the bus is."""

    COMMAND = 0
    """Strobes, from bit 0: clear, start, frame_commit, frame_abort, result_start, result_release."""
    PROGRAM = 1
    """The next byte of the instruction memory."""
    WEIGHT = 2
    """The next byte of the weight image."""
    FRAME = 3
    """The next byte of a frame. Rows are committed one by one, each with its last byte."""


STROBES = ("clear", "start", "frame_commit", "frame_abort", "result_start", "result_release")

TRANSFER = data.StructLayout({"byte": 8, "kind": Kind})


class ByteBus(wiring.Component):
    """The link's commands as single bytes, synchronous to the accelerator's clock and without checks.

    Parameters: ``architecture``.

    Members:
        i: bytes and their kinds. ``COMMAND`` sets the place of the next program or weight byte to 0. Frame bytes wait
            while there is no room for their row, all others are taken at once.
        o: the bytes of a result, after each ``result_start``.
        running, faulted: the machine's state. result_valid: a frame's result waits to be read and released.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "i": In(stream.Signature(TRANSFER)),
                "o": Out(stream.Signature(8)),
                "running": Out(1),
                "faulted": Out(1),
                "result_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.accelerator = core = accelerator(self._architecture)
        connect(m, core.o_result, flipped(self.o))
        kind, byte = self.i.payload.kind, self.i.payload.byte
        taken = Signal()
        place = Signal(len(core.weight_address) + 2)
        word = Signal(24)
        command = Signal(len(STROBES))
        program, weight = Signal(), Signal()
        m.d.comb += [
            core.i_frame.payload.eq(byte),
            core.i_frame.valid.eq(self.i.valid & (kind == Kind.FRAME)),
            self.i.ready.eq((kind != Kind.FRAME) | core.i_frame.ready),
            taken.eq(self.i.valid & self.i.ready),
            core.program_data.eq(Cat(word, byte)),
            core.weight_data.eq(Cat(word, byte)),
            core.program_address.eq(place[2:]),
            core.weight_address.eq(place[2:]),
            core.program_enable.eq(program),
            core.weight_enable.eq(weight),
            *[getattr(core, name).eq(command[index]) for index, name in enumerate(STROBES)],
            self.running.eq(core.running),
            self.result_valid.eq(core.result_valid),
        ]
        m.d.sync += self.faulted.eq(core.fault != 0)
        with m.If(taken & (kind == Kind.COMMAND)):
            m.d.comb += command.eq(byte)
            m.d.sync += place.eq(0)
        with m.Elif(taken & (kind != Kind.FRAME)):
            m.d.sync += [place.eq(place + 1), word.eq(Cat(word, byte)[8:])]
            m.d.comb += [
                program.eq((kind == Kind.PROGRAM) & (place[:2] == 3)),
                weight.eq((kind == Kind.WEIGHT) & (place[:2] == 3)),
            ]
        return m
