"""ECP5's ``TRELLIS_FF`` as a register that the tools cannot merge with another one of the same value."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Const, Instance, Value


def instance(source: Value, target: Value) -> Instance:
    """A flip-flop in the ``sync`` domain without enable or reset; ``source`` and ``target`` are one bit."""
    return Instance(
        "TRELLIS_FF",
        p_GSR="DISABLED",
        p_CEMUX="1",
        p_CLKMUX="CLK",
        p_LSRMUX="LSR",
        p_REGSET="RESET",
        i_CLK=ClockSignal(),
        i_LSR=Const(0),
        i_DI=source,
        o_Q=target,
    )
