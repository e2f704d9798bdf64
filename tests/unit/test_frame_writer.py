"""The frame writers against a description in numpy: every geometry, link and buffer that pause, aborted rows."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from emberline.arch.architecture import Architecture
from emberline.arch.frame_rows import FrameRows
from emberline.arch.presets import PRESETS
from emberline.gateware.compact.frame_writer import CompactFrameWriter
from emberline.gateware.frame_writer import FrameWriter
from emberline.gateware.pixel_pieces import PIECE_BYTES

MACHINES = (
    *(Architecture("test", lanes, 4, activation_depth_words=8192, weight_depth_words=16) for lanes in (4, 8, 16)),
    PRESETS["up5k-4x4"],
)


def random_settings(rng: np.random.Generator, machine: Architecture) -> dict[str, int]:
    """A FRAME of a small frame with windows of up to 4 x 4 pixels; all that a stored row needs is inside or zero. A
    compact machine stores pixels."""
    f = {name: int(rng.integers(1, 5)) for name in ("kernel_rows", "kernel_columns", "row_stride", "column_stride")}
    f |= {
        "channels": int(rng.choice([1, 2, 3, 4, 5, 8, 9])),
        "rows": int(rng.integers(1, 7)),
        "columns": int(rng.integers(1, 7)),
    }
    f |= {
        "pad_rows": int(rng.integers(0, 3)),
        "pad_columns": int(rng.integers(0, 3)),
        "zero": int(rng.integers(-128, 128)),
    }
    for name, size in (("row", "rows"), ("column", "columns")):
        reach = f[f"pad_{name}s"] + f[size] + int(rng.integers(0, 3)) - f[f"kernel_{name}s"]
        f[f"stored_{name}s"] = max(0, reach) // f[f"{name}_stride"] + 1
    spare = int(rng.integers(0, 2))
    if machine.compact:
        f |= dict.fromkeys(("kernel_rows", "kernel_columns", "row_stride", "column_stride"), 1)
        f |= {"pad_rows": 0, "pad_columns": 0, "stored_rows": f["rows"], "stored_columns": f["columns"]}
        spare = 0
    f["kernel_row_bytes"] = f["kernel_columns"] * f["channels"]
    f["column_stride_bytes"] = f["column_stride"] * f["channels"]
    f["row_stride_bytes"] = f["row_stride"] * f["kernel_row_bytes"]
    f["pixel_words"] = -(-f["kernel_rows"] * f["kernel_row_bytes"] // machine.lanes_in) + spare
    f["row_words"] = f["stored_columns"] * f["pixel_words"]
    f["held_rows"] = int(rng.integers(1, 2 * f["rows"] + 1))
    ring_rows = FrameRows.of(f).ring_rows(f["held_rows"])
    start = int(rng.integers(0, 5))
    groups = machine.groups_per_word
    return f | {"start": start * groups, "end": (start + ring_rows * f["row_words"]) * groups}


def stored_row(f: dict[str, int], frame: np.ndarray, stored: int) -> np.ndarray:
    """The windows of a stored row of a frame ``[rows, columns, channels]``: int8 ``[stored_columns, bytes]``."""
    window = np.full((f["stored_columns"], f["kernel_rows"], f["kernel_columns"], f["channels"]), f["zero"], np.int8)
    for j, ky, kx in np.ndindex(*window.shape[:3]):
        y = stored * f["row_stride"] + ky - f["pad_rows"]
        x = j * f["column_stride"] + kx - f["pad_columns"]
        if 0 <= y < f["rows"] and 0 <= x < f["columns"]:
            window[j, ky, kx] = frame[y, x]
    return window.reshape(f["stored_columns"], -1)


class Bench:
    """Sends frames in packets of rows, some of them damaged and sent again, and reads each stored row when it may."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.machine = MACHINES[seed % len(MACHINES)]
        self.f = random_settings(self.rng, self.machine)
        self.geometry = FrameRows.of(self.f)
        self.dut = CompactFrameWriter(self.machine) if self.machine.compact else FrameWriter(self.machine)
        self.memory = np.zeros((self.machine.activation_depth_words, self.machine.lanes_in), np.uint8)
        shape = (3, self.f["rows"], self.f["columns"], self.f["channels"])
        self.frames = self.rng.integers(-128, 128, shape, dtype=np.int8)
        self.committed = self.released = self.checked = 0
        self.density = self.rng.choice([0.2, 0.7, 1.0], 2)

    def run(self) -> None:
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(self.send)
        sim.add_testbench(self.buffer, background=True)
        sim.add_testbench(self.program)
        sim.run()

    async def send(self, ctx) -> None:  # type: ignore[no-untyped-def]
        dut, f = self.dut, self.f
        for name, value in f.items():
            ctx.set(dut.settings[name], value)
        ctx.set(dut.i_configure, 1)
        await ctx.tick()
        ctx.set(dut.i_configure, 0)
        rows = self.frames.reshape(-1, f["columns"] * f["channels"])
        sent = 0
        while sent < len(rows):
            free = min(ctx.get(dut.o_free_rows), len(rows) - sent)
            if not free:
                await ctx.tick()
                continue
            assert ctx.get(dut.o_row_bytes) == rows.shape[1]
            count = int(self.rng.integers(1, free + 1))
            data = rows[sent : sent + count].reshape(-1).view(np.uint8)
            damaged = self.rng.random() < 0.3
            if damaged:
                data = self.rng.integers(0, 256, int(self.rng.integers(1, len(data) + 1)))
            for byte in data:
                await self.send_byte(ctx, int(byte))
            for _ in range(self.rng.integers(0, 3)):
                await ctx.tick()
            ctx.set(dut.i_abort if damaged else dut.i_commit, 1)
            await ctx.tick()
            ctx.set(dut.i_abort, 0)
            ctx.set(dut.i_commit, 0)
            if damaged:
                await ctx.tick()
                continue
            sent += count
            if self.rng.random() < 0.3:  # of the request after it: what is to be committed stays
                ctx.set(dut.i_abort, 1)
                await ctx.tick()
                ctx.set(dut.i_abort, 0)
            while self.committed < sent:
                await ctx.tick()

    async def send_byte(self, ctx, byte: int) -> None:  # type: ignore[no-untyped-def]
        while self.rng.random() > self.density[0]:
            await ctx.tick()
        ctx.set(self.dut.i_bytes.payload, byte)
        ctx.set(self.dut.i_bytes.valid, 1)
        await ctx.tick().until(self.dut.i_bytes.ready)
        ctx.set(self.dut.i_bytes.valid, 0)

    async def buffer(self, ctx) -> None:  # type: ignore[no-untyped-def]
        dut, held = self.dut, None
        compact = isinstance(dut, CompactFrameWriter)
        piece_bytes, piece_signal = (1, dut.o_byte) if compact else (PIECE_BYTES, dut.o_bytes.as_value())
        while True:
            ctx.set(dut.i_ready, int(self.rng.random() < self.density[1]))
            sampled = await ctx.tick().sample(
                dut.o_valid,
                dut.i_ready,
                dut.o_address,
                dut.o_enable,
                piece_signal,
                dut.i_abort,
                dut.o_committed,
                dut.o_committed_count,
            )
            valid, ready, *request, abort, committed, count = sampled[2:]
            assert held is None or (valid and request == held)
            held = request if valid and not ready and not (compact and abort) else None
            if valid and ready:
                address, enable, piece = request
                assert self.f["start"] <= address * self.machine.groups_per_word < self.f["end"]
                for lane in range(self.machine.lanes_in):
                    if enable >> lane & 1:
                        self.memory[address, lane] = piece >> 8 * (lane % piece_bytes) & 0xFF
            if committed:
                assert not valid
                self.committed += count

    async def program(self, ctx) -> None:  # type: ignore[no-untyped-def]
        f = self.f
        frames, rows = len(self.frames), f["rows"]
        ring_rows = (f["end"] - f["start"]) // (f["row_words"] * self.machine.groups_per_word)
        for row in range(frames * rows):  # rows are released one by one, when what begins with them has been read
            frame, inside = divmod(row, rows)
            begun = self.geometry.begun(inside)
            while self.checked < frame * f["stored_rows"] + begun:
                stored = self.checked - frame * f["stored_rows"]
                needed = frame * rows + self.geometry.last_row(stored) + 1
                while self.committed < needed:
                    await ctx.tick()
                first = f["start"] // self.machine.groups_per_word + self.checked % ring_rows * f["row_words"]
                pixels = self.memory[first : first + f["row_words"]].reshape(f["stored_columns"], -1).view(np.int8)
                expected = stored_row(f, self.frames[frame], stored)
                np.testing.assert_array_equal(pixels[:, : expected.shape[1]], expected)
                self.checked += 1
            ctx.set(self.dut.i_release, 1)
            ctx.set(self.dut.i_release_count, 1)
            await ctx.tick()
            ctx.set(self.dut.i_release, 0)


def deep_enough(bench: Bench) -> bool:
    """Whether a stored row can be complete before the first row it needs is released."""
    geometry = bench.geometry
    return all(
        geometry.last_row(stored) - geometry.first_row(stored) < bench.f["held_rows"]
        for stored in range(bench.f["stored_rows"])
    )


@pytest.mark.parametrize("start", range(0, 36, 12))
def test_stored_rows_are_the_windows_of_the_frame(start: int) -> None:
    whole = 0
    for seed in range(start, start + 12):
        bench = Bench(seed)
        if not deep_enough(bench):
            bench.f["held_rows"] = 2 * bench.f["rows"]
            ring_rows = bench.geometry.ring_rows(bench.f["held_rows"])
            bench.f["end"] = bench.f["start"] + ring_rows * bench.f["row_words"] * bench.machine.groups_per_word
        bench.run()
        assert bench.checked == 3 * bench.f["stored_rows"], f"seed {seed}"
        whole += bench.checked
    assert whole > 40


def place_cycles(f: dict[str, int], y: int, x: int, split_cycles: int) -> int:
    """The cycles of a pixel of up to four bytes (`FrameWriter`), ``split_cycles`` more for a place in two words."""
    rows = [y - s * f["row_stride"] for s in range(f["stored_rows"])]
    columns = [x - s * f["column_stride"] for s in range(f["stored_columns"])]
    rows = [ky for ky in rows if 0 <= ky < f["kernel_rows"]]
    starts = [
        ky * f["kernel_row_bytes"] + kx * f["channels"]
        for ky in rows
        for kx in columns
        if 0 <= kx < f["kernel_columns"]
    ]
    if not starts:
        return 3
    split = sum(start % MACHINES[-2].lanes_in + f["channels"] > MACHINES[-2].lanes_in for start in starts)
    return 2 + len(starts) + split * split_cycles + 2 * (len(rows) - 1)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2)])
def test_a_pixel_takes_the_cycles_of_its_places(kernel: int, stride: int) -> None:
    machine, size, channels = MACHINES[-2], 15, 3
    stored = (size - kernel) // stride + 1
    words = -(-kernel * kernel * channels // machine.lanes_in)
    f = {"channels": channels, "columns": size, "rows": size, "held_rows": size, "zero": 0, "start": 0}
    f |= {"pad_rows": 0, "pad_columns": 0, "pixel_words": words, "row_words": stored * words}
    for name in ("row", "column"):
        f |= {f"kernel_{name}s": kernel, f"{name}_stride": stride, f"stored_{name}s": stored}
    f |= {"kernel_row_bytes": kernel * channels, "column_stride_bytes": stride * channels}
    f |= {"row_stride_bytes": stride * kernel * channels}
    f["end"] = FrameRows.of(f).ring_rows(size) * f["row_words"] * machine.groups_per_word
    dut = FrameWriter(machine)
    cycles = 0

    async def send(ctx) -> None:  # type: ignore[no-untyped-def]
        nonlocal cycles
        for name, value in f.items():
            ctx.set(dut.settings[name], value)
        ctx.set(dut.i_ready, 1)
        ctx.set(dut.i_configure, 1)
        await ctx.tick()
        ctx.set(dut.i_configure, 0)
        await ctx.tick().until(dut.o_free_rows != 0)
        ctx.set(dut.i_bytes.valid, 1)
        sent = 0
        while sent < size * size * channels:
            *_, ready = await ctx.tick().sample(dut.i_bytes.ready)
            sent, cycles = sent + ready, cycles + 1
        ctx.set(dut.i_bytes.valid, 0)
        ctx.set(dut.i_commit, 1)
        await ctx.tick()
        ctx.set(dut.i_commit, 0)
        while not ctx.get(dut.o_committed):
            await ctx.tick()
            cycles += 1

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(send)
    sim.run()
    pixels = [(y, x) for y in range(size) for x in range(size)]
    least = sum(place_cycles(f, y, x, 0) for y, x in pixels)
    most = sum(max(place_cycles(f, y, x, 1), channels + 1) for y, x in pixels)
    assert least <= cycles <= most + 12 * size  # a row begins and ends in a dozen cycles
