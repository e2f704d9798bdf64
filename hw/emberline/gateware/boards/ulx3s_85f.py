"""Radiona ULX3S with an LFE5U-85F: serial line over its FTDI, clock from its 25 MHz oscillator."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, Pins, PinsN, Resource, Subsignal
from amaranth.hdl import ClockDomain, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from emberline.arch.architecture import Architecture
from emberline.arch.flash import flash_count
from emberline.gateware.board import UartTop
from emberline.gateware.ecp5.pll import Pll

CONFIGURATION_FLASH = Resource(
    "configuration_flash",
    0,
    Subsignal("select", PinsN("R2", dir="o")),
    Subsignal("data", Pins("W2 V2 Y2 W1", dir="io")),
    Attrs(PULLMODE="NONE", DRIVE="4", IO_TYPE="LVCMOS33"),
)
"""All four data lines of the flash, which the board's own description has as lines of one direction. Its clock has no
pin of its own: it is the one of the configuration, USRMCLK."""

SECOND_FLASH = Resource(
    "second_flash",
    0,
    Subsignal("select", PinsN("0+", conn=("gpio", 0), dir="o")),
    Subsignal("clock", Pins("0-", conn=("gpio", 0), dir="o")),
    Subsignal("data", Pins("1+ 1- 2+ 2-", conn=("gpio", 0), dir="io")),
    Attrs(PULLMODE="NONE", DRIVE="4", IO_TYPE="LVCMOS33"),
)
"""A flash like the first one at the header J1, on GP0 to GN2."""

OSCILLATOR_HZ = 25_000_000
ACTIVITY_WIDTH = 22
"""A byte on the line lights its LED for 2^22 cycles."""


class Ulx3sTop(wiring.Component):
    """The accelerator on a ULX3S.

    Parameters: ``architecture``.

    LED 0: a program runs. LED 1: the machine has stopped with a fault. LED 2: bytes on the serial line. LED 7: the
    clock runs.

    Where weights may come from the configuration flash, the machine drives its lines; where they come from two, those
    of ``SECOND_FLASH`` too.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__({})

    def elaborate(self, platform: ULX3S_85F_Platform) -> Module:
        m = Module()
        # No reset: registers have their values from the bitstream, and the clock starts when it is good. A reset would
        # be the largest net of the design.
        m.domains.sync = domain = ClockDomain(reset_less=True)
        m.submodules.pll = pll = Pll(OSCILLATOR_HZ, self._architecture.clock_hz)
        m.submodules.top = top = UartTop(self._architecture)
        uart = platform.request("uart", 0, dir="-")
        m.submodules.oscillator = oscillator = io.Buffer("i", platform.request("clk25", 0, dir="-"))
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.submodules.gate = Instance("DCCA", i_CLKI=pll.clock_out, i_CE=pll.locked, o_CLKO=domain.clk)
        m.d.comb += [
            pll.clock_in.eq(oscillator.i),
            top.rx.eq(rx.i),
            tx.o.eq(top.tx),
        ]
        if self._architecture.fetches_from_flash:
            self._lead_out(m, platform, top)
        if flash_count(self._architecture) > 1:
            platform.add_resources([SECOND_FLASH])
            lines = platform.request("second_flash", 0, dir={"select": "-", "clock": "-", "data": "-"})
            clock = io.Buffer("o", lines.clock)
            m.d.comb += clock.o.eq(top.second_flash.clock)
            self._lead_out_lines(m, "second_flash", lines, top.second_flash, clock)
        activity = Signal(ACTIVITY_WIDTH)
        beat = Signal(ACTIVITY_WIDTH + 4)
        m.d.sync += beat.eq(beat + 1)
        with m.If(top.active):
            m.d.sync += activity.eq(~0)
        with m.Elif(activity != 0):
            m.d.sync += activity.eq(activity - 1)
        for index, light in {0: top.running, 1: top.faulted, 2: activity != 0, 7: beat[-1]}.items():
            m.submodules[f"led_{index}"] = led = io.Buffer("o", platform.request("led", index, dir="-"))
            register = Signal(name=f"led_{index}")
            m.d.sync += register.eq(light)
            m.d.comb += led.o.eq(register)
        return m

    def _lead_out(self, m: Module, platform: ULX3S_85F_Platform, top: UartTop) -> None:
        """The flash's lines. Nothing is registered on the way: `QuadSpi` counts its cycles from its own registers."""
        platform.add_resources([CONFIGURATION_FLASH])
        lines = platform.request("configuration_flash", 0, dir={"select": "-", "data": "-"})
        clock = Instance("USRMCLK", i_USRMCLKI=top.flash.clock, i_USRMCLKTS=Const(0))
        self._lead_out_lines(m, "flash", lines, top.flash, clock)

    def _lead_out_lines(self, m: Module, name: str, lines: Any, pins: Any, clock: Elaboratable) -> None:
        m.submodules[f"{name}_select"] = select = io.Buffer("o", lines.select)
        m.submodules[f"{name}_clock"] = clock
        m.d.comb += select.o.eq(pins.select)
        for index in range(len(pins.data_in)):
            m.submodules[f"{name}_data_{index}"] = line = io.Buffer("io", lines.data[index])
            m.d.comb += [
                line.o.eq(pins.data_out[index]),
                line.oe.eq(pins.data_enable[index]),
                pins.data_in[index].eq(line.i),
            ]
