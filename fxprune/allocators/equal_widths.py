"""Equal widths in all targets of one structure, so that a configuration can say them.

The targets of a group become one, in which the least important unit of each, the second least, and
so on stand side by side, and which loses as many of each at a time. Whatever allocates sees one
target, and every goal is counted with all of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fxprune.allocators.registry import Bounds
from fxprune.metrics import Scores
from fxprune.targets import BlockTarget, Target


@dataclass(frozen=True)
class Listed:
    """Hold targets with their scores, bounds, sizes and losses, in one order."""

    targets: Sequence[Target]
    scores: Sequence[Scores]
    bounds: Sequence[Bounds]
    sizes: Sequence[int]
    losses: Sequence[Scores] = ()


def equal_widths(listed: Listed) -> Listed:
    """Return targets of which those of one structure, of as many units each, are one.

    Their bounds and their original sizes must be the same, too; others stay by themselves.
    """
    groups: dict[Hashable, list[int]] = {}
    for k, target in enumerate(listed.targets):
        alone = isinstance(target, BlockTarget) or not target.structure
        same = (target.structure, len(target), listed.sizes[k], listed.bounds[k])
        groups.setdefault(k if alone else same, []).append(k)
    every = list(groups.values())
    return Listed(
        [_target(listed, group) for group in every],
        [_score(listed.scores, listed.scores, group, mean=True) for group in every],
        [_bounds(listed.bounds[group[0]], len(group)) for group in every],
        [listed.sizes[group[0]] * len(group) for group in every],
        [_score(listed.losses, listed.scores, group, mean=False) for group in every]
        if listed.losses
        else (),
    )


def _target(listed: Listed, group: Sequence[int]) -> Target:
    first = listed.targets[group[0]]
    if len(group) == 1:
        return first
    members = [listed.targets[k] for k in group]
    orders = [np.argsort(listed.scores[k], kind="stable") for k in group]
    units = np.stack([t.units[o] for t, o in zip(members, orders, strict=True)], axis=1).ravel()
    footprint = tuple(dict.fromkeys(axis for one in members for axis in one.footprint))
    return replace(first, units=units, footprint=footprint, exact=all(t.exact for t in members))


def _score(
    values: Sequence[Scores], scores: Sequence[Scores], group: Sequence[int], *, mean: bool
) -> Scores:
    """Return what stands for each unit of a group: the mean of its rank, or the sum of losses."""
    if len(group) == 1:
        return values[group[0]]
    if mean:
        each = np.stack([np.sort(scores[k], kind="stable") for k in group], axis=1).mean(axis=1)
    else:  # losses stand in the order of the scores already
        each = np.stack([values[k] for k in group], axis=1).sum(axis=1)
    return np.repeat(each, len(group))


def _bounds(bound: Bounds, members: int) -> Bounds:
    """Return the bounds of a group: as many of each of its members leave at a time."""
    if members == 1:
        return bound
    step = 1 if bound.round_to == "auto" else bound.round_to
    return Bounds(
        max(1, bound.min_keep) * members, bound.max_ratio, step * members, bound.min_ratio
    )
