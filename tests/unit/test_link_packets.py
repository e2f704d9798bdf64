"""The packet layers of the link on their own: checks, receiver, transmitter."""

from __future__ import annotations

import random
import zlib

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.arch import packets
from emberline.arch.framing import Packet, PacketEnd, PacketReader, encode_request, encode_response
from emberline.arch.packets import HEADER_CRC, PAYLOAD_CRC, Crc, RequestType
from emberline.gateware.link.crc import advance, slide
from emberline.gateware.link.packet_receiver import PacketReceiver
from emberline.gateware.link.packet_transmitter import PacketTransmitter
from emberline.gateware.link.stream_register import StreamRegister
from emberline.simulation.streams import PATTERNS, Pattern, simulate, sink, source

SILENCE = 60


class CrcBench(wiring.Component):
    """The check of everything so far, and the one over the last four bytes."""

    def __init__(self, crc: Crc) -> None:
        self._crc = crc
        super().__init__({"byte": In(8), "whole": Out(crc.width, init=crc.initial), "window": Out(crc.width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        recent = Signal(32)
        m.d.sync += [
            self.whole.eq(advance(self._crc, self.whole, self.byte)),
            self.window.eq(slide(self._crc, self.window, self.byte, recent[:8], 4)),
            recent.eq(recent >> 8 | self.byte << 24),
        ]
        return m


@pytest.mark.parametrize("crc", [HEADER_CRC, PAYLOAD_CRC], ids=lambda crc: crc.name)
def test_crc_equals_its_definition_whole_and_sliding(crc: Crc) -> None:
    dut = CrcBench(crc)
    data = random.Random(1).randbytes(40)

    async def bench(ctx) -> None:
        for index, byte in enumerate(data):
            ctx.set(dut.byte, byte)
            await ctx.tick()
            assert ctx.get(dut.whole) ^ crc.final_xor == crc.compute(data[: index + 1])
            state = 0
            for recent in bytes(max(0, 3 - index)) + data[max(0, index - 3) : index + 1]:
                state = crc.step(state, recent)
            assert ctx.get(dut.window) == state

    simulate(dut, bench)


def test_checks_are_the_published_ones() -> None:
    assert HEADER_CRC.compute(b"123456789") == 0xEA82
    assert PAYLOAD_CRC.compute(b"123456789") == zlib.crc32(b"123456789")


def _receive(data: bytes, pattern: Pattern, seed: int = 0, quiet_cycles: int = 0, rest: bytes = b"") -> list[Packet]:
    """What the gateware makes of ``data``, then of a silence, then of ``rest``."""
    dut = PacketReceiver(SILENCE)
    expected = _expected(data, rest, quiet_cycles)
    headers: list = []
    payload: list[int] = []
    ends: list[int] = []

    async def pauses(ctx) -> None:
        await source(dut.i, data, gaps=pattern.idle(seed))(ctx)
        for _ in range(quiet_cycles):
            await ctx.tick()
        await source(dut.i, rest, gaps=pattern.idle(seed + 1))(ctx)

    simulate(
        dut,
        pauses,
        sink(dut.o_header, len(expected), into=headers, gaps=pattern.stall(seed + 2)),
        sink(
            dut.o_payload, sum(len(packet.payload) for packet in expected), into=payload, gaps=pattern.stall(seed + 3)
        ),
        sink(dut.o_end, len(expected), into=ends, gaps=pattern.stall(seed + 4)),
        deadline_cycles=200_000,
    )
    seen = []
    for header, end, packet in zip(headers, ends, expected, strict=True):
        body, payload = bytes(payload[: len(packet.payload)]), payload[len(packet.payload) :]
        fields = {field.name: int(header[field.name]) for field in packets.REQUEST.fields}
        seen.append(Packet(fields, body, PacketEnd(end)))
    assert seen == expected
    return seen


def _expected(data: bytes, rest: bytes, quiet_cycles: int) -> list[Packet]:
    """What the Python twin makes of the same."""
    reader = PacketReader.of_requests()
    expected = reader.feed(data)
    if quiet_cycles > SILENCE and (packet := reader.expire()):
        length = packet.header["length"]
        expected.append(Packet(packet.header, packet.payload[:length], packet.end))
    return expected + reader.feed(rest)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_receiver_takes_packets_apart(pattern: Pattern, seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(
        encode_request(RequestType.FRAME_ROWS, index, rng.getrandbits(32), rng.randbytes(length))
        for index, length in enumerate((0, 1, 4, 33, 0, 0, 120))
    )
    seen = _receive(data, pattern, seed)
    assert [packet.end for packet in seen] == [PacketEnd.GOOD] * 7


def test_receiver_skips_garbage_and_finds_the_packet_that_begins_inside_a_false_one() -> None:
    packet = encode_request(RequestType.STATUS, 9)
    data, count = b"", 0
    for length in range(12):
        noise = random.Random(length).randbytes(length)
        for garbage in (noise, packets.REQUEST_SYNC + noise, packets.REQUEST_SYNC[:1] * 3, packet[:length]):
            data += garbage + packet
            count += 1
    assert len(_receive(data, PATTERNS[0])) == count


@pytest.mark.parametrize("position", range(12))
def test_receiver_drops_a_damaged_header_and_takes_the_next_packet(position: int) -> None:
    damaged = bytearray(encode_request(RequestType.STATUS, 1))
    damaged[position] ^= 0x24
    seen = _receive(bytes(damaged) + encode_request(RequestType.STATUS, 2), PATTERNS[0])
    assert [packet.header["sequence"] for packet in seen] == [2]


def test_receiver_tells_damaged_from_good_payloads() -> None:
    good = encode_request(RequestType.WRITE_PROGRAM, 1, 0, bytes(range(20)))
    for position in (12, 20, 31, 32, 35):
        damaged = bytearray(good)
        damaged[position] ^= 1
        seen = _receive(bytes(damaged) + good, PATTERNS[0])
        assert [packet.end for packet in seen] == [PacketEnd.DAMAGED, PacketEnd.GOOD]


@pytest.mark.parametrize("cut", [12, 13, 20, 31, 32, 35])
@pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[2]], ids=str)
def test_receiver_gives_up_a_packet_that_falls_silent(cut: int, pattern: Pattern) -> None:
    good = encode_request(RequestType.WRITE_PROGRAM, 1, 0, bytes(range(20)))
    seen = _receive(good[:cut], pattern, quiet_cycles=SILENCE + 200, rest=good)
    assert [packet.end for packet in seen] == [PacketEnd.TRUNCATED, PacketEnd.GOOD]


def test_receiver_does_not_give_up_for_short_pauses() -> None:
    good = encode_request(RequestType.WRITE_PROGRAM, 1, 0, bytes(range(20)))
    seen = _receive(good[:20], PATTERNS[0], quiet_cycles=SILENCE - 20, rest=good[20:])
    assert [packet.end for packet in seen] == [PacketEnd.GOOD]


def test_receiver_refuses_an_announcement_that_is_too_long_at_once() -> None:
    header = {"type": RequestType.FRAME_ROWS, "version": 1, "sequence": 3, "argument": 0, "length": 16385}
    packed = packets.to_bytes(packets.REQUEST, header)
    long = packets.REQUEST_SYNC + packed + HEADER_CRC.compute(packed).to_bytes(2, "little")
    seen = _receive(long + encode_request(RequestType.STATUS, 4), PATTERNS[0])
    assert [packet.end for packet in seen] == [PacketEnd.OVERSIZE, PacketEnd.GOOD]


def test_receiver_counts_header_errors() -> None:
    dut = PacketReceiver(SILENCE)
    count = 0
    data = packets.REQUEST_SYNC + bytes(10) + encode_request(RequestType.STATUS, 1) + packets.REQUEST_SYNC + bytes(10)

    async def watch(ctx) -> None:
        nonlocal count
        while True:
            _, _, error = await ctx.tick().sample(dut.header_error)
            count += error

    async def bench(ctx) -> None:
        ctx.set(dut.o_header.ready, 1)
        ctx.set(dut.o_end.ready, 1)
        await source(dut.i, data)(ctx)
        await ctx.tick().repeat(5)

    from amaranth.sim import Simulator

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(bench)
    simulator.run()
    assert count == 2


@pytest.mark.parametrize("silence", [3, 1 << 31])
def test_receiver_refuses_an_impossible_silence(silence: int) -> None:
    with pytest.raises(ValueError, match=f"not {silence}"):
        PacketReceiver(silence)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_transmitter_sends_responses(pattern: Pattern, seed: int) -> None:
    rng = random.Random(seed)
    dut = PacketTransmitter()
    headers, payloads, expected = [], b"", b""
    for length in (0, 1, 36, 0, 0, 7):
        header = {field.name: rng.getrandbits(field.width) for field in packets.RESPONSE.fields} | {"length": length}
        payload = rng.randbytes(length)
        headers.append(header)
        payloads += payload
        expected += encode_response(header, payload)
    sent: list[int] = []
    simulate(
        dut,
        source(dut.i_header, headers, gaps=pattern.idle(seed)),
        source(dut.i_payload, payloads, gaps=pattern.idle(seed + 1)),
        sink(dut.o, len(expected), into=sent, gaps=pattern.stall(seed)),
    )
    assert bytes(sent) == expected


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_stream_register_passes_everything_on_in_order(pattern: Pattern, seed: int) -> None:
    dut = StreamRegister()
    data = list(random.Random(seed).randbytes(100))
    seen: list[int] = []
    simulate(dut, source(dut.i, data, gaps=pattern.idle(seed)), sink(dut.o, 100, into=seen, gaps=pattern.stall(seed)))
    assert seen == data


def test_stream_register_takes_a_byte_in_each_cycle() -> None:
    dut = StreamRegister()
    seen: list[int] = []
    simulate(dut, source(dut.i, range(100)), sink(dut.o, 100, into=seen, spare_cycles=0), deadline_cycles=103)
