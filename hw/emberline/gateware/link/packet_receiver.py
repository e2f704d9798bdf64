"""Finds requests in a byte stream."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from emberline.arch.framing import PacketEnd
from emberline.arch.packets import (
    HEADER_BYTES,
    HEADER_CHECK_BYTES,
    HEADER_CRC,
    PAYLOAD_CHECK_BYTES,
    PAYLOAD_CRC,
    PAYLOAD_LIMIT,
    PREFIX_BYTES,
    REQUEST,
    REQUEST_SYNC,
    SYNC_BYTES,
)
from emberline.gateware.link.crc import advance, slide
from emberline.gateware.structures import structure

END_WIDTH = 2
"""Bits of a `PacketEnd`."""


class PacketReceiver(wiring.Component):
    """Takes a byte stream apart into requests (`emberline.arch.framing.PacketReader` is its twin).

    Every request gives, in this order: one transfer on ``o_header``, ``length`` transfers on ``o_payload`` (fewer if
    the payload is cut off, none if it is longer than ``PAYLOAD_LIMIT``), one transfer on ``o_end``. Payload bytes
    come before their check is known; ``o_end`` says whether they were good. The header's payload stays unchanged
    until ``o_end`` is transferred. Bytes that belong to no request are dropped. A header is recognised wherever its
    sync and check fit, also when it begins inside what looked like another one.

    Parameters: ``silence_cycles``, how long the input may pause inside a payload.

    Members:
        i: bytes from the host.
        o_header: a request's header, its check verified.
        o_payload: its payload's bytes.
        o_end: a `PacketEnd`.
        header_error: for one cycle: a sync word was not followed by a valid header.

    Throughput: one byte in two cycles. Back-pressure on the outputs holds the input. The pause is
    measured only while the receiver is ready.
    """

    def __init__(self, silence_cycles: int) -> None:
        if not 4 <= silence_cycles < 1 << 31:
            raise ValueError(f"silence_cycles must be in 4..{(1 << 31) - 1}, not {silence_cycles}")
        self._silence_cycles = silence_cycles
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o_header": Out(stream.Signature(structure(REQUEST))),
                "o_payload": Out(stream.Signature(8)),
                "o_end": Out(stream.Signature(END_WIDTH)),
                "header_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        window = Signal(8 * PREFIX_BYTES)
        header_crc = Signal(HEADER_CRC.width)
        payload_crc = Signal(PAYLOAD_CRC.width)
        end = Signal(END_WIDTH)
        header_bits = window[8 * SYNC_BYTES : 8 * (SYNC_BYTES + HEADER_BYTES)]
        leaving = window.word_select(SYNC_BYTES, 8)
        synchronised = window[: 8 * SYNC_BYTES] == int.from_bytes(REQUEST_SYNC, "little")
        left = Signal(range(PAYLOAD_LIMIT + 1))
        self._silence = Signal(signed(bits_for(self._silence_cycles) + 1))  # less one
        m.d.comb += self.o_header.p.as_value().eq(header_bits)
        m.d.comb += self.o_end.payload.eq(end)
        heard = Signal(init=1)  # a byte has come, or none was waited for
        m.d.sync += [
            heard.eq(self.i.valid | ~self.i.ready),
            self._silence.eq(Mux(heard, self._silence_cycles - 1, self._silence - 1)),
        ]
        m.d.sync += self.header_error.eq(0)
        with m.If(self.o_payload.ready):
            m.d.sync += self.o_payload.valid.eq(0)

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    window_bytes = HEADER_BYTES + HEADER_CHECK_BYTES
                    m.d.sync += [
                        window.eq(Cat(window[8:], self.i.payload)),
                        header_crc.eq(slide(HEADER_CRC, header_crc, self.i.payload, leaving, window_bytes)),
                    ]
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "HUNT"
                with m.If(synchronised):
                    with m.If(header_crc == HEADER_CRC.residue):
                        m.next = "HEADER"
                    with m.Else():
                        m.d.sync += self.header_error.eq(1)
            with m.State("HEADER"):
                m.d.comb += self.o_header.valid.eq(1)
                length = self.o_header.p.length
                m.d.sync += [
                    left.eq(length),
                    payload_crc.eq(PAYLOAD_CRC.initial),
                    end.eq(PacketEnd.GOOD),
                ]
                with m.If(length > PAYLOAD_LIMIT):
                    m.d.sync += end.eq(PacketEnd.OVERSIZE)
                with m.If(self.o_header.ready):
                    m.next = "END"
                    with m.If((length != 0) & (length <= PAYLOAD_LIMIT)):
                        m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += self.i.ready.eq(~self.o_payload.valid)
                with m.If(self.i.ready & self.i.valid):
                    m.d.sync += [
                        self.o_payload.payload.eq(self.i.payload),
                        self.o_payload.valid.eq(1),
                        payload_crc.eq(advance(PAYLOAD_CRC, payload_crc, self.i.payload)),
                        left.eq(left - 1),
                    ]
                    with m.If(left == 1):
                        m.d.sync += left.eq(PAYLOAD_CHECK_BYTES)
                        m.next = "TRAILER"
                self._expire(m, end)
            with m.State("TRAILER"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [
                        payload_crc.eq(advance(PAYLOAD_CRC, payload_crc, self.i.payload)),
                        left.eq(left - 1),
                    ]
                    with m.If(left == 1):
                        m.next = "JUDGE"
                self._expire(m, end)
            with m.State("JUDGE"):
                with m.If(payload_crc != PAYLOAD_CRC.residue):
                    m.d.sync += end.eq(PacketEnd.DAMAGED)
                m.next = "END"
            with m.State("END"):
                m.d.comb += self.o_end.valid.eq(~self.o_payload.valid)
                with m.If(self.o_end.valid & self.o_end.ready):
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.sync += [window.eq(0), header_crc.eq(0)]
                m.next = "HUNT"
        return m

    def _expire(self, m: Module, end: Signal) -> None:
        """Ends the packet when there were too many cycles without a byte."""
        with m.If(~self.i.valid & self.i.ready & self._silence[-1]):
            m.d.sync += end.eq(PacketEnd.TRUNCATED)
            m.next = "END"
