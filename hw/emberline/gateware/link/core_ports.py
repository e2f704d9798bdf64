"""What the link needs of the accelerator, seen from the link."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.packets import SUPPLY_WORDS

CHUNK_BYTES = 4
"""Bytes of one weight write."""


def supply_members(architecture: Architecture) -> dict[str, wiring.Member]:
    """The ports through which weights come while a frame is computed, if it has them, seen from the link."""
    if not architecture.fetches_from_link:
        return {}
    return {
        "supply_enable": Out(1),
        "supply_data": Out(8 * CHUNK_BYTES),
        "supply_commit": Out(1),
        "supply_abort": Out(1),
        "supply_room": In(range(SUPPLY_WORDS + 1)),
        "supply_awaited": In(1),
    }


class CoreSignature(wiring.Signature):
    """The accelerator's ports, with the directions of the side that drives it.

    Members:
        program_enable, program_address, program_data: writes a word of instruction memory.
        weight_enable, weight_address, weight_data: writes four bytes of the weight image.
        i_frame: bytes of rows; never more than ``frame_free_rows`` rows that are not committed.
        frame_free_rows, frame_row_bytes: room, and the size of a row (0 before a program runs).
        frame_commit, frame_abort: strobes: what was sent since the last of them counts, or is forgotten.
        frames_done: frames finished, modulo 2^16. result_valid: the last one's result waits.
        result_bytes: its size. result_start: strobe: send it, from its first byte. o_result: its bytes.
        result_release: strobe: it may be overwritten.
        start: strobe: run from word 0. clear: strobe: stop and forget.
        running, fault: state; ``fault`` is 0 or a reason.
        cycles, stall_cycles: of the last finished frame.
        supply_enable, supply_data: writes a word of weights, never more than ``supply_room`` that are not committed.
        supply_commit, supply_abort: strobes, as for frames. supply_awaited: weights are waited for. All six only on a
            machine that gets weights over the link.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(
            {
                "program_enable": Out(1),
                "program_address": Out(range(architecture.program_depth_words)),
                "program_data": Out(32),
                "weight_enable": Out(1),
                "weight_address": Out(range(architecture.weight_bytes // CHUNK_BYTES)),
                "weight_data": Out(8 * CHUNK_BYTES),
                "i_frame": Out(stream.Signature(8)),
                "frame_free_rows": In(12),
                "frame_row_bytes": In(20),
                "frame_commit": Out(1),
                "frame_abort": Out(1),
                "frames_done": In(16),
                "result_valid": In(1),
                "result_bytes": In(20),
                "result_start": Out(1),
                "o_result": In(stream.Signature(8)),
                "result_release": Out(1),
                "start": Out(1),
                "clear": Out(1),
                "running": In(1),
                "fault": In(8),
                "cycles": In(32),
                "stall_cycles": In(32),
                **supply_members(architecture),
            }
        )


def connect_core(m: Module, link: wiring.PureInterface, core: wiring.Component) -> None:
    """Connects a link's `CoreSignature` to the component that has ports of the same names."""
    for name, member in link.signature.members.items():
        ours, theirs = getattr(link, name), getattr(core, name)
        if member.is_signature:
            wiring.connect(m, ours, theirs)
        elif member.flow is Out:
            m.d.comb += theirs.eq(ours)
        else:
            m.d.comb += ours.eq(theirs)
