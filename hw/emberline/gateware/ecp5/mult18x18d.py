"""ECP5's ``MULT18X18D`` (Lattice TN1267, *ECP5 sysDSP Usage Guide*) as a three-stage signed multiplier."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, Value

WIDTH = 18


def add_multiplier(m: Module, a: Value, b: Value, product: Value) -> None:
    """Add one ``MULT18X18D``, called ``primitive``, with its three registers in the ``sync`` domain.

    ``a``, ``b``: signed, at most 18 bits; ``product``: driven with ``a * b`` after three cycles. The factors lie at the
    upper ends of the ports: zeros below them cost no wires, sign bits above them would.

    Control inputs cannot be constant in the primitive itself: they are wires from a LUT. Each multiplier has its own
    two, as nextpnr would lead all of them to one, over the whole die, and take most of its time for that.
    """
    zero, one = _constant(m, "zero", 0), _constant(m, "one", 1)
    ports: dict[str, object] = {}
    for port, value in (("A", a), ("B", b)):
        unused = WIDTH - len(value)
        for bit in range(WIDTH):
            ports[f"i_{port}{bit}"] = Const(0) if bit < unused else value[bit - unused]
    for bit in range(WIDTH):
        ports[f"i_C{bit}"] = Const(0)
    low = 2 * WIDTH - len(a) - len(b)
    others = Signal(2 * WIDTH - len(product)) if len(product) < 2 * WIDTH else None
    for bit in range(2 * WIDTH):
        inside = low <= bit < low + len(product)
        ports[f"o_P{bit}"] = product[bit - low] if inside else others[bit if bit < low else bit - len(product)]
    m.submodules.primitive = Instance(
        "MULT18X18D",
        p_REG_INPUTA_CLK="CLK0",
        p_REG_INPUTB_CLK="CLK0",
        p_REG_PIPELINE_CLK="CLK0",
        p_REG_OUTPUT_CLK="CLK0",
        i_CLK0=ClockSignal(),
        i_CE0=one,
        i_RST0=zero,
        i_SIGNEDA=one,
        i_SIGNEDB=one,
        i_SOURCEA=zero,
        i_SOURCEB=zero,
        **ports,
    )


def _constant(m: Module, name: str, value: int) -> Signal:
    """A constant from a LUT that synthesis leaves alone."""
    wire = Signal(name=name)
    m.submodules[name] = Instance("LUT4", a_keep=1, p_INIT=Const(0xFFFF * value, 16), o_Z=wire)
    return wire
