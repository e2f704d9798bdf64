"""Pass: repeated instructions become loops. The hardware's loops nest two deep and cost no cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emberline.arch.isa import LOOP_DEPTH, Opcode
from emberline.arch.listing import encode

LONGEST_BODY = 64
"""Instructions of the longest loop body that is looked for."""
MOST_REPEATS = 65535


@dataclass(frozen=True)
class Token:
    """An instruction of a layer, encoded."""

    layer: str
    words: tuple[int, ...]
    is_row: bool = False

    @property
    def word_count(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Loop:
    """Tokens and loops that are executed ``count`` times."""

    count: int
    body: list[Token | Loop]

    @property
    def word_count(self) -> int:
        return LOOP_WORDS + sum(node.word_count for node in self.body)


LOOP_WORDS = len(encode(Opcode.LOOP, {"count": 1})) + len(encode(Opcode.NEXT, {}))
"""What a loop takes beside its body."""


def fold(tokens: Sequence[Token]) -> tuple[list[int], dict[int, tuple[str, bool]]]:
    """The words of a program, and by address the layer of each token and whether it is a ROW.

    Executing the words gives the tokens in their order.
    """
    return write(find_loops(tokens))


def find_loops(tokens: Sequence[Token]) -> list[Token | Loop]:
    """The same tokens, as few words."""
    numbers: dict[Token, int] = {}
    codes = [numbers.setdefault(token, len(numbers)) for token in tokens]
    return _compress(tokens, codes, LOOP_DEPTH)


def write(nodes: Sequence[Token | Loop]) -> tuple[list[int], dict[int, tuple[str, bool]]]:
    """Words and layers of tokens and loops, as of ``fold``."""
    words: list[int] = []
    layers: dict[int, tuple[str, bool]] = {}
    _write(nodes, words, layers)
    return words, layers


def _compress(tokens: Sequence[Token], codes: Sequence[int], depth: int) -> list[Token | Loop]:
    """Greedy from the front: the repetition that saves most words, its body compressed in turn."""
    nodes: list[Token | Loop] = []
    position = 0
    while position < len(tokens):
        best_saving, best_length, best_count = 0, 1, 1
        for length in _candidate_lengths(codes, position) if depth else ():
            count = _repeats(codes, position, length)
            size = sum(len(token.words) for token in tokens[position : position + length])
            saving = (count - 1) * size - LOOP_WORDS
            if saving > best_saving:
                best_saving, best_length, best_count = saving, length, count
        if best_count > 1:
            end = position + best_length
            nodes.append(Loop(best_count, _compress(tokens[position:end], codes[position:end], depth - 1)))
        else:
            nodes.append(tokens[position])
        position += best_length * best_count
    return nodes


def _candidate_lengths(codes: Sequence[int], position: int) -> list[int]:
    """Distances to the next occurrences of the instruction at ``position``."""
    window = codes[position + 1 : position + 1 + LONGEST_BODY]
    return [distance + 1 for distance, code in enumerate(window) if code == codes[position]]


def _repeats(codes: Sequence[int], position: int, length: int) -> int:
    body = codes[position : position + length]
    count = 1
    while count < MOST_REPEATS and codes[position + count * length : position + (count + 1) * length] == body:
        count += 1
    return count


def _write(nodes: Sequence[Token | Loop], words: list[int], layers: dict[int, tuple[str, bool]]) -> None:
    for node in nodes:
        if isinstance(node, Loop):
            words += encode(Opcode.LOOP, {"count": node.count})
            _write(node.body, words, layers)
            words += encode(Opcode.NEXT, {})
        else:
            layers[len(words)] = (node.layer, node.is_row)
            words += node.words
