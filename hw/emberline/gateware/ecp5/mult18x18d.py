"""ECP5's ``MULT18X18D`` (Lattice TN1267, *ECP5 sysDSP Usage Guide*) as a three-stage signed multiplier."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Const, Instance, Signal, Value

WIDTH = 18


def instance(a: Value, b: Value, product: Value) -> Instance:
    """One ``MULT18X18D`` with its input, pipeline and output registers in the ``sync`` domain.

    ``a``, ``b``: signed, at most 18 bits; ``product``: driven with ``a * b`` after three cycles. The factors lie at the
    upper ends of the ports: zeros below them cost no wires, sign bits above them would.
    """
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
    return Instance(
        "MULT18X18D",
        p_REG_INPUTA_CLK="CLK0",
        p_REG_INPUTB_CLK="CLK0",
        p_REG_PIPELINE_CLK="CLK0",
        p_REG_OUTPUT_CLK="CLK0",
        i_CLK0=ClockSignal(),
        i_CE0=Const(1),
        i_RST0=Const(0),
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_SOURCEA=Const(0),
        i_SOURCEB=Const(0),
        **ports,
    )
