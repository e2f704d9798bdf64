"""Signed multiplication with three registers, on whatever multiplies in the target."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from emberline.arch.architecture import FAMILIES
from emberline.gateware.ecp5 import mult18x18d
from emberline.gateware.gowin import mult9x9
from emberline.gateware.ice40 import sb_mac16
from emberline.gateware.structures import delayed

LATENCY = 3
"""Cycles from the factors to the product: input, pipeline and output register."""


class Multiplier(wiring.Component):
    """The product of two signed numbers, each at most 18 bits wide.

    Latency ``LATENCY`` cycles, one product per cycle, no back-pressure, no rounding.

    Parameters:
        a_width, b_width: bits of the factors, 2 to 18.
        family: ``ecp5`` (one ``MULT18X18D``), ``ice40`` (half an ``SB_MAC16``, up to 8 bits), ``gowin`` (one
            ``MULT9X9``, up to 9 bits) or ``generic``, as all wider factors: the tools infer a multiplier.

    Members: ``a``, ``b`` signed factors; ``product`` signed, ``a_width + b_width`` bits.
    """

    def __init__(self, a_width: int, b_width: int, *, family: str = "generic") -> None:
        for name, width in (("a_width", a_width), ("b_width", b_width)):
            if not 2 <= width <= 18:
                raise ValueError(f"{name} must be in 2..18, not {width}")
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
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
        width = max(len(self.a), len(self.b))
        if self._family == "ecp5":
            mult18x18d.add_multiplier(m, self.a, self.b, self.product)
            return m
        if self._family == "gowin" and width <= mult9x9.WIDTH:
            m.submodules.primitive = mult9x9.instance(self.a, self.b, self.product)
            return m
        if self._family == "ice40" and width <= sb_mac16.WIDTH:
            products = Signal(2 * sb_mac16.PRODUCT_WIDTH)
            m.submodules.primitive = sb_mac16.instance((self.a, self.b), None, products)
            m.d.comb += self.product.eq(products[sb_mac16.PRODUCT_WIDTH :])
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


class MultiplierPair(wiring.Component):
    """Two independent products in one ``SB_MAC16``: `Multiplier` twice for half the blocks. iCE40 only.

    Parameters: ``a_width``, ``b_width``, 2 to 8.
    Members: ``a0``, ``b0``, ``product0``, and ``a1``, ``b1``, ``product1``, as `Multiplier` has them.
    """

    def __init__(self, a_width: int, b_width: int) -> None:
        for name, width in (("a_width", a_width), ("b_width", b_width)):
            if not 2 <= width <= sb_mac16.WIDTH:
                raise ValueError(f"{name} must be in 2..{sb_mac16.WIDTH}, not {width}")
        product = Out(signed(a_width + b_width))
        super().__init__(
            {
                "a0": In(signed(a_width)),
                "b0": In(signed(b_width)),
                "product0": product,
                "a1": In(signed(a_width)),
                "b1": In(signed(b_width)),
                "product1": product,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        products = Signal(2 * sb_mac16.PRODUCT_WIDTH)
        m.submodules.primitive = sb_mac16.instance((self.a1, self.b1), (self.a0, self.b0), products)
        m.d.comb += [
            self.product0.eq(products[: sb_mac16.PRODUCT_WIDTH]),
            self.product1.eq(products[sb_mac16.PRODUCT_WIDTH :]),
        ]
        return m


def fabric_product(m: Module, number: Value, factor: Value, *, name: str) -> Value:
    """``number * factor`` in the fabric, ``1 + ceil_log2(len(number))`` cycles later, where multipliers are worth more.

    Parameters: ``number``, at least two bits, signed or not: one term for each of its bits; ``factor``, unsigned.
    """
    # A term is worth 2 ** distance of the one before it; a signed number's last is subtracted. The adders leave out
    # the bits in which only one term has any.
    terms: list[Value] = [
        delayed(m, Mux(bit, factor, 0), 1, name=f"{name}_term_{index}") for index, bit in enumerate(number)
    ]
    negative, distance, level = number.shape().signed, 1, 0
    while len(terms) > 1:
        level += 1
        sums: list[Value] = []
        for index in range(0, len(terms) - 1, 2):
            below, above = terms[index : index + 2]
            ends = index + 2 == len(terms)
            total = below[distance:] - above if negative and ends else below[distance:] + above
            negative &= not ends
            high = Signal(total.shape(), name=f"{name}_{level}_{index // 2}", reset_less=True)
            m.d.sync += high.eq(total)
            both = Cat(delayed(m, below[:distance], 1, name=f"{name}_{level}_{index // 2}_low"), high)
            sums.append(both.as_signed() if high.shape().signed else both)
        if len(terms) % 2:
            sums.append(delayed(m, terms[-1], 1, name=f"{name}_{level}_odd"))
        terms, distance = sums, 2 * distance
    return terms[0]


def multiply_all(m: Module, factors: Sequence[tuple[Value, Value]], *, family: str) -> list[Value]:
    """The product of each pair of factors, ``LATENCY`` cycles later, in as few primitives as the family needs.

    All pairs have the widths of the first.
    """
    a_width, b_width = (len(factor) for factor in factors[0])
    products: list[Value] = []
    if family == "ice40" and max(a_width, b_width) <= sb_mac16.WIDTH:
        for index in range(0, len(factors) - 1, 2):
            m.submodules[f"multiplier_{index}"] = pair = MultiplierPair(a_width, b_width)
            (a0, b0), (a1, b1) = factors[index : index + 2]
            m.d.comb += [pair.a0.eq(a0), pair.b0.eq(b0), pair.a1.eq(a1), pair.b1.eq(b1)]
            products += [pair.product0, pair.product1]
    for index in range(len(products), len(factors)):
        m.submodules[f"multiplier_{index}"] = unit = Multiplier(a_width, b_width, family=family)
        m.d.comb += [unit.a.eq(factors[index][0]), unit.b.eq(factors[index][1])]
        products.append(unit.product)
    return products
