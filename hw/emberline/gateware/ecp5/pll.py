"""ECP5's ``EHXPLLL`` (Lattice TN1263, *ECP5 sysCLOCK PLL/DLL Usage Guide*): one clock from another."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

DIVIDER_LIMIT = 128
VCO_HZ = (400_000_000, 800_000_000)
PHASE_DETECTOR_HZ = (3_125_000, 400_000_000)


@dataclass(frozen=True)
class PllSettings:
    """Dividers of a PLL whose output is its own feedback: ``output = input / input_divider * feedback_divider``."""

    input_divider: int
    feedback_divider: int
    output_divider: int


def find_settings(input_hz: int, output_hz: int) -> PllSettings:
    """Dividers for exactly ``output_hz``, the VCO in the middle of its range; ``ValueError`` if there are none."""
    candidates = []
    for input_divider in range(1, DIVIDER_LIMIT + 1):
        if input_hz < PHASE_DETECTOR_HZ[0] * input_divider or output_hz * input_divider % input_hz:
            continue
        feedback_divider = output_hz * input_divider // input_hz
        if not 1 <= feedback_divider <= DIVIDER_LIMIT:
            continue
        for output_divider in range(1, DIVIDER_LIMIT + 1):
            vco_hz = output_hz * output_divider
            if VCO_HZ[0] <= vco_hz <= VCO_HZ[1]:
                candidates.append((input_divider, abs(2 * vco_hz - sum(VCO_HZ)), feedback_divider, output_divider))
    if not candidates:
        raise ValueError(f"no PLL settings turn {input_hz} Hz into {output_hz} Hz exactly")
    input_divider, _, feedback_divider, output_divider = min(candidates)
    return PllSettings(input_divider, feedback_divider, output_divider)


class Pll(wiring.Component):
    """One clock from another.

    Parameters: ``input_hz``, ``output_hz``.

    Members:
        clock_in, clock_out: the two clocks.
        locked: ``clock_out`` is stable; asynchronous.
    """

    def __init__(self, input_hz: int, output_hz: int) -> None:
        self._input_hz, self._output_hz = input_hz, output_hz
        self._settings = find_settings(input_hz, output_hz)
        super().__init__({"clock_in": In(1), "clock_out": Out(1), "locked": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings = self._settings
        unused = ("STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PHASELOADREG", "PLLWAKESYNC", "ENCLKOP")
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{self._input_hz / 1e6:g}",
            a_FREQUENCY_PIN_CLKOP=f"{self._output_hz / 1e6:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_FEEDBK_PATH="CLKOP",
            p_OUTDIVIDER_MUXA="DIVA",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_FPHASE=0,
            p_CLKOP_CPHASE=settings.output_divider - 1,
            p_CLKOP_DIV=settings.output_divider,
            p_CLKFB_DIV=settings.feedback_divider,
            p_CLKI_DIV=settings.input_divider,
            i_CLKI=self.clock_in,
            i_CLKFB=self.clock_out,
            i_RST=Const(0),
            o_CLKOP=self.clock_out,
            o_LOCK=self.locked,
            **{f"i_{port}": Const(0) for port in unused},
        )
        return m
