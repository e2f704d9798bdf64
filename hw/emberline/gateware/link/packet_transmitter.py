"""Turns responses into bytes."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.packets import (
    HEADER_BYTES,
    HEADER_CHECK_BYTES,
    HEADER_CRC,
    PAYLOAD_CHECK_BYTES,
    PAYLOAD_CRC,
    RESPONSE,
    RESPONSE_SYNC,
    SYNC_BYTES,
)
from emberline.gateware.link.crc import advance
from emberline.gateware.structures import structure


class PacketTransmitter(wiring.Component):
    """Sends a response: sync, header, header check and, if its ``length`` is not 0, payload and payload check.

    Takes one transfer on ``i_header``, then exactly ``length`` transfers on ``i_payload``.

    Members:
        i_header: the response's header.
        i_payload: its payload's bytes.
        o: bytes for the host; registered.

    Throughput one byte in each cycle; honours back-pressure and pauses of the payload.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i_header": In(stream.Signature(structure(RESPONSE))),
                "i_payload": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        header = Signal(8 * (SYNC_BYTES + HEADER_BYTES), reset_less=True)
        left = Signal(structure(RESPONSE)["length"].shape, reset_less=True)
        index = Signal(range(SYNC_BYTES + HEADER_BYTES))
        has_payload = Signal(reset_less=True)
        header_crc = Signal(HEADER_CRC.width, reset_less=True)
        payload_crc = Signal(PAYLOAD_CRC.width, reset_less=True)
        sync = Const(int.from_bytes(RESPONSE_SYNC, "little"), 8 * SYNC_BYTES)
        free = Signal()
        m.d.comb += free.eq(~self.o.valid | self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        def send(byte: Value) -> None:
            m.d.sync += [self.o.payload.eq(byte), self.o.valid.eq(1)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_header.ready.eq(1)
                m.d.sync += [
                    header.eq(Cat(sync, self.i_header.p)),
                    left.eq(self.i_header.p.length),
                    has_payload.eq(self.i_header.p.length != 0),
                    header_crc.eq(HEADER_CRC.initial),
                    payload_crc.eq(PAYLOAD_CRC.initial),
                    index.eq(0),
                ]
                with m.If(self.i_header.valid):
                    m.next = "HEADER"
            with m.State("HEADER"):
                with m.If(free):
                    send(header[:8])
                    m.d.sync += [header.eq(header >> 8), index.eq(index + 1)]
                    with m.If(index >= SYNC_BYTES):
                        m.d.sync += header_crc.eq(advance(HEADER_CRC, header_crc, header[:8]))
                    with m.If(index == SYNC_BYTES + HEADER_BYTES - 1):
                        m.d.sync += index.eq(0)
                        m.next = "HEADER-CHECK"
            with m.State("HEADER-CHECK"):
                with m.If(free):
                    send(header_crc[:8] ^ (HEADER_CRC.final_xor & 0xFF))
                    m.d.sync += [header_crc.eq(header_crc >> 8), index.eq(index + 1)]
                    with m.If(index == HEADER_CHECK_BYTES - 1):
                        m.d.sync += index.eq(0)
                        m.next = "IDLE"
                        with m.If(has_payload):
                            m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += self.i_payload.ready.eq(free)
                with m.If(free & self.i_payload.valid):
                    send(self.i_payload.payload)
                    m.d.sync += [
                        payload_crc.eq(advance(PAYLOAD_CRC, payload_crc, self.i_payload.payload)),
                        left.eq(left - 1),
                    ]
                    with m.If(left == 1):
                        m.next = "PAYLOAD-CHECK"
            with m.State("PAYLOAD-CHECK"):
                with m.If(free):
                    send(payload_crc[:8] ^ (PAYLOAD_CRC.final_xor & 0xFF))
                    m.d.sync += [payload_crc.eq(payload_crc >> 8), index.eq(index + 1)]
                    with m.If(index == PAYLOAD_CHECK_BYTES - 1):
                        m.d.sync += index.eq(0)
                        m.next = "IDLE"
        return m
