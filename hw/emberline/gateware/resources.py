"""What a design consists of: the memories and multipliers in its netlist, before any tool has mapped them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from amaranth.hdl import Fragment, Value, _nir
from amaranth.hdl._ir import build_netlist
from amaranth.lib import wiring

from emberline.arch.block_memory import BlockMemory, MemoryShape, Ports


@dataclass(frozen=True)
class NetlistMemory:
    """A memory and where it is.

    Parameters:
        path: the names of the modules around it and its own.
        shape: see `MemoryShape`.
        registered: its address is registered: a block memory can hold it. Otherwise its read port is combinational,
            and it becomes LUT memory, or flip-flops where the device has none.
    """

    path: str
    shape: MemoryShape
    registered: bool

    @property
    def bits(self) -> int:
        return self.shape.width * self.shape.depth


@dataclass(frozen=True)
class Resources:
    """What a netlist contains.

    Parameters:
        memories: every memory, in the order of the netlist.
        factors: (bits, bits) of every inferred multiplication of two variables, the wider factor first.
        instances: instantiated primitives by name.
    """

    memories: tuple[NetlistMemory, ...]
    factors: tuple[tuple[int, int], ...]
    instances: Counter[str]

    @property
    def products(self) -> int:
        """Multiplications of two variables each cycle, inferred or by primitives that give one."""
        return len(self.factors) + sum(self.instances[name] for name in ("MULT18X18D", "MULT9X9"))

    def block_memories(self, kind: BlockMemory) -> int:
        """Blocks for all memories that blocks can hold."""
        return sum(kind.blocks(memory.shape) for memory in self.memories if memory.registered)

    @property
    def unblocked_bits(self) -> int:
        """Bits of the memories that block memories cannot hold."""
        return sum(memory.bits for memory in self.memories if not memory.registered)

    @property
    def max10_multiplier_blocks(self) -> int:
        """Embedded multipliers of a MAX 10: one product up to 18x18 bits, or two up to 9x9, in each.

        Intel UG-M10DSP, *MAX 10 Embedded Multipliers User Guide*. The two share their clock, clear and sign inputs,
        which all of ours agree on.
        """
        for wide, narrow in self.factors:
            if wide > 18:
                raise ValueError(f"a factor of {wide} x {narrow} bits is wider than an embedded multiplier")
        small = sum(wide <= 9 for wide, _ in self.factors)
        return len(self.factors) - small + -(-small // 2)


def netlist_resources(top: wiring.Component, ports: Iterable[Value]) -> Resources:
    """Elaborate ``top`` and list what is in it. What does not reach a port or the state counts all the same."""
    # Amaranth has no public view of its netlist; the public alternative, RTLIL, would have to be parsed back.
    netlist = build_netlist(Fragment.get(top, None), ports=list(ports))
    netlist.resolve_all_nets()
    memories: dict[int, _nir.Memory] = {}
    accesses: dict[int, list[_nir.Cell]] = {}
    factors: list[tuple[int, int]] = []
    instances: Counter[str] = Counter()
    for index, cell in enumerate(netlist.cells):
        match cell:
            case _nir.Memory():
                memories[index] = cell
                accesses[index] = []
            case _nir.SyncReadPort() | _nir.AsyncReadPort() | _nir.SyncWritePort():
                accesses[cell.memory].append(cell)
            case _nir.Operator(operator="*"):
                widths = sorted(map(_signed_width, cell.inputs), reverse=True)
                if not any(_is_constant(factor) for factor in cell.inputs):
                    factors.append((widths[0], widths[1]))
            case _nir.Instance():
                instances[cell.type] += 1
    found = [_memory(netlist, cell, accesses[index]) for index, cell in memories.items()]
    return Resources(tuple(found), tuple(factors), instances)


def _signed_width(nets: Sequence[_nir.Net]) -> int:
    """Bits of a factor without copies of its sign."""
    width = len(nets)
    while width > 1 and nets[width - 1] == nets[width - 2]:
        width -= 1
    return width


def _is_constant(nets: Sequence[_nir.Net]) -> bool:
    return all(net.is_const for net in nets)


def _memory(netlist: _nir.Netlist, memory: _nir.Memory, accesses: list[_nir.Cell]) -> NetlistMemory:
    path = ".".join((*netlist.modules[memory.module_idx].name, memory.name))
    writes = [each for each in accesses if isinstance(each, _nir.SyncWritePort)]
    reads = [each for each in accesses if not isinstance(each, _nir.SyncWritePort)]
    granularity = memory.width
    for write in writes:
        granularity = min(granularity, min(_run_lengths(write.en)))
    # Accesses with one and the same address share a port.
    addresses = {tuple(each.addr) for each in accesses}
    if len(addresses) == 1:
        ports = Ports.SINGLE
    elif len(addresses) == 2 and len(writes) == len(reads) == 1:
        ports = Ports.SIMPLE_DUAL
    elif len(addresses) == 2:
        ports = Ports.TRUE_DUAL
    else:
        raise ValueError(f"memory {path} has {len(addresses)} ports: block memories have two")
    shape = MemoryShape(memory.width, memory.depth, ports, granularity)
    return NetlistMemory(path, shape, all(isinstance(each, _nir.SyncReadPort) for each in reads))


def _run_lengths(enables: Sequence[_nir.Net]) -> list[int]:
    """Lengths of the runs of equal bits: how many bits each enable writes."""
    lengths = [1]
    for previous, enable in pairwise(enables):
        if enable == previous:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths
