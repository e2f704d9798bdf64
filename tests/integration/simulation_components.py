"""Small components for the tests of the simulation itself."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out


class Echo(wiring.Component):
    """Returns every byte plus ``offset``, through a FIFO.

    With ``broken``, the payload changes while it waits: the stream rule is violated.
    """

    def __init__(self, offset: int = 1, depth: int = 16, *, broken: bool = False):
        self._offset = offset
        self._depth = depth
        self._broken = broken
        super().__init__({"i_bytes": In(stream.Signature(8)), "o_bytes": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=self._depth)
        noise = Signal(8)
        m.d.sync += noise.eq(noise + 1)
        m.d.comb += [
            fifo.w_data.eq(self.i_bytes.payload + self._offset),
            fifo.w_en.eq(self.i_bytes.valid),
            self.i_bytes.ready.eq(fifo.w_rdy),
            self.o_bytes.payload.eq(fifo.r_data + (noise if self._broken else 0)),
            self.o_bytes.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o_bytes.ready),
        ]
        return m


class UartEcho(wiring.Component):
    """Returns the bits of ``rx`` on ``tx`` some cycles later: a character is a character again."""

    rx: In(1, init=1)
    tx: Out(1, init=1)

    def elaborate(self, platform) -> Module:
        m = Module()
        delay = Signal(5, init=-1)
        m.d.sync += [delay.eq(Cat(self.rx, delay)), self.tx.eq(delay[-1])]
        return m


class Accumulator(wiring.Component):
    """A small core: a table written word by word, a start and a busy signal, streams of other widths than bytes.

    Each input item selects a table entry; the sum of the entries after ``count`` items is the result.
    """

    table_addr: In(4)
    table_data: In(12)
    table_enable: In(1)
    start: In(1)
    count: In(8)
    busy: Out(1)
    total: Out(20)
    i: In(stream.Signature(4))
    o: Out(stream.Signature(20))

    def elaborate(self, platform) -> Module:
        m = Module()
        table = [Signal(12, name=f"entry_{index}") for index in range(16)]
        left = Signal(8)
        for index, entry in enumerate(table):
            with m.If(self.table_enable & (self.table_addr == index)):
                m.d.sync += entry.eq(self.table_data)
        selected = Signal(12)
        with m.Switch(self.i.payload):
            for index, entry in enumerate(table):
                with m.Case(index):
                    m.d.comb += selected.eq(entry)
        m.d.comb += [
            self.i.ready.eq(left != 0),
            self.busy.eq((left != 0) | self.o.valid),
            self.o.payload.eq(self.total),
        ]
        with m.If(self.start & ~self.busy):
            m.d.sync += [left.eq(self.count), self.total.eq(0)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.total.eq(self.total + selected), left.eq(left - 1), self.o.valid.eq(left == 1)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
