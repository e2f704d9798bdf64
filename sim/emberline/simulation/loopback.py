"""Boards that return what they get: the smallest components behind each link, to try transports and benches on."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out


class ByteLoopback(wiring.Component):
    """Returns every byte plus ``offset`` modulo 256, through a FIFO; one byte per cycle, full back-pressure.

    Parameters:
        offset: what is added to every byte.
        depth: bytes that it holds.

    Members:
        i_bytes, o_bytes: the streams of bytes.
    """

    def __init__(self, offset: int = 0, depth: int = 16) -> None:
        self._offset = offset
        self._depth = depth
        super().__init__({"i_bytes": In(stream.Signature(8)), "o_bytes": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=self._depth)
        m.d.comb += [
            fifo.w_data.eq(self.i_bytes.payload + self._offset),
            fifo.w_en.eq(self.i_bytes.valid),
            self.i_bytes.ready.eq(fifo.w_rdy),
            self.o_bytes.payload.eq(fifo.r_data),
            self.o_bytes.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o_bytes.ready),
        ]
        return m


class PinLoopback(wiring.Component):
    """Returns the level of ``rx`` on ``tx`` a few cycles later, so that a UART at any rate hears itself."""

    rx: In(1, init=1)
    tx: Out(1, init=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        delay = Signal(5, init=-1)
        m.d.sync += [delay.eq(Cat(self.rx, delay)), self.tx.eq(delay[-1])]
        return m
