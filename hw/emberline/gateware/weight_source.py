"""What is fetched while a program runs, weights and pages, beside what the link writes while none does."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from emberline.arch import isa
from emberline.arch.architecture import Architecture
from emberline.arch.flash import clock_divider, flash_count, is_double_rate
from emberline.arch.isa import Fault
from emberline.arch.layout import WORD_WIDTH
from emberline.gateware import weight_loader
from emberline.gateware.flash.flash_pair import FlashPair
from emberline.gateware.flash.flash_reader import FlashFault, FlashReader
from emberline.gateware.flash.quad_spi import FlashPins
from emberline.gateware.link.core_ports import supply_members
from emberline.gateware.weight_loader import WeightLoader
from emberline.gateware.weight_supply import WeightSupply

FLASH_NAMES = ("flash", "second_flash")


def flash_members(architecture: Architecture) -> dict[str, wiring.Member]:
    """The lines of a machine's flashes, ``flash`` and ``second_flash``, as far as it fetches from there."""
    count = flash_count(architecture) if architecture.fetches_from_flash else 0
    return {name: Out(FlashPins()) for name in FLASH_NAMES[:count]}


def source_members(architecture: Architecture) -> dict[str, wiring.Member]:
    """The ports through which a machine fetches: its flashes' lines, or `WeightSupply`'s, or none."""
    return flash_members(architecture) | {name: member.flip() for name, member in supply_members(architecture).items()}


class WeightSource(wiring.Component):
    """The loader with what brings its bytes, and the writes of both memories, one cycle later.

    Members:
        load, load_valid, row_taken, row_end, pending, weights_pending, pages_pending, late, fault: `WeightLoader`;
            fault is a cycle later.
        i_weight_enable, i_weight_address, i_weight_data, i_program_enable, i_program_address, i_program_data: from the
            link; nothing is fetched meanwhile.
        o_weight_enable, o_weight_address, o_weight_data, o_program_enable, o_program_address, o_program_data: to the
            memories.
        settled: a program may start: how the flash is read, if there is one, has been found out.
        flash and second_flash, or supply_enable and the others of its kind: `source_members`.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        memories = {
            "weight": (range(architecture.weight_bytes * 8 // weight_loader.CHUNK_WIDTH), weight_loader.CHUNK_WIDTH),
            "program": (range(architecture.program_depth_words), WORD_WIDTH),
        }
        self._memories = tuple(memories)
        writes = {}
        for name, (addresses, width) in memories.items():
            for prefix, direction in (("i", In), ("o", Out)):
                writes |= {
                    f"{prefix}_{name}_enable": direction(1),
                    f"{prefix}_{name}_address": direction(addresses),
                    f"{prefix}_{name}_data": direction(width),
                }
        super().__init__(
            {
                "load": In(weight_loader.LOAD),
                "load_valid": In(1),
                "row_taken": In(1),
                "row_end": In(1),
                "pending": Out(range(isa.LOAD_QUEUE + 1)),
                "weights_pending": Out(range(isa.LOAD_QUEUE + 1)),
                "pages_pending": Out(range(isa.LOAD_QUEUE + 1)),
                "late": Out(1),
                "fault": Out(Fault),
                "settled": Out(1),
                **writes,
                **source_members(architecture),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.loader = loader = WeightLoader(self._architecture)
        m.d.comb += [
            loader.i.eq(self.load),
            loader.i_valid.eq(self.load_valid),
            loader.i_row_taken.eq(self.row_taken),
            loader.i_row_end.eq(self.row_end),
            self.pending.eq(loader.o_pending),
            self.weights_pending.eq(loader.o_weights_pending),
            self.pages_pending.eq(loader.o_pages_pending),
            self.late.eq(loader.o_late),
        ]
        m.d.sync += self.fault.eq(loader.o_fault)
        if self._architecture.fetches_from_link:
            self._build_supply(m, loader)
        else:
            self._build_flash_reader(m, loader)
        for name, fetched in zip(self._memories, (loader.write_enable, loader.page_enable), strict=True):
            self._build_write(m, name, fetched, loader)
        return m

    def _build_write(self, m: Module, name: str, fetched: Value, loader: WeightLoader) -> None:
        """A register in front of a memory. It is not reset: the link writes during a reset too."""
        enable, address, word = (getattr(self, f"i_{name}_{each}") for each in ("enable", "address", "data"))
        chosen = (
            enable | fetched,
            Mux(fetched, loader.write_address, address),
            Mux(fetched, loader.write_data, word),
        )
        for part, value in zip(("enable", "address", "data"), chosen, strict=True):
            output = getattr(self, f"o_{name}_{part}")
            register = Signal.like(output, name=f"{name}_{part}", reset_less=True)
            m.d.sync += register.eq(value)
            m.d.comb += output.eq(register)

    def _build_flash_reader(self, m: Module, loader: WeightLoader) -> None:
        architecture = self._architecture
        pair = flash_count(architecture) > 1
        m.submodules.flash_reader = reader = (FlashPair if pair else FlashReader)(
            clock_hz=architecture.clock_hz,
            divider=int(clock_divider(architecture)),
            double=is_double_rate(architecture),
        )
        connect(m, loader.read, reader.i)
        connect(m, reader.o, loader.i_words if pair else loader.i_bytes)
        lines = (reader.pins_0, reader.pins_1) if isinstance(reader, FlashPair) else (reader.pins,)
        for name, pins in zip(FLASH_NAMES, lines, strict=False):
            connect(m, pins, flipped(getattr(self, name)))
        m.d.comb += [
            loader.i_flash_fault.eq(reader.o_fault),
            self.settled.eq(reader.o_ready | (reader.o_fault != FlashFault.NONE)),
        ]

    def _build_supply(self, m: Module, loader: WeightLoader) -> None:
        m.submodules.supply = supply = WeightSupply(family=self._architecture.family)
        connect(m, loader.read, supply.i)
        connect(m, supply.o, loader.i_bytes)
        m.d.comb += [
            supply.i_enable.eq(self.supply_enable),
            supply.i_data.eq(self.supply_data),
            supply.i_commit.eq(self.supply_commit),
            supply.i_abort.eq(self.supply_abort),
            self.supply_room.eq(supply.o_room),
            self.supply_awaited.eq(supply.o_awaited),
            self.settled.eq(1),
        ]
