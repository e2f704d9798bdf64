"""Signed multiplication with three registers, on whatever multiplies in the target."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.gateware.ecp5 import mult18x18d

LATENCY = 3
"""Cycles from the factors to the product: input, pipeline and output register."""


class Multiplier(wiring.Component):
    """The product of two signed numbers, each at most 18 bits wide.

    Latency ``LATENCY`` cycles, one product per cycle, no back-pressure, no rounding.

    Parameters:
        a_width, b_width: bits of the factors, 2 to 18.
        family: ``generic`` (the tools infer a multiplier) or ``ecp5`` (one ``MULT18X18D``).

    Members: ``a``, ``b`` signed factors; ``product`` signed, ``a_width + b_width`` bits.
    """

    def __init__(self, a_width: int, b_width: int, *, family: str = "generic") -> None:
        for name, width in (("a_width", a_width), ("b_width", b_width)):
            if not 2 <= width <= 18:
                raise ValueError(f"{name} must be in 2..18, not {width}")
        if family not in ("generic", "ecp5"):
            raise ValueError(f"family must be 'generic' or 'ecp5', not {family!r}")
        self._family = family
        super().__init__(
            {
                "a": In(signed(a_width)),
                "b": In(signed(b_width)),
                "product": Out(signed(a_width + b_width)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._family == "ecp5":
            m.submodules.primitive = mult18x18d.instance(self.a, self.b, self.product)
            return m
        # Cycle 1: input registers
        a = Signal.like(self.a, reset_less=True)
        b = Signal.like(self.b, reset_less=True)
        # Cycle 2: pipeline register; cycle 3: output register
        pipeline = Signal.like(self.product, reset_less=True)
        product = Signal.like(self.product, reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b), pipeline.eq(a * b), product.eq(pipeline)]
        m.d.comb += self.product.eq(product)
        return m
