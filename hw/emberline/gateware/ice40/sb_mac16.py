"""iCE40 UltraPlus ``SB_MAC16`` in dual 8x8 mode: two three-stage signed multipliers in one block.

Lattice TN1295, *DSP Function Usage Guide for iCE40 Devices* (``MODE_8x8``), and the *iCE Technology Library*.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Value

WIDTH = 8
PRODUCT_WIDTH = 2 * WIDTH


def instance(top: tuple[Value, Value], bottom: tuple[Value, Value] | None, products: Value) -> Instance:
    """One ``SB_MAC16`` with its input, product and output registers in the ``sync`` domain.

    ``top``, ``bottom``: factors, each signed and at most 8 bits; without ``bottom`` that half multiplies zeros.
    ``products``: 32 bits, driven after three cycles with the bottom product in the low half, the top's in the high.
    The halves are independent: their adders add zero, and pass the product to the output register.
    """
    zero = Const(0, WIDTH)
    low = bottom or (zero, zero)
    return Instance(
        "SB_MAC16",
        p_MODE_8x8=Const(1),
        p_A_SIGNED=Const(1),
        p_B_SIGNED=Const(1),
        # Cycle 1
        p_A_REG=Const(1),
        p_B_REG=Const(1),
        # Cycle 2
        p_TOP_8x8_MULT_REG=Const(1),
        p_BOT_8x8_MULT_REG=Const(1),
        p_PIPELINE_16x16_MULT_REG1=Const(1),
        p_PIPELINE_16x16_MULT_REG2=Const(0),
        # Cycle 3: C + top product and D + bottom product, registered, with C = D = 0
        p_C_REG=Const(0),
        p_D_REG=Const(0),
        p_TOPOUTPUT_SELECT=Const(1, 2),
        p_TOPADDSUB_LOWERINPUT=Const(1, 2),
        p_TOPADDSUB_UPPERINPUT=Const(1),
        p_TOPADDSUB_CARRYSELECT=Const(0, 2),
        p_BOTOUTPUT_SELECT=Const(1, 2),
        p_BOTADDSUB_LOWERINPUT=Const(1, 2),
        p_BOTADDSUB_UPPERINPUT=Const(1),
        p_BOTADDSUB_CARRYSELECT=Const(0, 2),
        p_NEG_TRIGGER=Const(0),
        i_CLK=ClockSignal(),
        i_CE=Const(1),
        i_A=Cat(_extended(low[0]), _extended(top[0])),
        i_B=Cat(_extended(low[1]), _extended(top[1])),
        i_C=Const(0, 16),
        i_D=Const(0, 16),
        **{f"i_{name}": Const(0) for name in _IDLE},
        o_O=products,
    )


_IDLE = (
    *("AHOLD", "BHOLD", "CHOLD", "DHOLD", "OHOLDTOP", "OHOLDBOT"),
    *("IRSTTOP", "IRSTBOT", "ORSTTOP", "ORSTBOT"),
    *("OLOADTOP", "OLOADBOT", "ADDSUBTOP", "ADDSUBBOT"),
    *("CI", "ACCUMCI", "SIGNEXTIN"),
)


def _extended(value: Value) -> Value:
    """A signed number of up to 8 bits in 8."""
    return Cat(value, value[-1].replicate(WIDTH - len(value)))
