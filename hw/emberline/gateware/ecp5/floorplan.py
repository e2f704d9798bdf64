"""Where the lanes' multipliers lie on an LFE5U-85F.

Nearly all multipliers are taken, and a placer that is left alone spreads every lane over the three rows that they lie
in. Here lane follows lane along a row and back along the next one, as activations go from lane to lane; what is left
between the lanes is for requantisers and adders.
"""

from __future__ import annotations

from emberline.arch.architecture import Architecture

ROWS = (58, 34, 10)
"""Y of the rows of multipliers, from the middle of the die on (Project Trellis' grid)."""

_BLOCKS = (*range(4, 59, 9), *range(69, 115, 9))
"""X of the blocks of four multipliers in a row."""
_IN_BLOCK = (0, 1, 4, 5)
"""Columns of a block that have a multiplier, which is called by its column."""

SITES = tuple((block + column, column) for block in _BLOCKS for column in _IN_BLOCK)
"""X and number of the multipliers of a row."""


def multiplier_sites(architecture: Architecture) -> dict[str, str]:
    """Sites (nextpnr's ``BEL``) by the lane and the number of the multiplier, as ``lane_0.multiplier_0``.

    Empty where the lanes have no room: then all multipliers may lie anywhere.
    """
    size, lanes = architecture.lanes_in, architecture.lanes_out
    per_row = len(SITES) // size
    if not per_row or lanes > per_row * len(ROWS):
        return {}
    pitch = (len(SITES) - size) // max(1, per_row - 1)
    sites = {}
    for lane in range(lanes):
        row, place = divmod(lane, per_row)
        if row % 2:
            place = per_row - 1 - place
        for index, (x, number) in enumerate(SITES[place * pitch : place * pitch + size]):
            sites[f"lane_{lane}.multiplier_{index}"] = f"X{x}/Y{ROWS[row]}/MULT18_{number}"
    return sites
