"""Bit layouts written once: packed and unpacked here, turned into hardware structures by the gateware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

WORD_WIDTH = 32
WORD_BYTES = WORD_WIDTH // 8
"""Bits in one word of a program or a packet field."""


@dataclass(frozen=True)
class Field:
    """``width`` bits called ``name``; two's complement if ``signed``."""

    name: str
    width: int
    signed: bool = False
    doc: str = ""

    @property
    def minimum(self) -> int:
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        return (1 << (self.width - (1 if self.signed else 0))) - 1


@dataclass(frozen=True)
class Layout:
    """Named fields packed without gaps, the first one in the least significant bits.

    The packed size is rounded up to whole 32-bit words; the bits above the last field are zero.
    """

    name: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError(f"layout {self.name} has a field name twice: {names}")

    @cached_property
    def width(self) -> int:
        return sum(field.width for field in self.fields)

    @cached_property
    def word_count(self) -> int:
        return -(-self.width // WORD_WIDTH)

    def pack(self, values: Mapping[str, int]) -> list[int]:
        """The words of a record; every field must be given and in range (``ValueError`` names the one that is not)."""
        unknown = set(values) - {field.name for field in self.fields}
        if unknown:
            raise ValueError(f"{self.name} has no field {sorted(unknown)[0]}")
        packed, offset = 0, 0
        for field in self.fields:
            if field.name not in values:
                raise ValueError(f"{self.name}.{field.name} is missing")
            value = int(values[field.name])
            if not field.minimum <= value <= field.maximum:
                raise ValueError(f"{self.name}.{field.name} must be in {field.minimum}..{field.maximum}, not {value}")
            packed |= (value & ((1 << field.width) - 1)) << offset
            offset += field.width
        return [(packed >> (WORD_WIDTH * index)) & 0xFFFF_FFFF for index in range(self.word_count)]

    def unpack(self, words: list[int]) -> dict[str, int]:
        """The field values of a record; ``ValueError`` if words are missing."""
        if len(words) < self.word_count:
            raise ValueError(f"{self.name} needs {self.word_count} words, not {len(words)}")
        packed = sum(word << (WORD_WIDTH * index) for index, word in enumerate(words[: self.word_count]))
        values, offset = {}, 0
        for field in self.fields:
            value = (packed >> offset) & ((1 << field.width) - 1)
            values[field.name] = value - (1 << field.width) if field.signed and value >> (field.width - 1) else value
            offset += field.width
        return values
