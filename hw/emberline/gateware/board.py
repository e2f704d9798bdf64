"""Top levels: the accelerator with its link, for the simulator and for boards with a serial line."""

from __future__ import annotations

from dataclasses import replace

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.gateware.link.core_ports import connect_core
from emberline.gateware.link.host_link import HostLink
from emberline.gateware.link.uart import UartReceiver, UartTransmitter, divisor
from emberline.gateware.machine import accelerator
from emberline.gateware.weight_source import flash_members

SIMULATION_SILENCE_CYCLES = 20_000
"""A simulated host does not pause inside a packet."""

SILENCE_SECONDS = 0.05
"""A host's operating system and its serial adapter may pause for some milliseconds."""


def connect_flashes(m: Module, core: wiring.Component, top: wiring.Component, architecture: Architecture) -> None:
    """The lines of the flashes that there are."""
    for name in flash_members(architecture):
        wiring.connect(m, getattr(core, name), wiring.flipped(getattr(top, name)))


class SimulationTop(wiring.Component):
    """The accelerator and its link as a simulator sees them: without vendor primitives.

    Parameters: ``architecture``; ``silence_cycles``, the pause inside a packet after which it is given up.

    Members: ``i_bytes``, ``o_bytes``: the host's byte streams. ``flash``, ``second_flash``, if weights may come from
    there: their lines.
    """

    def __init__(self, architecture: Architecture, *, silence_cycles: int = SIMULATION_SILENCE_CYCLES) -> None:
        self._architecture = replace(architecture, family="generic")
        self._silence_cycles = silence_cycles
        super().__init__(
            {"i_bytes": In(stream.Signature(8)), "o_bytes": Out(stream.Signature(8)), **flash_members(architecture)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.accelerator = core = accelerator(self._architecture)
        m.submodules.link = link = HostLink(self._architecture, silence_cycles=self._silence_cycles)
        connect_core(m, link.core, core)
        wiring.connect(m, wiring.flipped(self.i_bytes), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o_bytes))
        connect_flashes(m, core, self, self._architecture)
        return m


class UartTop(wiring.Component):
    """The accelerator behind a serial line.

    Parameters: ``architecture`` (its ``clock_hz`` and ``uart_baud`` set the line's speed).

    Members:
        rx, tx: the line, seen from the board.
        running, faulted: the machine's state. active: a packet byte is travelling in either direction.
        flash, second_flash: the lines of the board's configuration flash and of another one, if weights may come from
            there.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "running": Out(1),
                "faulted": Out(1),
                "active": Out(1),
                **flash_members(architecture),
            }
        )

    def elaborate(self, platform: object) -> Module:
        architecture = self._architecture
        bit_cycles = divisor(architecture.clock_hz, architecture.uart_baud)
        silence_cycles = max(round(architecture.clock_hz * SILENCE_SECONDS), 40 * bit_cycles)
        m = Module()
        m.submodules.accelerator = core = accelerator(architecture)
        m.submodules.link = link = HostLink(architecture, silence_cycles=silence_cycles)
        m.submodules.receiver = receiver = UartReceiver(bit_cycles)
        m.submodules.transmitter = transmitter = UartTransmitter(bit_cycles)
        connect_core(m, link.core, core)
        wiring.connect(m, receiver.o, link.i)
        wiring.connect(m, link.o, transmitter.i)
        connect_flashes(m, core, self, architecture)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            link.line_error.eq(receiver.error),
        ]
        m.d.sync += [
            self.running.eq(core.running),
            self.faulted.eq(core.fault != 0),
            self.active.eq(~self.rx | ~self.tx),
        ]
        return m
