"""The ports that every sequencer has."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import Architecture
from emberline.arch.layout import WORD_WIDTH
from emberline.gateware import frame_writer, result_reader


def program_members(architecture: Architecture) -> dict[str, wiring.Member]:
    """What executes a program has, whatever its ROWs are handed out to.

    write_enable, write_address, write_data: the instruction memory.
    start: run from word 0; only while not ``running``.
    running, fault (`emberline.arch.isa.Fault`).
    o_frame, o_frame_configure: a FRAME instruction; o_result, o_result_configure: a RESULT instruction.
    i_row_done: a ROW's last group has been written.
    i_rows, i_rows_count: frame rows have come; o_release, o_release_count: rows that are free again.
    result_release: the result may be overwritten.
    result_valid, frames_done: a frame has been computed. cycles, stall_cycles: of that frame: from BEGIN with its rows
        there to the last group written; those of them in which only the link, or a late LOAD, was waited for, or a JUMP
        waited for a late one.
    """
    return {
        "write_enable": In(1),
        "write_address": In(range(architecture.program_depth_words)),
        "write_data": In(WORD_WIDTH),
        "start": In(1),
        "running": Out(1),
        "fault": Out(8),
        "o_frame": Out(frame_writer.SETTINGS),
        "o_frame_configure": Out(1),
        "o_result": Out(result_reader.SETTINGS),
        "o_result_configure": Out(1),
        "i_row_done": In(1),
        "i_rows": In(1),
        "i_rows_count": In(frame_writer.ROW_COUNT_WIDTH),
        "o_release": Out(1),
        "o_release_count": Out(8),
        "result_release": In(1),
        "result_valid": Out(1),
        "frames_done": Out(16),
        "cycles": Out(32),
        "stall_cycles": Out(32),
    }
