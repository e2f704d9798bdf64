"""The whole link in front of a stand-in for the accelerator: request by request, it answers as its Python twin does."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from fake_machine import FAULT_BYTE, FakeAccelerator, FakeMachine, configuration

from emberline.arch.architecture import Architecture
from emberline.arch.framing import PacketReader, encode_request
from emberline.arch.packets import (
    PAYLOAD_LIMIT,
    REQUEST_SYNC,
    RESULT,
    ROWS,
    STATUS,
    SUPPLY_PIECE_WORDS,
    SUPPLY_WORDS,
    RequestType,
    ResponseCode,
    from_bytes,
)
from emberline.driver.link_model import LinkModel
from emberline.gateware.link.core_ports import connect_core
from emberline.gateware.link.host_link import HostLink
from emberline.simulation.streams import PATTERNS, Pattern, simulate

ARCHITECTURE = Architecture("test", 4, 4, 64, 16, 64, 1)
SUPPLIED = replace(ARCHITECTURE, weight_source="link", weight_word_cycles=16)
SILENCE = 100
ROW_BYTES, ROWS_OF_FRAME, RING_ROWS = 5, 3, 7
WEIGHT_BYTES = ARCHITECTURE.weight_bytes
OK = ResponseCode.OK


class Board(wiring.Component):
    """The link and the stand-in."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = FakeAccelerator(self._architecture)
        m.submodules.link = link = HostLink(self._architecture, silence_cycles=SILENCE)
        connect_core(m, link.core, core)
        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        return m


@dataclass
class Step:
    """Bytes for the board, then perhaps a silence; ``answer`` is what came back."""

    data: bytes
    silent: bool = False
    answer: bytes = b""

    @property
    def code(self) -> ResponseCode:
        (packet,) = PacketReader.of_responses().feed(self.answer)
        return ResponseCode(packet.header["code"])

    @property
    def header(self) -> dict[str, int]:
        (packet,) = PacketReader.of_responses().feed(self.answer)
        return packet.header

    @property
    def payload(self) -> bytes:
        (packet,) = PacketReader.of_responses().feed(self.answer)
        return packet.payload


def play(
    steps: list[Step], pattern: Pattern = PATTERNS[0], seed: int = 0, architecture: Architecture = ARCHITECTURE
) -> list[Step]:
    """Let the board answer step by step; each answer must be the twin's."""
    twin = LinkModel(architecture, FakeMachine(architecture.fetches_from_link))
    dut = Board(architecture)
    idle, stall = pattern.idle(seed), pattern.stall(seed)

    async def bench(ctx) -> None:
        for index, step in enumerate(steps):
            expected = twin.feed(step.data)
            if step.silent:
                expected += twin.silence()
            answer = bytearray()
            to_send = list(step.data)
            quiet = 0
            while to_send or quiet < (4 * SILENCE if step.silent or len(answer) >= len(expected) else 2000):
                if to_send and not ctx.get(dut.i.valid):
                    ctx.set(dut.i.valid, not next(idle))
                    ctx.set(dut.i.payload, to_send[0])
                ctx.set(dut.o.ready, not next(stall))
                _, _, ready, taken, valid, byte = await ctx.tick().sample(
                    dut.i.ready, dut.i.valid, dut.o.valid & dut.o.ready, dut.o.payload
                )
                if ready and taken:
                    to_send.pop(0)
                    ctx.set(dut.i.valid, 0)
                quiet = 0 if valid or (ready and taken) else quiet + 1
                if valid:
                    answer.append(byte)
                if not to_send and not step.silent and len(answer) >= len(expected) and quiet > 4:
                    break
            step.answer = bytes(answer)
            assert step.answer == expected, f"step {index}: {step.data[:40].hex()}"

    simulate(dut, bench, deadline_cycles=300_000)
    return steps


class Requests:
    """Composes requests with rising sequence numbers."""

    def __init__(self) -> None:
        self.sequence = 100
        self.first_row = 0
        self.first_word = 0

    def __call__(self, request: int, argument: int = 0, payload: bytes = b"", *, version: int = 1) -> Step:
        self.sequence = self.sequence + 1 & 0xFF
        data = encode_request(RequestType.STATUS, self.sequence, argument, payload)
        if request != RequestType.STATUS or version != 1:
            from emberline.arch.framing import encode
            from emberline.arch.packets import REQUEST

            header = {"type": request, "version": version, "sequence": self.sequence, "argument": argument}
            data = encode(REQUEST_SYNC, REQUEST, header, payload)
        return Step(data)

    def program(self, rows: int = ROWS_OF_FRAME) -> Step:
        word = configuration(ROW_BYTES, rows, RING_ROWS)
        return self(RequestType.WRITE_PROGRAM, 0, word.to_bytes(4, "little"))

    def start(self) -> list[Step]:
        self.first_row = self.first_word = 0
        return [self.program(), self(RequestType.START, 0xCAFE_F00D)]

    def rows(self, data: bytes, *, announced: int | None = None, first_row: int | None = None) -> Step:
        count = len(data) // ROW_BYTES if announced is None else announced
        first = self.first_row if first_row is None else first_row
        step = self(RequestType.FRAME_ROWS, ROWS.pack({"first_row": first, "rows": count})[0], data)
        return step


def weights(seed: float, words: int) -> bytes:
    return random.Random(seed).randbytes(4 * words)


def frame(seed: float, rows: int = ROWS_OF_FRAME) -> bytes:
    return bytes(byte & 0x7F for byte in random.Random(seed).randbytes(rows * ROW_BYTES))


def codes(steps: list[Step]) -> list[ResponseCode]:
    return [step.code for step in steps]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_frame_goes_in_and_its_result_comes_out(pattern: Pattern) -> None:
    new = Requests()
    data = frame(1)
    steps = [
        new(RequestType.IDENTITY),
        new(RequestType.WRITE_WEIGHTS, 0, bytes((5, 0, 0, 0, 6, 7, 8, 9))),
        *new.start(),
        new.rows(data),
        new(RequestType.STATUS),
        new(RequestType.READ_RESULT, 0),
        new(RequestType.READ_RESULT, 0),
        new(RequestType.RELEASE_RESULT, 0),
        new(RequestType.STATUS),
    ]
    play(steps, pattern, 3)
    assert codes(steps) == [OK] * len(steps)
    times, result = from_bytes(RESULT, steps[6].payload), steps[6].payload[8:]
    assert result == bytes((sum(data[at : at + ROW_BYTES]) + 5) & 0xFF for at in range(0, len(data), ROW_BYTES))
    assert times == {"cycles": 24, "stall_cycles": 1}
    assert steps[7].payload == steps[6].payload
    status = from_bytes(STATUS, steps[5].payload)
    assert status["program_id"] == 0xCAFE_F00D and status["rows_entered"] == 3 and status["result_valid"]
    assert not from_bytes(STATUS, steps[9].payload)["result_valid"]


def test_every_refusal_has_its_code() -> None:
    new = Requests()
    two_rows, many_rows = frame(2, 2), frame(3, RING_ROWS + 1)
    steps = [
        new(RequestType.STATUS, version=2),
        new(0),
        new(15),
        new(RequestType.STATUS, 0, b"superfluous"),
        new(RequestType.WRITE_PROGRAM, 0),
        new(RequestType.WRITE_PROGRAM, 0, bytes(6)),
        new(RequestType.WRITE_PROGRAM, 62, bytes(12)),
        new(RequestType.WRITE_PROGRAM, 0xFFFF_FFFF, bytes(12)),
        new(RequestType.WRITE_WEIGHTS, WEIGHT_BYTES // 4, bytes(4)),
        new(RequestType.WRITE_WEIGHTS, 0x8000_0000, bytes(4)),
        new(RequestType.WEIGHT_STREAM, 0, bytes(4)),
        new(RequestType.START, 0, bytes(4)),
        new.rows(two_rows),
        *new.start(),
        new(RequestType.START),
        new.program(),
        new(RequestType.WRITE_WEIGHTS, 0, bytes(4)),
        new.rows(two_rows, first_row=1),
        new.rows(two_rows[:-1], announced=2),
        new.rows(two_rows, announced=3),
        new.rows(b""),
        new.rows(many_rows),
        new(RequestType.READ_RESULT, 0),
        new(RequestType.RELEASE_RESULT, 0xFFFF),
        new.rows(bytes((FAULT_BYTE,)) * ROW_BYTES),
        new.rows(two_rows, first_row=1),
        new(RequestType.START),
        new(RequestType.RESET),
        new(RequestType.STATUS),
        new(RequestType.START),
        new.rows(two_rows),
    ]
    play(steps)
    code = ResponseCode
    assert codes(steps) == [
        code.BAD_VERSION,
        *[code.UNKNOWN_TYPE] * 2,
        *[code.BAD_LENGTH] * 3,
        *[code.BAD_ADDRESS] * 4,
        code.UNKNOWN_TYPE,
        code.BAD_LENGTH,
        code.NOT_RUNNING,
        *[OK] * 2,
        *[code.RUNNING] * 3,
        code.OUT_OF_STEP,
        *[code.BAD_ROWS] * 2,
        code.BAD_LENGTH,
        code.NO_ROOM,
        *[code.NO_RESULT] * 2,
        OK,
        *[code.FAULTED] * 2,
        *[OK] * 4,
    ]
    assert steps[-5].header["faulted"] == 1 and steps[-2].header["running"] == 1


def test_the_last_words_of_the_memories_can_be_written() -> None:
    new = Requests()
    steps = [
        new(RequestType.WRITE_PROGRAM, 62, bytes(8)),
        new(RequestType.WRITE_WEIGHTS, WEIGHT_BYTES // 4 - 1, bytes(4)),
        new(RequestType.WRITE_WEIGHTS, 0, bytes(WEIGHT_BYTES)),
    ]
    assert codes(play(steps)) == [OK] * 3


def test_retries_have_no_second_effect() -> None:
    new = Requests()
    start = new.start()
    rows = new.rows(frame(4))
    release = new(RequestType.RELEASE_RESULT, 0)
    new.first_row = 3
    steps = [
        *start,
        Step(start[-1].data),
        rows,
        Step(rows.data),
        Step(rows.data),
        release,
        Step(release.data),
        new.rows(frame(5, 2)),
        new(RequestType.STATUS),
    ]
    play(steps)
    assert codes(steps) == [OK] * len(steps)
    status = from_bytes(STATUS, steps[-1].payload)
    assert (status["rows_entered"], status["frames_done"], status["free_rows"]) == (5, 1, RING_ROWS - 2)


def test_damaged_and_truncated_requests_are_answered_and_have_no_effect() -> None:
    new = Requests()
    start = new.start()
    good = new.rows(frame(6))
    damaged = bytearray(good.data)
    damaged[20] ^= 0x10
    header = bytearray(good.data)
    header[5] ^= 1
    steps = [
        *start,
        Step(bytes(damaged)),
        Step(good.data[:17], silent=True),
        Step(good.data[:-1], silent=True),
        Step(bytes(header) + good.data),
        new(RequestType.READ_RESULT, 0),
        new(RequestType.STATUS),
    ]
    play(steps)
    assert codes(steps[2:6]) == [ResponseCode.DAMAGED, ResponseCode.TRUNCATED, ResponseCode.TRUNCATED, OK]
    status = from_bytes(STATUS, steps[-1].payload)
    assert (status["payload_errors"], status["truncations"], status["header_errors"]) == (1, 2, 1)
    assert status["rows_entered"] == ROWS_OF_FRAME and status["frames_done"] == 1


def test_an_announcement_beyond_the_limit_swallows_nothing() -> None:
    new = Requests()
    long = bytearray(new(RequestType.FRAME_ROWS, 0, bytes(PAYLOAD_LIMIT)).data[:2])
    from emberline.arch.packets import HEADER_CRC, REQUEST, to_bytes

    header = {"type": 6, "version": 1, "sequence": 7, "argument": 0, "length": PAYLOAD_LIMIT + 1}
    packed = to_bytes(REQUEST, header)
    long += packed + HEADER_CRC.compute(packed).to_bytes(2, "little")
    steps = [Step(bytes(long)), new(RequestType.STATUS)]
    assert codes(play(steps)) == [ResponseCode.BAD_LENGTH, OK]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_frame_waits_for_its_weights_from_the_link(pattern: Pattern) -> None:
    new = Requests()
    data, words = frame(1), weights(2, ROWS_OF_FRAME + 1)
    steps = [
        new(RequestType.WRITE_WEIGHTS, 0, bytes((5, 0, 0, 0))),
        *new.start(),
        new.rows(data),
        new(RequestType.WEIGHT_STREAM, 0, words[:4]),
        new(RequestType.STATUS),
        new(RequestType.WEIGHT_STREAM, 1, words[4:]),
        new(RequestType.STATUS),
        new(RequestType.READ_RESULT, 0),
    ]
    play(steps, pattern, 5, SUPPLIED)
    assert codes(steps) == [OK] * len(steps)
    before, after = (from_bytes(STATUS, steps[index].payload) for index in (5, 7))
    assert before["weights_awaited"] and not before["result_valid"]
    assert before["free_weight_words"] == SUPPLY_WORDS - 1
    assert not after["weights_awaited"] and after["free_weight_words"] == SUPPLY_WORDS - 1
    sums = (sum(data[at : at + ROW_BYTES]) for at in range(0, len(data), ROW_BYTES))
    assert steps[8].payload[8:] == bytes((each + 5 + words[4 * at]) & 0xFF for at, each in enumerate(sums))


def test_weights_from_the_link_are_refused_with_the_reason() -> None:
    new = Requests()
    damaged = bytearray(new(RequestType.WEIGHT_STREAM, 0, weights(1, 3)).data)
    damaged[15] ^= 0x40
    good = new(RequestType.WEIGHT_STREAM, 0, weights(1, 3))
    steps = [
        new(RequestType.WEIGHT_STREAM, 0, bytes(4)),
        *new.start(),
        new(RequestType.WEIGHT_STREAM, 0),
        new(RequestType.WEIGHT_STREAM, 0, bytes(6)),
        new(RequestType.WEIGHT_STREAM, 1, bytes(4)),
        Step(bytes(damaged)),
        Step(good.data[:19], silent=True),
        good,
        Step(good.data),
        new(RequestType.WEIGHT_STREAM, 0, weights(1, 3)),
        new(RequestType.WEIGHT_STREAM, 3, weights(2, SUPPLY_WORDS - 2)),
        new(RequestType.STATUS),
        new(RequestType.WEIGHT_STREAM, 3, weights(2, SUPPLY_WORDS - 3)),
        new(RequestType.STATUS),
        new(RequestType.WEIGHT_STREAM, SUPPLY_WORDS, bytes(4)),
        new.rows(bytes((FAULT_BYTE,)) * ROW_BYTES),
        new(RequestType.WEIGHT_STREAM, SUPPLY_WORDS, bytes(4)),
        new(RequestType.RESET),
        new(RequestType.START),
        new(RequestType.WEIGHT_STREAM, 0, bytes(8)),
        new(RequestType.STATUS),
    ]
    play(steps, architecture=SUPPLIED)
    code = ResponseCode
    assert codes(steps) == [
        code.NOT_RUNNING,
        OK,
        OK,
        code.BAD_LENGTH,
        code.BAD_LENGTH,
        code.OUT_OF_STEP,
        code.DAMAGED,
        code.TRUNCATED,
        OK,
        OK,
        code.OUT_OF_STEP,
        code.NO_ROOM,
        OK,
        OK,
        OK,
        code.NO_ROOM,
        OK,
        code.FAULTED,
        *[OK] * 4,
    ]
    free = [from_bytes(STATUS, steps[index].payload)["free_weight_words"] for index in (12, 14, 21)]
    assert free == [SUPPLY_WORDS - 3, 0, SUPPLY_WORDS - 2]
    assert steps[12].header["weight_room"] == 1 and steps[14].header["weight_room"] == 0


def test_every_response_says_whether_there_is_room_for_a_piece() -> None:
    new = Requests()
    whole = SUPPLY_WORDS - SUPPLY_PIECE_WORDS
    steps = [
        *new.start(),
        new(RequestType.WEIGHT_STREAM, 0, bytes(4 * whole)),
        new(RequestType.WEIGHT_STREAM, whole, bytes(4)),
        new(RequestType.WEIGHT_STREAM, whole + 2, bytes(4)),
    ]
    play(steps, architecture=SUPPLIED)
    assert [step.header["weight_room"] for step in steps[1:]] == [1, 1, 0, 0]


def _random_steps(seed: int, *, supplied: bool = False) -> list[Step]:
    """Mostly sensible requests, some of them repeated, damaged, cut off or preceded by garbage."""
    rng = random.Random(seed)
    new = Requests()
    steps = new.start()
    frame_number = 0
    kinds = ["rows", "rows", "rows", "read", "release", "status", "start", "reset", "weights"] + 3 * supplied * [
        "supply"
    ]
    for _ in range(25):
        match rng.choice(kinds):
            case "rows":
                count = rng.randrange(1, 5)
                step = new.rows(frame(rng.random(), count))
                new.first_row += count
            case "read":
                step = new(RequestType.READ_RESULT, frame_number)
            case "release":
                step = new(RequestType.RELEASE_RESULT, frame_number)
                frame_number += 1
            case "status":
                step = new(rng.choice((RequestType.STATUS, RequestType.IDENTITY)))
            case "start":
                step = new(RequestType.START, rng.getrandbits(32))
            case "weights":
                step = new(RequestType.WRITE_WEIGHTS, rng.randrange(80), rng.randbytes(4 * rng.randrange(1, 4)))
            case "reset":
                steps.append(new(RequestType.RESET))
                step = new(RequestType.START)
                new.first_row = new.first_word = frame_number = 0
            case "supply":
                count = rng.randrange(1, 7)
                step = new(RequestType.WEIGHT_STREAM, new.first_word, rng.randbytes(4 * count))
                new.first_word += count
        data = bytearray(step.data)
        match rng.random():
            case x if x < 0.1:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                steps.append(Step(bytes(data), silent=True))
            case x if x < 0.2:
                steps.append(Step(bytes(data[: rng.randrange(len(data))]), silent=True))
            case x if x < 0.3:
                steps.append(Step(rng.randbytes(rng.randrange(1, 30)), silent=True))
            case x if x < 0.4:
                steps.append(Step(step.data))
        steps.append(step)
    return steps


@pytest.mark.parametrize("seed", range(4))
def test_random_conversations_equal_the_twin(seed: int) -> None:
    play(_random_steps(seed), PATTERNS[seed % len(PATTERNS)], seed)


@pytest.mark.parametrize("seed", range(6))
def test_random_conversations_with_weights_equal_the_twin(seed: int) -> None:
    play(_random_steps(seed, supplied=True), PATTERNS[seed % len(PATTERNS)], seed, SUPPLIED)
