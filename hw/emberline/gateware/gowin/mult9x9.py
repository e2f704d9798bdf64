"""Gowin's ``MULT9X9`` (UG287, *Gowin DSP User Guide*) as a three-stage signed multiplier."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Signal, Value

WIDTH = 9


def instance(a: Value, b: Value, product: Value) -> Instance:
    """One ``MULT9X9`` with its input, pipeline and output registers in the ``sync`` domain.

    ``a``, ``b``: signed, at most 9 bits; ``product``: driven with ``a * b`` after three cycles.
    """
    unused = Signal(2 * WIDTH - len(product))
    return Instance(
        "MULT9X9",
        p_AREG=Const(1),
        p_BREG=Const(1),
        p_PIPE_REG=Const(1),
        p_OUT_REG=Const(1),
        p_ASIGN_REG=Const(0),
        p_BSIGN_REG=Const(0),
        p_SOA_REG=Const(0),
        p_MULT_RESET_MODE="SYNC",
        i_CLK=ClockSignal(),
        i_CE=Const(1),
        i_RESET=Const(0),
        i_A=_extended(a),
        i_B=_extended(b),
        i_SIA=Const(0, WIDTH),
        i_SIB=Const(0, WIDTH),
        i_ASIGN=Const(1),
        i_BSIGN=Const(1),
        i_ASEL=Const(0),
        i_BSEL=Const(0),
        o_DOUT=Cat(product, unused),
    )


def _extended(value: Value) -> Value:
    """A signed number of up to 9 bits in 9."""
    return Cat(value, value[-1].replicate(WIDTH - len(value)))
