"""A serial NOR flash as its data sheet describes it: commands, status registers, times in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CLOCK_NS = 10.0  # of the simulation
CLOCK_TO_OUTPUT_NS = 6.0  # tCLQV
DESELECTED_NS = 10.0  # tSHSL between reads
RESET_NS = 30_000.0  # tRST
WAKE_NS = 3_000.0  # tRES1
SHORTEST_PERIOD_NS = 1e3 / 104
DUMMY_PERIODS = 4


@dataclass
class FlashModel:
    """A Winbond W25Q128JV, or with ``quad_bit`` 6 an ISSI IS25LP128; both sides of its six lines.

    Parameters:
        memory: what is stored; reads wrap around at its end.
        identity: manufacturer, type, capacity.
        quad_bit: of the status registers, counted through both: the one that allows four lines.
        quad, keeps_quad: whether it is set, and whether a write can set it.
        write_polls: reads of the status until a write is over.
        stuck: answer with this nibble, whatever is asked.
        delay_ns: from SCK's falling edge at the controller to new data there: pads and ``CLOCK_TO_OUTPUT_NS``.
    """

    memory: bytes
    identity: bytes = bytes([0xEF, 0x40, 0x18])
    quad_bit: int = 9
    quad: bool = False
    keeps_quad: bool = True
    write_polls: int = 3
    stuck: int | None = None
    delay_ns: float = CLOCK_TO_OUTPUT_NS + 6
    commands: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    _asleep: bool = True
    _ready_at: float = 0.0
    _enabled: bool = False
    _polls: int = 0
    _next: int | None = None
    _now: float = 0.0

    def testbenches(self, pins: Any) -> list[Any]:
        """Background testbenches: one follows the lines, one drives them late, one keeps the time."""

        async def watch(ctx: Any) -> None:
            while True:
                await ctx.tick()
                self._now += CLOCK_NS

        async def follow(ctx: Any) -> None:
            while True:
                while not ctx.get(pins.select):
                    await ctx.changed(pins.select)
                await self._selected(ctx, pins)
                begin = self._now
                await ctx.delay(DESELECTED_NS * 1e-9)
                assert not ctx.get(pins.select), f"deselected for less than {DESELECTED_NS} ns at {begin} ns"

        async def drive(ctx: Any) -> None:
            while True:
                await ctx.negedge(pins.clock)
                await ctx.delay(self.delay_ns * 1e-9)
                if self._next is not None:
                    ctx.set(pins.data_in, self._next)

        return [follow, drive, watch]

    async def _selected(self, ctx: Any, pins: Any) -> None:
        """One transaction, bit by bit."""
        state = _Transaction(self)
        rose = None
        while True:
            await ctx.changed(pins.clock, pins.select)
            if not ctx.get(pins.select):
                self._next = None
                state.end(self._now)
                return
            if ctx.get(pins.clock):
                now = self._now
                assert rose is None or now - rose >= SHORTEST_PERIOD_NS, f"SCK is too fast: {now - rose:.1f} ns"
                rose = now
                enable, lines = ctx.get(pins.data_enable), ctx.get(pins.data_out)
                assert not (state.drives and enable & (0b1111 if state.quad else 0b10)), "two drive one line"
                state.rising(lines, enable)
            else:
                self._next = state.falling()

    def status(self) -> int:
        busy = self._polls > 0
        self._polls = max(0, self._polls - 1)
        return busy | (self.quad << self.quad_bit)


class _Transaction:
    """What the flash knows since it was selected."""

    def __init__(self, flash: FlashModel) -> None:
        self.flash = flash
        self.bits: list[int] = []
        self.drives = self.quad = False
        self.periods = 0
        self.answer: bytes = b""
        self.given = 0

    def rising(self, lines: int, enable: int) -> None:
        self.periods += 1
        if self.drives:
            return
        if self.quad:
            if self.periods <= 8 + 8:
                assert enable == 0b1111, "address and mode come on four lines"
                self.bits += [lines >> 3 & 1, lines >> 2 & 1, lines >> 1 & 1, lines & 1]
            else:
                assert enable == 0, "nobody drives in the dummy cycles"
            if self.periods == 8 + 8 + DUMMY_PERIODS:
                address = _number(self.bits[8:32]) % len(self.flash.memory)
                assert _number(self.bits[32:40]) != 0xA0, "continuous reads are not expected"
                self.flash.reads.append(address)
                self._give(self.flash.memory[address:] + self.flash.memory[:address])
            return
        assert enable == 0b1101 and lines >> 2 == 0b11, "write protect and hold are high while one line is used"
        self.bits.append(lines & 1)
        if len(self.bits) == 8:
            self._command(_number(self.bits))

    def _command(self, command: int) -> None:
        flash = self.flash
        flash.commands.append(command)
        if command == 0x9F:
            self._give(flash.identity)
        elif command == 0x05:
            self._give(bytes([flash.status() & 0xFF]))
        elif command == 0x35 and flash.quad_bit >= 8:
            self._give(bytes([flash.status() >> 8]))
        elif command == 0xEB:
            assert flash.quad, "a quad read without the quad enable bit"
            self.quad = True

    def _give(self, answer: bytes) -> None:
        self.answer, self.drives = answer, True

    def falling(self) -> int | None:
        """The lines' next values: line 1 alone, or all."""
        if not self.drives:
            return None
        width = 4 if self.quad else 1
        number = int.from_bytes(self.answer[self.given * width // 8 % len(self.answer) :][:1], "big")
        value = number >> (8 - width - self.given * width % 8) & (1 << width) - 1
        self.given += 1
        if self.flash.stuck is not None:
            return self.flash.stuck
        return value if self.quad else value << 1

    def end(self, now: float) -> None:
        flash = self.flash
        command = _number(self.bits[:8])
        assert now >= flash._ready_at, f"command {command:#04x} while the flash cannot hear it"
        if command == 0x99:
            flash._ready_at = now + RESET_NS
        elif command == 0xAB:
            flash._asleep, flash._ready_at = False, now + WAKE_NS
        elif command != 0x66:
            assert not flash._asleep, f"command {command:#04x} while the flash sleeps"
        if command in (0x01, 0x31) and flash._enabled and len(self.bits) == 16:
            bit = flash.quad_bit - 8 * (command == 0x31)
            flash.quad = flash.keeps_quad and bool(_number(self.bits[8:]) >> bit & 1)
            flash._polls = flash.write_polls if command == 0x01 else 0
        flash._enabled = command in (0x06, 0x50)


def _number(bits: list[int]) -> int:
    return int("".join(map(str, bits)) or "0", 2)
