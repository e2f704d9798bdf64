"""The activation buffer: feature maps, the frame ring and the result, in one true dual-port memory."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.gateware.pixel_pieces import PIECE, PIECE_BYTES
from emberline.gateware.structures import copies, delayed, memory_output

BANK_WORDS = 2048
"""Depth of one bank, a byte-wide block memory of ECP5. Banks are chosen here, not by the tools: their multiplexer would
ignore the output register."""

READ_LATENCY = 5
"""Cycles from an address at the lanes' port to its word: a register for each bank, one for each of its parts, memory,
output register, register behind the banks."""

SHARED_READ_LATENCY = 3 + READ_LATENCY
"""Cycles from a residual request that finds the port free to its word: who comes next, and the request's registers."""


_PART_BYTES = 4
"""A bank's bytes that have their own address registers: its block memories lie far apart."""

_BANK_COPIES = 8
"""Registers that choose the bank, each for its share of a word."""


class ActivationBuffer(wiring.Component):
    """``activation_depth_words`` words of ``lanes_in`` bytes, with a port for the lanes and one for everybody else.

    The lanes read a word every cycle. The shared port serves, in this order: result groups, which never wait;
    residual reads; the frame; result reads. The last three are requests with ``valid`` and ``ready``.

    Members:
        read_address, read_word: the lanes' port, ``READ_LATENCY`` cycles.
        write_valid, write_address, write_group: ``lanes_out`` bytes to a group address; always accepted.
        residual_*, result_*: ``valid``, ``ready``, ``address`` (in words), and for one cycle ``done``, with
            ``shared_word``, some cycles after the request was accepted. Residual words come in the order of requests.
        frame_valid, frame_ready, frame_address, frame_enable, frame_bytes: bytes of a word to write, byte ``i`` of it
            from byte ``i % PIECE_BYTES`` of ``frame_bytes``.
        A result request, at most every other cycle, waits for ``ready`` unchanged.
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
                "frame_enable": In(architecture.lanes_in),
                "frame_bytes": In(PIECE),
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
        # Two residual requests wait in registers of their own, so that whether there is room is one.
        waits, more_wait = Signal(), Signal()
        residual_address, next_address = (
            Signal.like(self.residual_address, name=name, reset_less=True) for name in ("waiting", "next_waiting")
        )
        asked = Signal()
        m.d.comb += [self.residual_ready.eq(~more_wait), asked.eq(self.residual_valid & ~more_wait)]
        with m.If(~waits | ~self.write_valid):
            m.d.sync += [
                waits.eq(asked | more_wait),
                residual_address.eq(Mux(more_wait, next_address, self.residual_address)),
                more_wait.eq(0),
            ]
        with m.Elif(asked):
            m.d.sync += [more_wait.eq(1), next_address.eq(self.residual_address)]
        # Cycle 1: who comes next
        writes, frames = Signal(), Signal()
        reads = Signal(data.StructLayout({"residual": 1, "result": 1}))
        free = ~self.write_valid & ~waits
        m.d.sync += [
            writes.eq(self.write_valid),
            reads.residual.eq(~self.write_valid & waits),
            frames.eq(free & self.frame_valid),
            reads.result.eq(free & ~self.frame_valid & self.result_valid & ~reads.result),
        ]
        m.d.comb += [self.frame_ready.eq(free), self.result_ready.eq(reads.result)]
        group = delayed(m, self.write_group, 1, name="group")
        group_address = delayed(m, self.write_address, 1, name="group_address")
        read_address = delayed(m, residual_address, 1, name="residual_address")
        frame_address = delayed(m, self.frame_address, 1, name="frame_address")
        frame_bytes = delayed(m, self.frame_bytes.as_value(), 1, name="frame_bytes")
        frame_enable = delayed(m, self.frame_enable, 1, name="frame_enable")
        # Cycle 2: its command
        address = Signal.like(self.read_address, reset_less=True)
        value = Signal(word_width, reset_less=True)
        enable = Signal(architecture.lanes_in)
        with m.If(writes):
            m.d.sync += address.eq(group_address >> group_bits)
        with m.Elif(reads.residual):
            m.d.sync += address.eq(read_address)
        with m.Elif(frames):
            m.d.sync += address.eq(frame_address)
        with m.Else():
            m.d.sync += address.eq(self.result_address)
        m.d.sync += [
            value.eq(
                Mux(
                    writes,
                    group.replicate(architecture.groups_per_word),
                    frame_bytes.replicate(architecture.lanes_in // PIECE_BYTES),
                )
            ),
            *[
                bit.eq(
                    (writes & (group_address[:group_bits] == index // architecture.lanes_out))
                    | (frames & frame_enable[index])
                )
                for index, bit in enumerate(enable)
            ],
        ]
        # Cycles 3, 4: registers for each bank and its parts; 5: the memories; 6: their output registers; 7: the bank
        self._build_banks(m, address, value, enable)
        done = delayed(m, Cat(reads), 1 + READ_LATENCY, name="done", reset=True)
        m.d.comb += [self.residual_done.eq(done[0]), self.result_done.eq(done[1])]
        return m

    def _build_banks(self, m: Module, address: Signal, value: Signal, enable: Signal) -> None:
        """Both ports of all banks; ``address``, ``value``, ``enable`` are the shared port's command."""
        architecture, family = self._architecture, self._architecture.family
        bank_bits = BANK_WORDS.bit_length() - 1
        starts = range(0, architecture.activation_depth_words, BANK_WORDS)
        ends = [*range(_PART_BYTES, architecture.lanes_in, _PART_BYTES), architecture.lanes_in]
        parts = [slice(index * _PART_BYTES, end) for index, end in enumerate(ends)]
        value = delayed(m, value, 2, name="bank_value")
        enables = delayed(m, enable, 1, name="bank_enable", reset=True)
        addresses = {"lanes": self.read_address, "shared": address}
        banks = {
            name: copies(m, at[:bank_bits], len(starts), family=family, name=f"{name}_address")
            for name, at in addresses.items()
        }
        words: dict[str, list[Value]] = {name: [] for name in addresses}
        for bank, start in enumerate(starts):
            depth = min(BANK_WORDS, architecture.activation_depth_words - start)
            hit = address[bank_bits:] == bank if len(starts) > 1 else Const(1)
            hits = copies(m, hit, len(parts), family=family, name=f"hit_{bank}")
            near = {
                name: copies(m, at[bank], len(parts), family=family, name=f"{name}_address_{bank}")
                for name, at in banks.items()
            }
            found: dict[str, list[Value]] = {name: [] for name in addresses}
            for index, part in enumerate(parts):
                memory = Memory(shape=unsigned(8 * (part.stop - part.start)), depth=depth, init=[])
                m.submodules[f"bank_{bank}_{index}"] = memory
                write = memory.write_port(granularity=8)
                bank_enable = Signal(part.stop - part.start, name=f"enable_{bank}_{index}", reset_less=True)
                m.d.sync += bank_enable.eq(Mux(hits[index], enables[part], 0))
                m.d.comb += [
                    write.addr.eq(near["shared"][index]),
                    write.data.eq(value[8 * part.start : 8 * part.stop]),
                    write.en.eq(bank_enable),
                ]
                for name, at in near.items():
                    read = memory.read_port()
                    m.d.comb += read.addr.eq(at[index])
                    found[name].append(memory_output(m, read.data, family=family, name=f"{name}_{bank}_{index}"))
            for name, bytes_found in found.items():
                words[name].append(Cat(*bytes_found))
        for (name, at), target in zip(addresses.items(), (self.read_word, self.shared_word), strict=True):
            word = Signal.like(target, name=f"{name}_word", reset_less=True)
            m.d.comb += target.eq(word)
            if len(starts) == 1:
                m.d.sync += word.eq(words[name][0])
                continue
            bank = delayed(m, at[bank_bits:], READ_LATENCY - 2, name=f"{name}_bank")
            each = copies(m, bank, _BANK_COPIES, family=family, name=f"{name}_bank")
            share = -(-len(word) // _BANK_COPIES)
            for index, selected in enumerate(each):
                bits = slice(index * share, min(len(word), (index + 1) * share))
                m.d.sync += word[bits].eq(Array(bank_word[bits] for bank_word in words[name])[selected])
