"""The whole link: bytes on one side, the accelerator on the other."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.gateware.link.command import Command
from emberline.gateware.link.core_ports import CoreSignature
from emberline.gateware.link.packet_receiver import PacketReceiver
from emberline.gateware.link.packet_transmitter import PacketTransmitter
from emberline.gateware.link.stream_register import StreamRegister


class HostLink(wiring.Component):
    """Receives requests, executes them on the accelerator and sends responses (`docs/protocol.md`).

    Parameters: ``architecture``; ``silence_cycles``, the pause inside a packet after which it is given up.

    Members:
        i, o: bytes from and to the host.
        line_error: strobe: the byte stream lost a byte; only counted.
        core: the accelerator.

    No block RAM. Takes one byte in each cycle of a payload; ``i`` is held while a request is executed and its response
    is sent.
    """

    def __init__(self, architecture: Architecture, *, silence_cycles: int) -> None:
        self._architecture = architecture
        self._silence_cycles = silence_cycles
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "line_error": In(1),
                "core": Out(CoreSignature(architecture)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = PacketReceiver(self._silence_cycles)
        m.submodules.command = command = Command(self._architecture)
        m.submodules.transmitter = transmitter = PacketTransmitter()
        wiring.connect(m, wiring.flipped(self.i), receiver.i)
        wiring.connect(m, receiver.o_header, command.i_header)
        m.submodules.payload_in = payload_in = StreamRegister()
        m.submodules.payload_out = payload_out = StreamRegister()
        wiring.connect(m, receiver.o_payload, payload_in.i)
        wiring.connect(m, payload_in.o, command.i_payload)
        wiring.connect(m, receiver.o_end, command.i_end)
        wiring.connect(m, command.o_header, transmitter.i_header)
        wiring.connect(m, command.o_payload, payload_out.i)
        wiring.connect(m, payload_out.o, transmitter.i_payload)
        wiring.connect(m, transmitter.o, wiring.flipped(self.o))
        wiring.connect(m, command.core, wiring.flipped(self.core))
        m.d.comb += [command.header_error.eq(receiver.header_error), command.line_error.eq(self.line_error)]
        return m
