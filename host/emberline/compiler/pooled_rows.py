"""Which rows of a convolution a maximum behind it needs, and where each of them goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from emberline.model.graph import MaxPool


@dataclass(frozen=True)
class Placing:
    """Where a computed row goes: to the target's row ``target``, and of a pool perhaps to row ``copy`` too."""

    row: int
    target: int
    combines: bool = False
    copies: bool = False
    copy: int = 0


def shares_rows(pool: MaxPool) -> bool:
    """Whether no row belongs to more than two windows."""
    return pool.window[0] <= pool.stride[0] + 1


def plan_pool(pool: MaxPool, rows: int, pooled_rows: int) -> list[Placing]:
    """The computed rows of a maximum in their order, for ``rows`` rows and ``pooled_rows`` of the result.

    Windows that share one row at most let every row be computed once: the last row of a window begins the next one
    by a copy. Otherwise each window computes its rows for itself. Rows in no window are not computed.
    """
    (height, _), (stride, _) = pool.window, pool.stride
    windows = []
    for index in range(pooled_rows):
        top = index * stride - pool.padding.top
        windows.append([row for row in range(top, top + height) if 0 <= row < rows])
    placings: list[Placing] = []
    begun = -1
    for index, window in enumerate(windows):
        for row in window:
            if begun == row:
                continue
            copies = (
                shares_rows(pool) and row == window[-1] and index + 1 < pooled_rows and windows[index + 1][0] == row
            )
            placings.append(Placing(row, index, row != window[0], copies, index + 1))
            begun = row if copies else begun
    return _aim_copies(placings)


def _aim_copies(placings: list[Placing]) -> list[Placing]:
    """Rows that are not copied point where the next copy goes, so that pointers move in step."""
    aimed: list[Placing] = []
    following = placings[-1].target
    for placing in reversed(placings):
        following = placing.copy if placing.copies else following
        aimed.append(replace(placing, copy=following))
    return aimed[::-1]
