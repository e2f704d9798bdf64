"""Programs longer than the instruction memory: which of their words lie where, and when they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from emberline.arch.architecture import Architecture
from emberline.arch.isa import Opcode
from emberline.errors import ProgramError

if TYPE_CHECKING:
    from emberline.arch.listing import Instruction


@dataclass(frozen=True)
class Page:
    """Words of a program that lie in the instruction memory together.

    Parameters:
        first: the first of them, in the program; words: how many.
        address: where that lies in the instruction memory.
    """

    first: int
    words: int
    address: int

    @property
    def end(self) -> int:
        """The first word of the instruction memory behind it."""
        return self.address + self.words

    def overlaps(self, other: Page) -> bool:
        return self.address < other.end and other.address < self.end


def pages(instructions: Sequence[Instruction]) -> list[Page]:
    """A program's pages: each but the last ends with a JUMP to the next one. The first lies at word 0."""
    found: list[Page] = []
    first = address = 0
    for instruction in instructions:
        behind = instruction.address + instruction.word_count
        if instruction.opcode in (Opcode.JUMP, Opcode.END):
            found.append(Page(first, behind - first, address))
        if instruction.opcode is Opcode.JUMP:
            first, address = behind, instruction.fields["address"]
    return found


def check_pages(instructions: Sequence[Instruction], architecture: Architecture) -> None:
    """Raise ``ProgramError``, naming the word, unless every page is there when it is needed.

    Each is fetched during the one before it, once, outside loops, to where its JUMP goes, and overwrites neither that
    one nor the first, which stays.
    """
    found = pages(instructions)
    depth = architecture.program_depth_words
    for page in found:
        if page.end > depth:
            where = f"the page from word {page.first} on needs " if page.first else ""
            raise ProgramError(f"{where}{page.end} program words, the machine holds {depth}")
    _check_places(instructions)
    loads = [[each for each in _page_loads(instructions) if _inside(each, page)] for page in found]
    for (page, following), fetched in zip(pairwise(found), loads, strict=False):
        where = f"word {following.first - 1}: JUMP"
        if len(fetched) != 1:
            raise ProgramError(f"{where} follows {len(fetched)} LOADs of a page instead of one")
        f = fetched[0].fields
        if (f["address"], f["words"]) != (following.address, following.words):
            raise ProgramError(
                f"{where} goes to {following.words} words at {following.address}, LOAD fetches {f['words']} to "
                f"{f['address']}"
            )
        for other in (page, found[0]):
            if following.overlaps(other):
                raise ProgramError(f"{where} goes to a page that overwrites the one at {other.address}")
    if loads[-1]:
        raise ProgramError(f"word {loads[-1][0].address}: LOAD fetches a page to which nothing leads")


def _check_places(instructions: Sequence[Instruction]) -> None:
    begun, depth = False, 0
    for instruction in instructions:
        begun |= instruction.opcode is Opcode.BEGIN
        depth += (instruction.opcode is Opcode.LOOP) - (instruction.opcode is Opcode.NEXT)
        if _is_page_load(instruction) or instruction.opcode is Opcode.JUMP:
            if depth or not begun:
                where = f"word {instruction.address}: {instruction.opcode.name}"
                raise ProgramError(f"{where} of a page belongs between BEGIN and END, outside loops")


def _page_loads(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    return (each for each in instructions if _is_page_load(each))


def _is_page_load(instruction: Instruction) -> bool:
    return instruction.opcode is Opcode.LOAD and bool(instruction.fields["page"])


def _inside(instruction: Instruction, page: Page) -> bool:
    return page.first <= instruction.address < page.first + page.words
