"""The packet protocol from the host's side, on lines of every quality."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from fake_machine import FakeMachine, configuration
from hypothesis import given, settings
from hypothesis import strategies as st
from lossy_transport import LossyTransport

from emberline.arch.architecture import Architecture
from emberline.arch.framing import PacketEnd, PacketReader, encode_request, encode_response
from emberline.arch.packets import (
    PAYLOAD_LIMIT,
    PREFIX_BYTES,
    REQUEST_SYNC,
    RESPONSE,
    SUPPLY_WORDS,
    RequestType,
    ResponseCode,
    identity,
    identity_name,
)
from emberline.driver.emulated_board import EmulatedBoard
from emberline.driver.protocol import Link, LinkSettings, RequestRefused
from emberline.errors import DeviceError

ARCHITECTURE = Architecture("test", 4, 4, 64, 16, 64, 1)
SUPPLIED = replace(ARCHITECTURE, weight_source="link", weight_word_cycles=16)
ROW_BYTES, ROWS, RING = 6, 4, 9
PATIENT = LinkSettings(attempts=200)


def frame(number: int) -> bytes:
    return bytes((number * 7 + index * 3) & 0x7F for index in range(ROWS * ROW_BYTES))


def expected_result(number: int, weight: int) -> bytes:
    data = frame(number)
    return bytes((sum(data[at : at + ROW_BYTES]) + weight) & 0xFF for at in range(0, len(data), ROW_BYTES))


def load(link: Link, weight: int) -> None:
    link.reset()
    link.write_program([configuration(ROW_BYTES, ROWS, RING), 1, 2, 3])
    link.write_weights(bytes((weight, 1, 2, 3, 4)))
    link.start(0x1234)


def run(link: Link, number: int) -> bytes:
    link.frame_rows(number * ROWS, 1, frame(number)[:ROW_BYTES])
    link.frame_rows(number * ROWS + 1, ROWS - 1, frame(number)[ROW_BYTES:])
    _, result = link.read_result(number, ROWS)
    link.release_result(number)
    return result


class Wire:
    """A transport whose answers are given in advance."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.written: list[bytes] = []
        self._input = bytearray()

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if self.answers:
            self._input += self.answers.pop(0)

    def read(self, count: int, timeout_s: float) -> bytes:
        data = bytes(self._input[:count])
        del self._input[:count]
        return data

    def close(self) -> None:
        """Nothing to close."""


class Babble(Wire):
    """Sends bytes for ever."""

    def read(self, count: int, timeout_s: float) -> bytes:
        return bytes(count)


def test_a_clean_line_needs_no_retries() -> None:
    link = Link(EmulatedBoard(ARCHITECTURE, FakeMachine()))
    load(link, 9)
    for number in range(5):
        assert run(link, number) == expected_result(number, 9)
    assert link.retries == 0
    status = link.status()
    assert status["frames_done"] == 5 and status["rows_entered"] == 20 and status["program_id"] == 0x1234


def test_the_identity_is_the_architecture() -> None:
    record = Link(EmulatedBoard(ARCHITECTURE, FakeMachine())).identity()
    assert record == identity(ARCHITECTURE) and identity_name(record) == "test"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0, 0.6))
def test_results_are_right_however_bad_the_line(seed: int, rate: float) -> None:
    line = LossyTransport(EmulatedBoard(ARCHITECTURE, FakeMachine()), seed, rate)
    link = Link(line, "board", PATIENT)
    load(link, seed & 0xFF)
    for number in range(3):
        assert run(link, number) == expected_result(number, seed & 0xFF)
    line.rate = 0
    status = link.status()
    assert status["frames_done"] == 3 and status["rows_entered"] == 3 * ROWS and not status["result_valid"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0, 0.6))
def test_weights_for_the_frames_arrive_once_and_in_order_however_bad_the_line(seed: int, rate: float) -> None:
    """In pieces that have nothing to do with the frames, between their rows."""
    words = [(seed + index) & 0xFF for index in range(3 * ROWS)]
    line = LossyTransport(EmulatedBoard(SUPPLIED, FakeMachine(supplied=True)), seed, rate)
    link = Link(line, "board", PATIENT)
    load(link, 9)
    first = 0
    for number in range(3):
        link.frame_rows(number * ROWS, ROWS, frame(number))
        for count in (1, 3) if number else (2, 2):
            piece = words[first : first + count]
            link.weight_stream(first, b"".join(word.to_bytes(4, "little") for word in piece))
            first += count
        _, result = link.read_result(number, ROWS)
        link.release_result(number)
        plain = expected_result(number, 9)
        assert result == bytes((a + b) & 0xFF for a, b in zip(plain, words[number * ROWS :], strict=False))
    assert link.state.weight_room
    line.rate = 0
    assert link.status()["free_weight_words"] == SUPPLY_WORDS


@pytest.mark.parametrize("kind", LossyTransport.KINDS)
def test_every_kind_of_accident_is_survived(kind: str) -> None:
    line = LossyTransport(EmulatedBoard(ARCHITECTURE, FakeMachine()), 5, 0.4, (kind,))
    link = Link(line, "board", PATIENT)
    load(link, 1)
    assert [run(link, number) for number in range(8)] == [expected_result(number, 1) for number in range(8)]
    assert line.accidents > 3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_impossible_line_is_a_clear_error_and_never_a_wrong_result(seed: int) -> None:
    line = LossyTransport(EmulatedBoard(ARCHITECTURE, FakeMachine()), seed, 0.97)
    link = Link(line, "ttyX", LinkSettings(attempts=3))
    result, problem = None, ""
    try:
        load(link, 3)
        result = run(link, 0)
    except DeviceError as error:
        problem = str(error)
    assert problem.startswith("ttyX: ") or result == expected_result(0, 3)
    line.rate = 0
    load(link, 4)
    assert run(link, 0) == expected_result(0, 4)


def test_a_silent_board_is_given_up_after_the_attempts() -> None:
    wire = Wire()
    with pytest.raises(DeviceError, match="ttyX: STATUS failed after 4 attempts: no answer"):
        Link(wire, "ttyX", LinkSettings(attempts=4)).status()
    assert len(wire.written) == 4 and len(set(wire.written)) == 1


def test_a_babbling_line_is_given_up() -> None:
    with pytest.raises(DeviceError, match="STATUS failed after 2 attempts: 4[0-9]{3} bytes that are no answer"):
        Link(Babble(), "ttyX", LinkSettings(attempts=2, noise_bytes=4096)).status()


def test_an_answer_longer_than_the_noise_that_is_borne_is_taken() -> None:
    class Large(Wire):
        def write(self, data: bytes) -> None:
            fields = {field.name: 0 for field in RESPONSE.fields}
            self._input += encode_response({**fields, "type": RequestType.READ_RESULT, "sequence": data[3]}, result)

    result = bytes(range(256)) * 32
    link = Link(Large(), "ttyX", LinkSettings(attempts=1, noise_bytes=4096))
    assert link.request(RequestType.READ_RESULT, answer_bytes=len(result)) == result


def test_an_echoing_line_is_no_board() -> None:
    class Echo(Wire):
        def write(self, data: bytes) -> None:
            self._input += data

    with pytest.raises(DeviceError, match="bytes that are no answer"):
        Link(Echo(), "ttyX", LinkSettings(attempts=2)).identity()


def test_answers_to_other_requests_are_passed_over() -> None:
    board = EmulatedBoard(ARCHITECTURE, FakeMachine())

    class Chatty(Wire):
        def write(self, data: bytes) -> None:
            fields = {field.name: 0 for field in RESPONSE.fields}
            self._input += encode_response({**fields, "type": 2, "sequence": data[3] ^ 1}, bytes(36))
            board.write(data)
            self._input += board.read(1000, 0)

    link = Link(Chatty(), "ttyX")
    assert link.status()["row_bytes"] == 0
    assert link.retries == 0


def test_refusals_carry_their_code_and_reason() -> None:
    link = Link(EmulatedBoard(ARCHITECTURE, FakeMachine()), "ttyX")
    with pytest.raises(RequestRefused, match="ttyX: FRAME_ROWS was refused: the machine does not run") as caught:
        link.frame_rows(0, 1, bytes(4))
    assert caught.value.code is ResponseCode.NOT_RUNNING
    with pytest.raises(RequestRefused, match="the payload would end outside the memory"):
        link.write_program([0], 64)
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        link.write_weights(b"", 6)


def test_another_protocol_version_is_named() -> None:
    fields = {field.name: 0 for field in RESPONSE.fields}

    class Old(Wire):
        def write(self, data: bytes) -> None:
            header = {**fields, "type": 1, "code": ResponseCode.BAD_VERSION, "sequence": data[3]}
            self._input += encode_response(header)

    with pytest.raises(DeviceError, match="the board's protocol is not version 1"):
        Link(Old(), "ttyX").identity()


def test_answers_of_the_wrong_size_are_not_believed() -> None:
    fields = {field.name: 0 for field in RESPONSE.fields}

    class Short(Wire):
        def write(self, data: bytes) -> None:
            self._input += encode_response({**fields, "type": 2, "sequence": data[3]}, bytes(8))

    with pytest.raises(DeviceError, match="an answer of 8 bytes instead of 36"):
        Link(Short(), "ttyX", LinkSettings(attempts=2)).status()


def test_a_board_left_in_the_middle_of_a_packet_is_brought_back() -> None:
    board = EmulatedBoard(ARCHITECTURE, FakeMachine())
    board.write(encode_request(RequestType.WRITE_WEIGHTS, 7, 0, bytes(400))[:100])
    assert Link(board).identity() == identity(ARCHITECTURE)


@given(packets=st.lists(st.binary(max_size=60), max_size=5), noise=st.binary(max_size=30), step=st.integers(1, 50))
def test_the_reader_finds_packets_in_pieces_behind_noise(packets: list[bytes], noise: bytes, step: int) -> None:
    noise = noise.replace(REQUEST_SYNC[:1], b"")
    data = noise + b"".join(encode_request(RequestType.FRAME_ROWS, index, 5, p) for index, p in enumerate(packets))
    reader = PacketReader.of_requests()
    seen = []
    for start in range(0, len(data), step):
        seen += reader.feed(data[start : start + step])
    assert [packet.payload for packet in seen] == packets
    assert all(packet.end is PacketEnd.GOOD for packet in seen)
    assert reader.header_errors == 0 and reader.expire() is None


@given(data=st.binary(max_size=400))
def test_the_reader_takes_no_garbage_for_a_packet(data: bytes) -> None:
    reader = PacketReader.of_requests()
    assert [packet for packet in reader.feed(data) if packet.end is PacketEnd.GOOD] == []


@given(payload=st.binary(min_size=1, max_size=50), data=st.data())
def test_up_to_five_flipped_header_bits_are_always_noticed(payload: bytes, data: st.DataObject) -> None:
    packet = bytearray(encode_request(RequestType.WRITE_WEIGHTS, 3, 77, payload))
    bits = data.draw(st.sets(st.integers(16, 8 * PREFIX_BYTES - 1), min_size=1, max_size=5))
    for bit in bits:
        packet[bit // 8] ^= 1 << bit % 8
    assert PacketReader.of_requests().feed(bytes(packet)) == []


def test_a_request_has_a_largest_payload() -> None:
    with pytest.raises(ValueError, match=f"at most {PAYLOAD_LIMIT} bytes, not {PAYLOAD_LIMIT + 1}"):
        encode_request(RequestType.WRITE_WEIGHTS, 0, 0, bytes(PAYLOAD_LIMIT + 1))


def test_a_packet_spelt_out() -> None:
    packet = encode_request(RequestType.WRITE_PROGRAM, 0x2A, 0x0001_0203, b"\x11\x22\x33\x44")
    assert packet[:10].hex(" ") == "e7 4d 13 2a 03 02 01 00 04 00"
    assert packet[12:16] == b"\x11\x22\x33\x44"
    assert packet[16:] == zlib.crc32(b"\x11\x22\x33\x44").to_bytes(4, "little")
