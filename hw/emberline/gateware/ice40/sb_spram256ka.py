"""iCE40 UltraPlus ``SB_SPRAM256KA``: 16384 words of 16 bits, one access a cycle.

Lattice TN1314, *Memory Usage Guide for iCE40 Devices*: no initial contents, write enables for four bits each.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Value

DEPTH = 16384
WIDTH = 16
MASK_WIDTH = 4


def instance(address: Value, write_bytes: Value, write_word: Value, read_word: Value, *, select: Value) -> Instance:
    """One ``SB_SPRAM256KA`` in the ``sync`` domain.

    ``address``: 14 bits. ``write_bytes``: which of the two bytes are written; none: the word is read. ``select``: the
    access is for this block. ``read_word``: driven one cycle after a read; after a write it is undefined.
    """
    return Instance(
        "SB_SPRAM256KA",
        i_CLOCK=ClockSignal(),
        i_CHIPSELECT=select,
        i_ADDRESS=address,
        i_WREN=write_bytes.any(),
        i_MASKWREN=Cat(write_bytes[0].replicate(2), write_bytes[1].replicate(2)),
        i_DATAIN=write_word,
        i_STANDBY=Const(0),
        i_SLEEP=Const(0),
        i_POWEROFF=Const(1),  # active low
        o_DATAOUT=read_word,
    )
