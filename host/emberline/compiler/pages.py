"""Pass: a program that is longer than the instruction memory becomes pages, which come like fetched weights.

The first page stays in the memory, the others take turns in two places behind it, so that each comes while the one
before is executed. A page's LOAD stands in the page before, where the queue of LOADs has room first. Loops never cross
pages; one that is longer than a page is unrolled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from emberline.arch.architecture import Architecture
from emberline.arch.isa import LAYOUTS, POOL, Opcode
from emberline.arch.listing import encode
from emberline.arch.timing import FrameClock
from emberline.compiler.checks import refuse
from emberline.compiler.fetch import Fetcher, Part
from emberline.compiler.loops import Loop, Token, write

PLACES = 3
"""Parts of the instruction memory: what stays, and two in which pages take turns."""
LOAD_WORDS = LAYOUTS[Opcode.LOAD].word_count
ENDS_WORDS = LOAD_WORDS + LAYOUTS[Opcode.JUMP].word_count
"""What a page has beside its share of the program: the LOAD of the next page and the JUMP to it."""

Node = Token | Loop


@dataclass(frozen=True)
class PagedProgram:
    """Parameters:
    words: of all pages, one behind the other.
    layers: by address, as `emberline.compiler.loops.write` gives them.
    stream: what the flash holds of them.
    """

    words: list[int]
    layers: dict[int, tuple[str, bool]]
    stream: bytes


@dataclass
class _Page:
    """Nodes of the program; the next page's LOAD stands in front of node ``load_at``."""

    address: int
    nodes: list[Node]
    load_at: int = 0


def make_pages(nodes: Sequence[Node], architecture: Architecture, offset: int) -> PagedProgram:
    """A program whose pages lie in the flash from byte ``offset`` on; ``nodes`` are all of it but its END.

    Raises ``CompileError``, naming the layer, where an instruction is longer than a page.
    """
    pages = _cut(nodes, architecture)
    _place_loads(pages, architecture)
    fetcher = Fetcher(architecture)
    stream = bytearray()
    written: list[tuple[list[int], dict[int, tuple[str, bool]]]] = []
    following: list[Node] = [Token("", tuple(encode(Opcode.END, {})))]
    load: list[Node] = []
    for page in reversed(pages):
        whole = [*page.nodes[: page.load_at], *load, *page.nodes[page.load_at :], *following]
        words, layers = write(whole)
        written.insert(0, (words, layers))
        if page is pages[0]:
            break
        fetch = fetcher.fetch([Part("", b"".join(word.to_bytes(4, "little") for word in words), 0)])
        fields = {
            "source": offset + len(stream),
            "length": len(fetch.data),
            "address": page.address,
            "words": len(words),
            "cycles": fetch.cycles,
            "check": fetch.check,
            "page": 1,
        }
        stream += fetch.data
        load = [Token("", tuple(encode(Opcode.LOAD, fields)))]
        following = [Token("", tuple(encode(Opcode.JUMP, {"address": page.address})))]
    return _join(written, bytes(stream))


def _join(written: Sequence[tuple[list[int], dict[int, tuple[str, bool]]]], stream: bytes) -> PagedProgram:
    words: list[int] = []
    layers: dict[int, tuple[str, bool]] = {}
    for page, its_layers in written:
        layers |= {len(words) + address: layer for address, layer in its_layers.items()}
        words += page
    return PagedProgram(words, layers, stream)


def _cut(nodes: Sequence[Node], architecture: Architecture) -> list[_Page]:
    """As many nodes in each page as it has room for."""
    depth = architecture.program_depth_words
    size = depth // PLACES
    first = depth - (PLACES - 1) * size
    pages = [_Page(0, [])]
    room = first - ENDS_WORDS
    for node in _short(nodes, size - ENDS_WORDS, architecture):
        if node.word_count > room:
            pages.append(_Page(first + (len(pages) - 1) % (PLACES - 1) * size, []))
            room = size - ENDS_WORDS
        pages[-1].nodes.append(node)
        room -= node.word_count
    if not any(isinstance(node, Token) and _opcode(node) is Opcode.BEGIN for node in pages[0].nodes):
        raise refuse(
            _layers(nodes)[0],
            f"the prologue alone fills a third of the instruction memory of '{architecture.name}', {depth} words",
        )
    return pages


def _short(nodes: Sequence[Node], most: int, architecture: Architecture) -> Iterator[Node]:
    """Nodes of at most ``most`` words: longer loops are unrolled."""
    for node in nodes:
        if node.word_count <= most:
            yield node
        elif isinstance(node, Loop):
            for _ in range(node.count):
                yield from _short(node.body, most, architecture)
        else:
            raise refuse(
                node.layer,
                f"an instruction of {node.word_count} words is longer than a page of the instruction memory of "
                f"'{architecture.name}' can hold, {max(0, most)} words",
            )


def _layers(nodes: Sequence[Node]) -> list[str]:
    found: list[str] = []
    for node in nodes:
        found += _layers(node.body) if isinstance(node, Loop) else [node.layer]
    return [layer for layer in found if layer] or [""]


def _place_loads(pages: Sequence[_Page], architecture: Architecture) -> None:
    """Each page's LOAD where the queue has room first; at the beginning of the page before, if it never has."""
    clock = FrameClock(architecture)
    opcodes = [_opcode(node) if isinstance(node, Token) else Opcode.LOOP for node in pages[0].nodes]
    begin = opcodes.index(Opcode.BEGIN) + 1
    for page, after in pairwise(pages):
        # How long it takes is known with its words, which depend on where the LOADs of later pages stand.
        words = sum(node.word_count for node in after.nodes)
        load = {"cycles": words * architecture.weight_word_cycles, "page": 1}
        page.load_at = _first_room(page.nodes, begin, copy.deepcopy(clock))
        for index, node in enumerate(page.nodes):
            if index == page.load_at:
                clock.load(load)
            if index >= begin:
                _follow(node, clock)
        clock.jump()
        begin = 0


def _first_room(nodes: Sequence[Node], begin: int, clock: FrameClock) -> int:
    """The first of some nodes, from ``begin`` on, in front of which a LOAD need not wait for the queue."""
    for index in range(begin, len(nodes)):
        if clock.queue_has_room:
            return index
        _follow(nodes[index], clock)
    return begin


def _follow(node: Node, clock: FrameClock) -> None:
    if isinstance(node, Loop):
        clock.pass_one()
        for _ in range(node.count):
            for each in node.body:
                _follow(each, clock)
            clock.pass_one()
        return
    opcode = _opcode(node)
    fields = _fields(node)
    if opcode is Opcode.ROW:
        clock.row(fields)
    elif opcode is Opcode.LOAD:
        clock.load(fields)
    else:
        clock.pass_one()


def _opcode(token: Token) -> Opcode:
    return Opcode(token.words[0] & 15)


def _fields(token: Token) -> dict[str, int]:
    layout = LAYOUTS[_opcode(token)]
    fields = layout.unpack(list(token.words[: layout.word_count]))
    if fields.get("pool"):
        fields |= POOL.unpack(list(token.words[layout.word_count :]))
    return fields
