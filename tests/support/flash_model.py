"""A serial NOR flash as its data sheet describes it: commands, status registers, times in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CLOCK_NS = 10.0  # of the simulation
CLOCK_TO_OUTPUT_NS = 6.0  # tCLQV
HOLD_NS = 2.0  # tCLQX: for so long the data before are there
SETUP_NS = 1.5  # tDVCH, tCHDX at double rate
DESELECTED_NS = 10.0  # tSHSL between reads
RESET_NS = {9: 30_000.0, 6: 35_000.0}  # tRST of Winbond, tSRST of ISSI
WAKE_NS = 3_000.0  # tRES1
SHORTEST_PERIOD_NS = 1e3 / 104
SHORTEST_DOUBLE_PERIOD_NS = 1e3 / 66
DUMMY_PERIODS = 4
DOUBLE_DUMMY_PERIODS = {bytes([0xEF, 0x70, 0x18]): 7, bytes([0x9D, 0x60, 0x18]): 5}  # behind the mode


@dataclass
class FlashModel:
    """A Winbond W25Q128JV-DTR, or with ``quad_bit`` 6 an ISSI IS25LP128F; both sides of its six lines.

    Parameters:
        memory: what is stored; reads wrap around at its end.
        identity: manufacturer, type, capacity; which of them have reads at double rate.
        quad_bit: of the status registers, counted through both: the one that allows four lines.
        quad, keeps_quad: whether it is set, and whether a write can set it.
        write_polls: reads of the status until a write is over.
        stuck: answer with this nibble, whatever is asked.
        delay_ns: from SCK's edge at the controller to new data there: pads and ``CLOCK_TO_OUTPUT_NS``. Before that,
            from when ``HOLD_NS`` are over, they are wrong.
        least_period_ns: of SCK, for reads with four lines to give what is stored.
        start: how much of ``RESET_NS`` and ``WAKE_NS`` it takes, for a controller that waits no longer.
    """

    memory: bytes
    identity: bytes = bytes([0xEF, 0x70, 0x18])
    quad_bit: int = 9
    quad: bool = False
    keeps_quad: bool = True
    write_polls: int = 3
    stuck: int | None = None
    delay_ns: float = CLOCK_TO_OUTPUT_NS + 6
    least_period_ns: float = 0.0
    start: float = 1.0
    commands: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    _asleep: bool = True
    _ready_at: float = 0.0
    _enabled: bool = False
    _polls: int = 0
    _next: int | None = None
    _now: float = 0.0
    _changed: float = 0.0

    def testbenches(self, pins: Any) -> list[Any]:
        """Background testbenches: they follow the lines, drive them late, and keep the time, which comes last."""

        async def watch(ctx: Any) -> None:
            while True:
                await ctx.tick()
                self._now += CLOCK_NS

        async def note(ctx: Any) -> None:
            while True:
                await ctx.changed(pins.data_out)
                self._changed = self._now

        async def follow(ctx: Any) -> None:
            while True:
                while not ctx.get(pins.select):
                    await ctx.changed(pins.select)
                await self._selected(ctx, pins)
                begin = self._now
                await ctx.delay(DESELECTED_NS * 1e-9)
                assert not ctx.get(pins.select), f"deselected for less than {DESELECTED_NS} ns at {begin} ns"

        async def drive(ctx: Any, edge: Any) -> None:
            while True:
                await edge(ctx)(pins.clock)
                await ctx.delay(0.5e-9)
                value = self._next
                if value is not None:
                    wrong_ns = min(CLOCK_TO_OUTPUT_NS - HOLD_NS, self.delay_ns - 0.5)
                    await ctx.delay((self.delay_ns - 0.5 - wrong_ns) * 1e-9)
                    ctx.set(pins.data_in, value ^ 0b1111)
                    await ctx.delay(wrong_ns * 1e-9)
                    ctx.set(pins.data_in, value)

        async def drive_falling(ctx: Any) -> None:
            await drive(ctx, lambda ctx: ctx.negedge)

        async def drive_rising(ctx: Any) -> None:
            await drive(ctx, lambda ctx: ctx.posedge)

        return [note, follow, drive_falling, drive_rising, watch]

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
            rises, enable, lines = ctx.get(pins.clock), ctx.get(pins.data_enable), ctx.get(pins.data_out)
            if rises:
                now, shortest = self._now, SHORTEST_DOUBLE_PERIOD_NS if state.double else SHORTEST_PERIOD_NS
                assert rose is None or now - rose >= shortest, f"SCK is too fast: {now - rose:.1f} ns"
                state.spoilt |= rose is not None and now - rose < self.least_period_ns
                rose = now
                assert not (state.drives and enable & (0b1111 if state.quad else 0b10)), "two drive one line"
            if enable & 1 and (rises or (state.double and state.periods > 8)):
                assert self._now - self._changed >= SETUP_NS, "data change with SCK"
            self._next = state.rising(lines, enable) if rises else state.falling(lines, enable)

    def status(self) -> int:
        busy = self._polls > 0
        self._polls = max(0, self._polls - 1)
        return busy | (self.quad << self.quad_bit)


class _Transaction:
    """What the flash knows since it was selected."""

    def __init__(self, flash: FlashModel) -> None:
        self.flash = flash
        self.bits: list[int] = []
        self.drives = self.quad = self.double = self.spoilt = False
        self.periods = 0
        self.answer: bytes = b""
        self.given = self.dummies = 0

    def rising(self, lines: int, enable: int) -> int | None:
        """Takes what is on the lines; the lines' next values, if they change at this edge."""
        self.periods += 1
        if self.drives:
            return self._next() if self.double else None
        if self.quad:
            self._take(lines, enable)
            return None
        assert enable == 0b1101 and lines >> 2 == 0b11, "write protect and hold are high while one line is used"
        self.bits.append(lines & 1)
        if len(self.bits) == 8:
            self._command(_number(self.bits))
        return None

    def falling(self, lines: int, enable: int) -> int | None:
        """The same at the other edge."""
        if self.double and not self.drives and self.periods > 8:
            self._take(lines, enable)
        return self._next() if self.drives else None

    def _take(self, lines: int, enable: int) -> None:
        """A nibble of address and mode, or an edge of the dummy cycles."""
        if len(self.bits) < 8 + 32:
            assert enable == 0b1111, "address and mode come on four lines"
            self.bits += [lines >> 3 & 1, lines >> 2 & 1, lines >> 1 & 1, lines & 1]
            return
        assert enable == 0, "nobody drives in the dummy cycles"
        self.dummies -= 1
        if self.dummies == 0:
            address = _number(self.bits[8:32]) % len(self.flash.memory)
            assert _number(self.bits[32:40]) >> 4 != 0xA, "continuous reads are not expected"
            self.flash.reads.append(address)
            self._give(self.flash.memory[address:] + self.flash.memory[:address])

    def _command(self, command: int) -> None:
        flash = self.flash
        flash.commands.append(command)
        if command == 0x9F:
            self._give(flash.identity)
        elif command == 0x05:
            self._give(bytes([flash.status() & 0xFF]))
        elif command == 0x35 and flash.quad_bit >= 8:
            self._give(bytes([flash.status() >> 8]))
        elif command in (0xEB, 0xED):
            assert flash.quad, "a quad read without the quad enable bit"
            self.quad, self.double = True, command == 0xED
            self.dummies = 2 * DOUBLE_DUMMY_PERIODS[flash.identity] if self.double else DUMMY_PERIODS

    def _give(self, answer: bytes) -> None:
        self.answer, self.drives = answer, True

    def _next(self) -> int:
        """The lines' next values: line 1 alone, or all."""
        width = 4 if self.quad else 1
        number = int.from_bytes(self.answer[self.given * width // 8 % len(self.answer) :][:1], "big")
        value = number >> (8 - width - self.given * width % 8) & (1 << width) - 1
        self.given += 1
        if self.flash.stuck is not None:
            return self.flash.stuck
        return (0 if self.spoilt else value) if self.quad else value << 1

    def end(self, now: float) -> None:
        flash = self.flash
        command = _number(self.bits[:8])
        assert now >= flash._ready_at, f"command {command:#04x} while the flash cannot hear it"
        if command == 0x99:
            flash._ready_at = now + flash.start * RESET_NS[flash.quad_bit]
        elif command == 0xAB:
            flash._asleep, flash._ready_at = False, now + flash.start * WAKE_NS
        elif command != 0x66:
            assert not flash._asleep, f"command {command:#04x} while the flash sleeps"
        if command in (0x01, 0x31) and flash._enabled and len(self.bits) == 16:
            bit = flash.quad_bit - 8 * (command == 0x31)
            flash.quad = flash.keeps_quad and bool(_number(self.bits[8:]) >> bit & 1)
            flash._polls = flash.write_polls if command == 0x01 else 0
        flash._enabled = command in (0x06, 0x50)


def _number(bits: list[int]) -> int:
    return int("".join(map(str, bits)) or "0", 2)
