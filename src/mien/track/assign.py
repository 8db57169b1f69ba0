"""Who goes with whom: the assignment of least cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def assign(cost: ArrayLike) -> list[tuple[int, int]]:
    """Pairs of rows and columns of which the sum of costs is least, each used at most once.

    The Hungarian method with shortest augmenting paths (Jonker and Volgenant, "A shortest
    augmenting path algorithm for dense and sparse linear assignment problems", 1987).

    Args:
        cost: ``(N, M)`` finite numbers.

    Returns:
        ``min(N, M)`` pairs, rows rising.
    """
    table = np.asarray(cost, np.float64)
    if table.ndim != 2 or not table.size:
        return []
    if table.shape[0] > table.shape[1]:
        return sorted((r, c) for c, r in assign(table.T))
    n, m = table.shape
    rows, columns = np.zeros(n), np.zeros(m + 1)  # prices; the last column starts each path
    owner = np.full(m + 1, -1)
    for row in range(n):
        owner[m], column = row, m
        least, came = np.full(m, np.inf), np.full(m, m)
        done = np.zeros(m + 1, bool)
        while owner[column] >= 0:
            done[column] = True
            here = owner[column]
            through = table[here] - rows[here] - columns[:m]
            better = ~done[:m] & (through < least)
            least[better], came[better] = through[better], column
            column = int(np.where(done[:m], np.inf, least).argmin())
            step = least[column]
            rows[owner[done]] += step
            columns[done] -= step
            least[~done[:m]] -= step
        while column != m:
            owner[column] = owner[came[column]]
            column = int(came[column])
    return sorted((int(owner[c]), c) for c in range(m) if owner[c] >= 0)
