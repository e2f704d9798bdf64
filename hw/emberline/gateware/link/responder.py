"""Composes the response to a request."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.layout import WORD_WIDTH, Layout
from emberline.arch.packets import (
    IDENTITY,
    RESPONSE,
    RESULT,
    STATUS,
    SUPPLY_PIECE_WORDS,
    RequestType,
    ResponseCode,
    identity,
)
from emberline.gateware.structures import structure

WORD_BYTES = WORD_WIDTH // 8
RESPONSE_LAYOUT = structure(RESPONSE)
FREE_ROWS_LIMIT = (1 << RESPONSE_LAYOUT["free_rows"].width) - 1

RESULT_FIRST_WORD = structure(STATUS)["cycles"].offset // WORD_WIDTH
"""A `RESULT` is a piece of a `STATUS`."""


def _words(layout: Layout, record: data.View) -> list[Value]:
    bits = record.as_value()
    padded = Cat(bits, Const(0, layout.word_count * WORD_WIDTH - len(bits)))
    return [padded.word_select(index, WORD_WIDTH) for index in range(layout.word_count)]


class Responder(wiring.Component):
    """Sends one response: its header and, if the code is ``OK``, what the request asked for.

    Parameters: ``architecture``, which `RequestType.IDENTITY` describes.

    Members:
        start: strobe: compose the response to ``type`` and ``sequence`` with ``code``; only while ``busy`` is 0.
        type, sequence, code: unchanged from ``start`` until ``busy`` falls.
        busy: the response has not been handed over completely.
        status: what `RequestType.STATUS` reports; each 32-bit word of it is sent as it is at one moment.
        result_start, i_result: strobe for, and bytes of, a result of ``status.result_bytes`` bytes.
        o_header, o_payload: for the transmitter.

    The bytes of a record take seven cycles for each word; those of a result pass through.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._identity = [Const(word, WORD_WIDTH) for word in IDENTITY.pack(identity(architecture))]
        super().__init__(
            {
                "start": In(1),
                "type": In(RESPONSE_LAYOUT["type"].shape),
                "sequence": In(RESPONSE_LAYOUT["sequence"].shape),
                "code": In(RESPONSE_LAYOUT["code"].shape),
                "busy": Out(1),
                "status": In(structure(STATUS)),
                "result_start": Out(1),
                "i_result": In(stream.Signature(8)),
                "o_header": Out(stream.Signature(RESPONSE_LAYOUT)),
                "o_payload": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        status_words = _words(STATUS, self.status)
        last_index = max(len(self._identity), len(status_words))
        index = Signal(range(last_index + 1))
        last = Signal(range(last_index + 1))
        identity_word, status_word = (Signal(WORD_WIDTH, name=name, reset_less=True) for name in ("identity", "state"))
        chosen = Signal(last_index + 1, reset_less=True)
        m.d.sync += [chosen[position].eq(index == position) for position in range(last_index + 1)]
        for target, words in ((identity_word, self._identity), (status_word, status_words)):
            terms = [Mux(chosen[position], each, 0) for position, each in enumerate(words)]
            m.d.sync += target.eq(reduce(or_, terms))
        word = Signal(WORD_WIDTH, reset_less=True)
        byte = Signal(range(WORD_BYTES))
        has_words, with_result = Signal(), Signal()
        left = Signal(signed(len(self.status.result_bytes) + 1), reset_less=True)  # bytes of a result, less two
        empty = Signal(reset_less=True)
        header = Signal(RESPONSE_LAYOUT, reset_less=True)
        m.d.comb += [self.o_header.payload.eq(header), self.busy.eq(1)]
        # What the states decide by, in time, as a word takes several cycles
        is_last, result_follows = Signal(), Signal()
        m.d.sync += [
            self.result_start.eq(0),
            is_last.eq(index == last),
            result_follows.eq(with_result & ~empty),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.next = "COMPOSE"
            with m.State("COMPOSE"):
                self._compose(m, header, index, last, has_words, with_result)
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += self.o_header.valid.eq(1)
                m.d.sync += [left.eq(self.status.result_bytes - 2), empty.eq(self.status.result_bytes == 0)]
                with m.If(self.o_header.ready):
                    m.d.sync += self.result_start.eq(with_result)
                    m.next = "IDLE"
                    with m.If(has_words):
                        m.next = "SELECT"
            with m.State("SELECT"):
                m.d.sync += index.eq(index + 1)
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += word.eq(Mux(self.type == RequestType.IDENTITY, identity_word, status_word))
                m.next = "WORD"
            with m.State("WORD"):
                m.d.comb += [self.o_payload.valid.eq(1), self.o_payload.payload.eq(word[:8])]
                with m.If(self.o_payload.ready):
                    m.d.sync += [word.eq(word >> 8), byte.eq(byte + 1)]
                    with m.If(byte == WORD_BYTES - 1):
                        m.next = "NEXT"
            with m.State("NEXT"):
                m.next = "SELECT"
                with m.If(is_last):
                    m.next = "IDLE"
                    with m.If(result_follows):
                        m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += [
                    self.o_payload.valid.eq(self.i_result.valid),
                    self.o_payload.payload.eq(self.i_result.payload),
                    self.i_result.ready.eq(self.o_payload.ready),
                ]
                with m.If(self.o_payload.valid & self.o_payload.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left[-1]):
                        m.next = "IDLE"
        return m

    def _compose(
        self, m: Module, header: data.View, index: Signal, last: Signal, has_words: Signal, with_result: Signal
    ) -> None:
        """The header, and which words follow it."""
        status = self.status
        m.d.sync += [
            header.type.eq(self.type),
            header.code.eq(self.code),
            header.sequence.eq(self.sequence),
            header.running.eq(status.running),
            header.faulted.eq(status.fault != 0),
            header.result_valid.eq(status.result_valid),
            header.weight_room.eq(status.free_weight_words >= SUPPLY_PIECE_WORDS),
            header.free_rows.eq(Mux(status.free_rows > FREE_ROWS_LIMIT, FREE_ROWS_LIMIT, status.free_rows)),
            header.frames_done.eq(status.frames_done),
            header.length.eq(0),
            has_words.eq(0),
            with_result.eq(0),
        ]
        with m.If(self.code == ResponseCode.OK):
            for request, first, layout in (
                (RequestType.IDENTITY, 0, IDENTITY),
                (RequestType.STATUS, 0, STATUS),
                (RequestType.READ_RESULT, RESULT_FIRST_WORD, RESULT),
            ):
                with m.If(self.type == request):
                    m.d.sync += [
                        header.length.eq(layout.word_count * WORD_BYTES),
                        has_words.eq(1),
                        index.eq(first),
                        last.eq(first + layout.word_count),
                    ]
            with m.If(self.type == RequestType.READ_RESULT):
                m.d.sync += [
                    header.length.eq(RESULT.word_count * WORD_BYTES + status.result_bytes),
                    with_result.eq(1),
                ]
