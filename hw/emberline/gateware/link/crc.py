"""Cyclic redundancy checks as exclusive-or trees, derived from the checks that the packets define."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Const, Value

from emberline.arch.packets import Crc


def _linear(inputs: Sequence[tuple[Value, int]], width: int) -> Value:
    """The exclusive or of each mask whose bit is set: a linear map over GF(2), given by its columns."""
    rows = []
    for row in range(width):
        terms = [bit for bit, column in inputs if column >> row & 1]
        rows.append(Cat(*terms).xor() if terms else Const(0, 1))
    return Cat(*rows)


def _columns(value: Value, image: Callable[[int], int]) -> list[tuple[Value, int]]:
    return [(value[index], image(1 << index)) for index in range(len(value))]


def advance(crc: Crc, state: Value, data: Value) -> Value:
    """The check's register after one or more bytes, the first of them in the least significant bits; combinational."""
    count = len(data) // 8

    def after(register: int, number: int) -> int:
        for byte in number.to_bytes(count, "little"):
            register = crc.step(register, byte)
        return register

    columns = [*_columns(state, lambda bit: after(bit, 0)), *_columns(data, lambda bit: after(0, bit))]
    return _linear(columns, crc.width)


def slide(crc: Crc, state: Value, byte: Value, leaving: Value, window_bytes: int) -> Value:
    """The register over the last ``window_bytes`` bytes when ``byte`` joins them and ``leaving`` drops out.

    The register starts at zero with a window of zeros, whatever the check's own initial value.
    """

    def aged(bit: int) -> int:
        register = crc.step(0, bit)
        for _ in range(window_bytes):
            register = crc.step(register, 0)
        return register

    return _linear(
        [
            *_columns(state, lambda bit: crc.step(bit, 0)),
            *_columns(byte, lambda bit: crc.step(0, bit)),
            *_columns(leaving, aged),
        ],
        crc.width,
    )
