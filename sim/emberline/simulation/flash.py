"""A serial NOR flash in RTL, for machines that are simulated whole: its answers have a real flash's timing."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from emberline.gateware.flash.quad_spi import DOUBLE_READ_COMMAND, READ_COMMAND, FlashPins
from emberline.gateware.weight_source import FLASH_NAMES
from emberline.simulation.plan import WritePort

FLASH_BYTES = 1 << 16
"""Of the simulated flash, unless more are asked for; addresses wrap around."""

FLASH_PORTS = {"flash": WritePort(("flash_write_address", "flash_write_data"), "flash_write_enable")}
"""The source of a bench that writes it."""

IDENTITY = 0xEF7018
"""A Winbond W25Q128JV-DTR."""

SINGLE_IDENTITY = 0xEF4018
"""A Winbond W25Q128JV: without reads at double rate."""

DUMMY_PERIODS = 4
DOUBLE_DUMMY_PERIODS = 7


class SimulatedFlash(wiring.Component):
    """What a Winbond W25Q128JV-DTR does on its six lines when it is reset, identified and read with four lines.

    It sees the lines a cycle late and answers in the next one, well within the data sheet's times; it powers up with
    quad reads forbidden, takes status register 2 as written, and forgets nothing else.

    Parameters:
        size: bytes that it holds, a power of two.

    Members:
        pins: its lines, as the controller has them.
        write_enable, write_address, write_data: puts four bytes at byte ``4 * write_address``.
        identity: what it says it is; 0 is no flash at all.
    """

    def __init__(self, size: int = FLASH_BYTES) -> None:
        self._size = size
        super().__init__(
            {
                "pins": In(FlashPins()),
                "write_enable": In(1),
                "write_address": In(range(size // 4)),
                "write_data": In(32),
                "identity": In(24, init=IDENTITY),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Few wide words: what a simulator takes to build a memory grows with their number.
        m.submodules.memory = memory = Memory(shape=unsigned(64), depth=self._size // 8, init=[])
        write, read = memory.write_port(granularity=32), memory.read_port()
        address, next_address = Signal(24), Signal(24)
        m.d.comb += next_address.eq(address)
        m.d.sync += address.eq(next_address)
        m.d.comb += [
            write.en.eq(Mux(self.write_enable, 1 << self.write_address[0], 0)),
            write.addr.eq(self.write_address[1:]),
            write.data.eq(self.write_data.replicate(2)),
            read.addr.eq(next_address[3:]),
        ]
        clock_before, periods = Signal(), Signal(32)
        rises, falls = self.pins.clock & ~clock_before, ~self.pins.clock & clock_before
        m.d.sync += clock_before.eq(self.pins.clock)
        command, argument, status = Signal(8), Signal(8), Signal(8)
        nibble = Signal()  # the second one of a byte
        answer = Signal(24)
        single, double = command == READ_COMMAND, command == DOUBLE_READ_COMMAND
        takes, gives = Signal(), Signal()  # a nibble of the address, one of the answer
        with m.If(double & status[1]):
            m.d.comb += [
                takes.eq((rises & (periods >= 8) & (periods < 11)) | (falls & (periods > 8) & (periods <= 11))),
                gives.eq((rises | falls) & (periods >= 12 + DOUBLE_DUMMY_PERIODS)),
            ]
        with m.Elif(single & status[1]):
            m.d.comb += [
                takes.eq(rises & (periods >= 8) & (periods < 14)),
                gives.eq(falls & (periods >= 16 + DUMMY_PERIODS)),
            ]
        with m.If(self.pins.select & takes):
            m.d.comb += next_address.eq(Cat(self.pins.data_out, address))
            m.d.sync += nibble.eq(0)
        with m.If(self.pins.select & gives):
            byte = read.data.word_select(address[:3], 8)
            m.d.comb += next_address.eq(address + nibble)
            m.d.sync += [
                self.pins.data_in.eq(Mux(self.identity == 0, 0, Mux(nibble, byte[:4], byte[4:]))),
                nibble.eq(~nibble),
            ]
        with m.If(~self.pins.select):
            m.d.sync += periods.eq(0)
            with m.If((command == 0x31) & (periods == 16)):
                m.d.sync += status.eq(argument)
            with m.If(periods != 0):
                m.d.sync += command.eq(0)
        with m.Elif(rises):
            m.d.sync += periods.eq(periods + 1)
            with m.If(periods < 8):
                m.d.sync += command.eq(Cat(self.pins.data_out[0], command))
            with m.Elif(periods < 16):
                m.d.sync += argument.eq(Cat(self.pins.data_out[0], argument))
        with m.Elif(gives):
            pass
        with m.Elif(falls & (periods == 8)):
            with m.Switch(command):
                with m.Case(0x9F):
                    m.d.sync += self._shift(answer, self.identity)
                with m.Case(0x35):
                    m.d.sync += self._shift(answer, Cat(Const(0, 16), status))
                with m.Default():
                    m.d.sync += self._shift(answer, Const(0, 24))
        with m.Elif(falls & (periods > 8)):
            m.d.sync += self._shift(answer, answer)
        return m

    def _shift(self, answer: Signal, bits: Value) -> list[Any]:
        """The next bit of an answer on line 1."""
        return [self.pins.data_in.eq(Cat(Const(0, 1), bits[23])), answer.eq(Cat(Const(0, 1), bits))]


class Flashed(wiring.Component):
    """A component with ``flash``, or ``flash`` and ``second_flash``, among its members, and these flashes.

    Parameters: ``inner``; ``size``, of all flashes together.

    Members: those of ``inner`` but the flashes; with the prefix ``flash_``, what writes them, as one: its word ``w`` is
    word ``w // count`` of flash ``w % count``. And ``flash_flips``: bits of the last flash's identity that are flipped;
    if all that are set are, it is not there.
    """

    def __init__(self, inner: wiring.Component, size: int = FLASH_BYTES) -> None:
        self._inner = inner
        self._names = [name for name in FLASH_NAMES if name in inner.signature.members]
        self._flashes = [SimulatedFlash(size // len(self._names)) for _ in self._names]
        members = {name: member for name, member in inner.signature.members.items() if name not in self._names}
        written = {
            "flash_write_enable": In(1),
            "flash_write_address": In(range(size // 4)),
            "flash_write_data": In(32),
            "flash_flips": In(24),
        }
        self._passed = list(members)
        super().__init__({**members, **written})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = inner = self._inner
        place = Signal(range(len(self._flashes)))
        m.d.comb += place.eq(self.flash_write_address)
        for index, (name, flash) in enumerate(zip(self._names, self._flashes, strict=True)):
            m.submodules[name] = flash
            connect(m, getattr(inner, name), flash.pins)
            m.d.comb += [
                flash.write_enable.eq(self.flash_write_enable & (place == index)),
                flash.write_address.eq(self.flash_write_address[len(place) :]),
                flash.write_data.eq(self.flash_write_data),
            ]
        m.d.comb += flash.identity.eq(IDENTITY ^ self.flash_flips)
        for name in self._passed:
            member = self.signature.members[name]
            if not member.is_port:
                connect(m, flipped(getattr(self, name)), getattr(inner, name))
            elif member.flow is In:
                m.d.comb += getattr(inner, name).eq(getattr(self, name))
            else:
                assert member.flow is Out
                m.d.comb += getattr(self, name).eq(getattr(inner, name))
        return m


def flash_size(stream_bytes: int) -> int:
    """Of flashes for so many bytes, in steps, so that builds can be used again."""
    return max(FLASH_BYTES, 1 << max(0, stream_bytes - 1).bit_length())


def flash_words(data: bytes, first: int, size: int) -> list[tuple[int, int]]:
    """What ``FLASH_PORTS`` are to write, to have ``data`` from byte ``first`` on; both are multiples of 4."""
    return [((first + at) % size // 4, int.from_bytes(data[at : at + 4], "little")) for at in range(0, len(data), 4)]
