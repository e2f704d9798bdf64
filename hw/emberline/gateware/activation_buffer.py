"""The activation buffer: feature maps, the frame ring and the result, in one true dual-port memory."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.gateware.structures import delayed, memory_output

BANK_WORDS = 2048
"""Depth of one bank, a byte-wide block memory of ECP5. Banks are chosen here, not by the tools: their multiplexer would
ignore the output register."""

READ_LATENCY = 3
"""Cycles from an address at the lanes' port to its word: memory, output register, register behind the banks."""

SHARED_READ_LATENCY = 1 + READ_LATENCY
"""Cycles from a granted request at the shared port to its word: the request's register comes first."""

WRITE_LATENCY = 2
"""Cycles from a group at the shared port to the first cycle in which the lanes' port may ask for it."""


class ActivationBuffer(wiring.Component):
    """``activation_depth_words`` words of ``lanes_in`` bytes, with a port for the lanes and one for everybody else.

    The lanes read a word every cycle. The shared port serves, in this order: result groups, which never wait;
    residual reads; frame bytes; result reads. The last three are requests with ``valid`` and ``ready``.

    Members:
        read_address, read_word: the lanes' port, ``READ_LATENCY`` cycles.
        write_valid, write_address, write_group: ``lanes_out`` bytes to a group address; always accepted.
        residual_*, result_*: ``valid``, ``ready``, ``address`` (in words), and for one cycle ``done``, with
            ``shared_word``, ``SHARED_READ_LATENCY`` cycles after the request was accepted.
        frame_valid, frame_ready, frame_address, frame_lane, frame_byte: byte ``frame_lane`` of a word to write.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        words = range(architecture.activation_depth_words)
        word = unsigned(8 * architecture.lanes_in)
        super().__init__(
            {
                "read_address": In(words),
                "read_word": Out(word),
                "write_valid": In(1),
                "write_address": In(range(architecture.activation_depth_groups)),
                "write_group": In(8 * architecture.lanes_out),
                "residual_valid": In(1),
                "residual_ready": Out(1),
                "residual_address": In(words),
                "residual_done": Out(1),
                "frame_valid": In(1),
                "frame_ready": Out(1),
                "frame_address": In(words),
                "frame_lane": In(range(architecture.lanes_in)),
                "frame_byte": In(8),
                "result_valid": In(1),
                "result_ready": Out(1),
                "result_address": In(words),
                "result_done": Out(1),
                "shared_word": Out(word),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        architecture = self._architecture
        word_width = 8 * architecture.lanes_in
        group_bits = architecture.groups_per_word.bit_length() - 1
        # Cycle 1: one request becomes the shared port's command
        address = Signal.like(self.read_address, reset_less=True)
        value = Signal(word_width, reset_less=True)
        enable = Signal(architecture.lanes_in)
        reads = Signal(data.StructLayout({"residual": 1, "result": 1}))
        m.d.sync += [enable.eq(0), reads.eq(0)]
        m.d.comb += [
            self.residual_ready.eq(~self.write_valid),
            self.frame_ready.eq(~self.write_valid & ~self.residual_valid),
            self.result_ready.eq(~self.write_valid & ~self.residual_valid & ~self.frame_valid),
        ]
        with m.If(self.write_valid):
            m.d.sync += [
                address.eq(self.write_address >> group_bits),
                value.eq(self.write_group.replicate(architecture.groups_per_word)),
                *[
                    enable.word_select(group, architecture.lanes_out).eq(
                        (self.write_address[:group_bits] == group).replicate(architecture.lanes_out)
                    )
                    for group in range(architecture.groups_per_word)
                ],
            ]
        with m.Elif(self.residual_valid):
            m.d.sync += [address.eq(self.residual_address), reads.residual.eq(1)]
        with m.Elif(self.frame_valid):
            m.d.sync += [
                address.eq(self.frame_address),
                value.eq(self.frame_byte.replicate(architecture.lanes_in)),
                enable.eq(1 << self.frame_lane),
            ]
        with m.Elif(self.result_valid):
            m.d.sync += [address.eq(self.result_address), reads.result.eq(1)]

        # Cycle 2: the memories; cycle 3: their output registers; cycle 4: the bank
        self._build_banks(m, address, value, enable)
        done = delayed(m, Cat(reads), SHARED_READ_LATENCY - 1, name="done", reset=True)
        m.d.comb += [self.residual_done.eq(done[0]), self.result_done.eq(done[1])]
        return m

    def _build_banks(self, m: Module, address: Signal, value: Signal, enable: Signal) -> None:
        """Both ports of all banks; ``address``, ``value``, ``enable`` are the shared port's command."""
        architecture = self._architecture
        lanes_words, shared_words = [], []
        bank_bits = BANK_WORDS.bit_length() - 1
        for bank, start in enumerate(range(0, architecture.activation_depth_words, BANK_WORDS)):
            depth = min(BANK_WORDS, architecture.activation_depth_words - start)
            memory = Memory(shape=unsigned(8 * architecture.lanes_in), depth=depth, init=[])
            m.submodules[f"bank_{bank}"] = memory
            lanes = memory.read_port()
            write = memory.write_port(granularity=8)
            read = memory.read_port()
            hit = address[bank_bits:] == bank
            m.d.comb += [
                lanes.addr.eq(self.read_address),
                write.addr.eq(address),
                write.data.eq(value),
                write.en.eq(Mux(hit, enable, 0)),
                read.addr.eq(address),
            ]
            for port, words, name in ((lanes, lanes_words, "lanes"), (read, shared_words, "shared")):
                words.append(memory_output(m, port.data, family=architecture.family, name=f"{name}_{bank}"))
        for words, from_address, target, name in (
            (lanes_words, self.read_address, self.read_word, "lanes"),
            (shared_words, address, self.shared_word, "shared"),
        ):
            if len(words) == 1:
                m.d.sync += target.eq(words[0])
            else:
                bank = delayed(m, from_address[bank_bits:], READ_LATENCY - 1, name=f"{name}_bank")
                m.d.sync += target.eq(Array(words)[bank])
