"""Keep axes from becoming empty although every target keeps a unit, or too narrow to choose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fxprune.guards import Ids, Mask, distinct
from fxprune.metrics import Scores
from fxprune.targets import Target


def ranks(size: int, targets: Sequence[Target], scores: Sequence[Scores]) -> NDArray[np.float64]:
    """Return the rank of each unit within its target, in [0, 1]; what is no unit ranks highest."""
    rank = np.full(size, np.inf)
    for target, score in zip(targets, scores, strict=True):
        order = np.argsort(np.argsort(score, kind="stable"), kind="stable")
        rank[target.units] = order / max(1, len(order))
    return rank


def risky(axes: Sequence[Ids], targets: Sequence[Target], size: int) -> list[Ids]:
    """Return the axes that could become empty although every target keeps a unit."""
    owner = np.full(size, -1)
    for k, target in enumerate(targets):
        owner[target.units] = k
    widths = np.array([len(target) for target in targets], dtype=np.int64)
    return [g for g in axes if (owner[g] >= 0).any() and not _safe(g, owner[g], widths)]


def _safe(g: Ids, owners: Ids, widths: Ids) -> bool:
    """Tell whether an axis is the full product of whole targets, or has a row none can drop."""
    if (owners < 0).all(axis=1).any():
        return True
    rows = 1
    for column, owner in zip(g.T, owners.T, strict=True):
        if (owner != owner[0]).any() or owner[0] < 0:
            return False
        number = len(distinct(column))
        if number != widths[owner[0]]:
            return False
        rows *= number
    return rows == len(g)


def restored(alive: Mask, g: Ids, rank: NDArray[np.float64], least: int) -> None:
    """Keep the best rows of an axis, so that `least` of them are kept (or all that there are)."""
    kept = np.asarray(alive[g].all(axis=1))
    missing = min(least, len(g)) - int(kept.sum())
    if missing > 0:
        best = np.argsort(-rank[g].min(axis=1), kind="stable")
        alive[g[best[~kept[best]][:missing]]] = True
