"""Dividers of the ECP5's PLL."""

from __future__ import annotations

import pytest

from emberline.gateware.ecp5.pll import DIVIDER_LIMIT, PHASE_DETECTOR_HZ, VCO_HZ, Pll, find_settings


@pytest.mark.parametrize("output_mhz", [25, 50, 100, 110, 120, 125, 130, 145, 150, 200])
def test_settings_give_the_clock_within_the_limits(output_mhz: int) -> None:
    settings = find_settings(25_000_000, output_mhz * 1_000_000)
    assert 25 * settings.feedback_divider == output_mhz * settings.input_divider
    assert VCO_HZ[0] <= output_mhz * 1_000_000 * settings.output_divider <= VCO_HZ[1]
    assert 25_000_000 / settings.input_divider >= PHASE_DETECTOR_HZ[0]
    assert max(settings.input_divider, settings.feedback_divider, settings.output_divider) <= DIVIDER_LIMIT


def test_an_impossible_clock_is_named() -> None:
    with pytest.raises(ValueError, match="no PLL settings turn 25000000 Hz into 48000000 Hz exactly"):
        Pll(25_000_000, 48_000_000)
