"""Reads the result region out of the activation buffer as bytes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from emberline.arch.architecture import Architecture
from emberline.arch.isa import ADDRESS_WIDTH, RESULT
from emberline.gateware.structures import structure

RESULT_BYTES_WIDTH = 20

SETTINGS = structure(RESULT, skip=("opcode",))


class ResultReader(wiring.Component):
    """Streams the result words, low byte first, each time it is started.

    Members:
        settings, i_configure: the RESULT instruction.
        i_start: begin from the first byte; a read in progress starts again.
        o_bytes: exactly ``o_size`` bytes for each start.
        o_size: bytes of the result; 0 before the first RESULT.
        o_valid, o_address, i_ready, i_done, i_word: reads of the activation buffer.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__(
            {
                "settings": In(SETTINGS),
                "i_configure": In(1),
                "i_start": In(1),
                "o_bytes": Out(stream.Signature(8)),
                "o_size": Out(RESULT_BYTES_WIDTH),
                "o_valid": Out(1),
                "o_address": Out(range(architecture.activation_depth_words)),
                "i_ready": In(1),
                "i_done": In(1),
                "i_word": In(8 * architecture.lanes_in),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        group_bits = architecture.groups_per_word.bit_length() - 1
        config = Signal(SETTINGS)
        address = Signal(ADDRESS_WIDTH)
        words_left = Signal(16)
        word = Signal(8 * architecture.lanes_in, reset_less=True)
        bytes_left = Signal(range(architecture.lanes_in + 1))
        requested = Signal()
        ignore = Signal()  # the word under way belongs to a read that was started again

        asks, more, shifts, valid, loads = Signal(), Signal(), Signal(), Signal(), Signal()
        # A cycle later, when the word follows
        shifted, loaded, moves = Signal(), Signal(), Signal()
        byte = Signal(8, reset_less=True)
        arrived, held = (Signal.like(word, name=name, reset_less=True) for name in ("arrived", "held"))
        m.d.sync += more.eq(words_left != 0)
        m.d.comb += [
            self.o_size.eq(config.words << ceil_log2(architecture.lanes_in)),
            self.o_address.eq(address),
            self.o_bytes.valid.eq(valid),
            self.o_bytes.payload.eq(byte),
            self.o_valid.eq(asks),
        ]
        m.d.sync += [
            asks.eq(more & (bytes_left == 0) & ~requested & ~loads & ~asks),
            arrived.eq(self.i_word),
            held.eq(arrived),
            loads.eq(self.i_done & ~ignore),
            shifts.eq((bytes_left != 0) & ~valid & ~shifts & ~shifted),
            shifted.eq(shifts),
            loaded.eq(loads),
            moves.eq(loads | shifts),
        ]
        with m.If(asks & ~self.i_ready):
            m.d.sync += asks.eq(1)
        with m.If(asks & self.i_ready):
            m.d.sync += [address.eq(address + 1), words_left.eq(words_left - 1), requested.eq(1)]
        with m.If(self.i_done):
            m.d.sync += [requested.eq(0), ignore.eq(0)]
        with m.If(self.o_bytes.ready):
            m.d.sync += valid.eq(0)
        with m.If(loads):
            m.d.sync += bytes_left.eq(architecture.lanes_in)
        with m.If(shifts):
            m.d.sync += bytes_left.eq(bytes_left - 1)
        with m.If(moves):
            m.d.sync += word.eq(Mux(loaded, held, word >> 8))
        with m.If(shifted):
            m.d.sync += [byte.eq(word[:8]), valid.eq(1)]
        with m.If(self.i_configure):
            m.d.sync += config.eq(self.settings)
        with m.If(self.i_start):
            m.d.sync += [
                address.eq(config.start >> group_bits),
                words_left.eq(config.words),
                bytes_left.eq(0),
                more.eq(0),
                asks.eq(0),
                loads.eq(0),
                shifts.eq(0),
                shifted.eq(0),
                loaded.eq(0),
                moves.eq(0),
                valid.eq(0),
                ignore.eq((requested & ~self.i_done) | asks),
            ]
        return m
