"""Grouped convolutions: where their outputs are no product, every group only keeps as many.

Outputs of different groups may leave together whatever their places are. Which do is settled when
all else is stated: the rows of every group are sorted by their guards, and the k-th of each group
unified. Where the groups hold the same guards already, that asks for nothing more.
"""

from __future__ import annotations

import numpy as np

from fxprune.guards import Ids, Reason
from fxprune.rules import Coupling, TensorGuard
from fxprune.rules.site import Groups

MISMATCHES = (" across an earlier split", "two layouts of one axis do not match")


def unmatched(coupling: Coupling) -> frozenset[str]:
    """Return the names of grouped convolutions that other layouts keep from losing channels.

    What they read or make is pinned since two layouts differ, or fewer than the channels of a
    group are free by themselves.
    """
    return frozenset(name for name, groups in coupling.grouped if _held(coupling, groups))


def _held(coupling: Coupling, groups: Groups) -> bool:
    rows = coupling.guards.normal(groups.rows)
    if rows.shape[1]:
        return len(np.unique(rows[rows > 0])) < len(rows) // groups.count
    reasons = [reason.text for reason, *_ in coupling.guards.blame(groups.rows)]
    return any(text.endswith(MISMATCHES) for text in reasons)


def units(coupling: Coupling) -> int:
    """Return how many variables guard parameters and can leave: not with all of an axis."""
    read = [value for node, value in coupling.values.items() if node.op == "get_attr"]
    found, whole = set[int](), set[int]()
    for g in (g for value in read if isinstance(value, TensorGuard) for g in value.dims):
        rows = coupling.guards.normal(g)
        ids, counts = np.unique(rows[rows > 0], return_counts=True)
        found.update(ids.tolist())
        whole.update(ids[counts == len(rows)].tolist())
    return len(found - whole)


def settle_balances(coupling: Coupling) -> None:
    """Let each group of every loose convolution keep as many rows as the others."""
    for name, groups in coupling.balances.items():
        reason = Reason(name, "every group of a convolution keeps as many outputs")
        first, *others = _sorted(coupling.guards.normal(groups.rows), groups.count)
        for group in others:
            coupling.guards.unify(groups.rows[first], groups.rows[group], reason)


def _sorted(rows: Ids, groups: int) -> list[Ids]:
    """Return the places of the rows of each group, sorted by their guards: rare variables first."""
    places = np.arange(len(rows)).reshape(groups, -1)
    if not rows.shape[1]:
        return list(places)
    often = np.bincount(rows.ravel())[rows]
    rank = np.where(rows > 0, often * (int(rows.max()) + 1) + rows, np.iinfo(np.int64).max)
    keys = np.sort(rank, axis=1)
    return [group[np.lexsort(keys[group].T[::-1])] for group in places]
