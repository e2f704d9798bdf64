"""A JUMP waits for the pages that come, and goes on where it says, when it is predicted to."""

from __future__ import annotations

from typing import Any

import pytest

from emberline.arch import timing
from emberline.arch.architecture import Architecture
from emberline.arch.isa import FRAME, RESULT, Fault, Opcode
from emberline.arch.listing import encode
from emberline.gateware.sequencer import Sequencer
from emberline.simulation.streams import simulate

MACHINE = Architecture("small", 4, 4, 256, 256, 64, weight_word_cycles=16)
LOAD = {"source": 8, "length": 4, "address": 3, "words": 1, "cycles": 100, "check": 5, "page": 0}


def zeros(layout: Any) -> dict[str, int]:
    return {field.name: 0 for field in layout.fields if field.name != "opcode"}


def program(target: int) -> dict[int, int]:
    """Prologue, BEGIN, a LOAD and a JUMP; at its target another LOAD."""
    words = encode(Opcode.FRAME, zeros(FRAME)) + encode(Opcode.RESULT, zeros(RESULT))
    words += encode(Opcode.BEGIN, {"wait_rows": 0})
    words += encode(Opcode.LOAD, {**LOAD, "page": 1}) + encode(Opcode.JUMP, {"address": target})
    page = encode(Opcode.LOAD, LOAD)
    return dict(enumerate(words)) | {target + at: word for at, word in enumerate(page)}


def follow(words: dict[int, int], complete: int, *, machine: Architecture = MACHINE) -> tuple[dict[str, Any], int]:
    """When the two LOADs are handed on, with the first one complete so many cycles behind that; and the fault."""
    seen: dict[str, Any] = {}
    dut = Sequencer(machine)

    async def bench(ctx: Any) -> None:
        for address, word in words.items():
            ctx.set(dut.write_enable, 1)
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, word)
            await ctx.tick()
        ctx.set(dut.write_enable, 0)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        loads = []
        for cycle in range(400):
            if ctx.get(dut.o_load_valid):
                loads.append((cycle, ctx.get(dut.o_load.address), ctx.get(dut.o_load.page)))
            # A counter of the LOADs: one more in the cycle behind its LOAD, one less in the one behind its completion
            pending = bool(loads) and cycle < loads[0][0] + complete
            await ctx.tick()
            ctx.set(dut.i_pages_pending, pending)
            if ctx.get(dut.fault):
                break
        seen["loads"], seen["fault"] = loads, ctx.get(dut.fault)

    simulate(dut, bench, monitored=[], deadline_cycles=1000)
    return seen, seen["fault"]


@pytest.mark.parametrize("complete", [1, 8, 9, 10, 11, 12, 13, 14, 57])
@pytest.mark.parametrize("target", [22, 40, 59])
def test_a_jump_waits_for_its_page(complete: int, target: int) -> None:
    seen, _ = follow(program(target), complete)
    (first, _, page), (second, address, other) = seen["loads"][:2]
    assert (page, address, other) == (1, LOAD["address"], 0)
    clock = timing.FrameClock(MACHINE)
    clock.load({"cycles": 0, "page": 1})
    begin = clock._request - 1  # the cycle of the first LOAD
    clock._page_complete = begin + complete
    clock.jump()
    clock.load({"cycles": 0})
    assert second - first == clock._request - 1 - begin


def test_a_machine_without_a_source_knows_no_jump() -> None:
    words = program(40)
    prologue = len(encode(Opcode.FRAME, zeros(FRAME)) + encode(Opcode.RESULT, zeros(RESULT))) + 1
    words[prologue] = encode(Opcode.JUMP, {"address": 40})[0]
    machine = Architecture("plain", 4, 4, 256, 256, 64)
    assert follow(words, 1, machine=machine)[1] == Fault.OPCODE.value


def test_a_jump_may_be_the_last_word() -> None:
    words = program(40)
    prologue = len(encode(Opcode.FRAME, zeros(FRAME)) + encode(Opcode.RESULT, zeros(RESULT))) + 1
    jump = encode(Opcode.JUMP, {"address": 63})[0]
    words[prologue] = jump
    words[63] = encode(Opcode.JUMP, {"address": 40})[0]
    seen, fault = follow(words, 1)
    assert not fault
    assert seen["loads"][0][1] == LOAD["address"]
