"""Meet an objective: find how many of the ordered moves to make, and never empty an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators import Allocator, Move
from fxprune.cost import Cost
from fxprune.errors import ObjectiveError
from fxprune.guards import Ids, Mask
from fxprune.metrics.registry import Scores
from fxprune.objectives import Objective
from fxprune.targets import Target

TOLERANCE = 0.01  # relative: what was asked is met within one per cent
TRIALS = 256  # single moves tried to land within the tolerance


@dataclass(frozen=True)
class Choice:
    """Hold which variables stay (`alive`, `[variables]`) and the share of the objective kept."""

    alive: Mask
    achieved: float


class Budget:
    """Search the prefix of the moves that meets the objective."""

    def __init__(
        self,
        cost: Cost,
        targets: Sequence[Target],
        scores: Sequence[Scores],
        moves: Sequence[Move],
        allocator: Allocator,
    ) -> None:
        self._cost = cost
        self._moves = allocator.order(moves, scores)
        self._allocator = allocator
        self._units = sum(map(len, targets))
        self._rank = _ranks(len(cost.whole()), targets, scores)
        self._risky = _risky(cost.every_axis(), targets, len(cost.whole()))

    def meet(self, objective: Objective, name: str) -> Choice:
        """Return the choice nearest to the goal; raises ObjectiveError where none is near."""
        least = self._measure(objective, self._moves)
        if least.achieved > objective.goal * (1 + TOLERANCE) + 1e-9:
            raise ObjectiveError(
                f"objective.{name}: the selected targets can go down to {least.achieved:.3f}, and "
                f"{objective.goal:g} was asked; ask for no less, or select more targets"
            )
        low, high = 0, len(self._moves)  # making `high` moves meets the goal
        while low < high:
            middle = (low + high) // 2
            if self._measure(objective, self._moves[:middle]).achieved <= objective.goal + 1e-9:
                high = middle
            else:
                low = middle + 1
        return self._refine(objective, high)

    def ratio(self, sparsity: float) -> Choice:
        """Make as many moves as keep the sparsity ratio at or below what was asked."""
        low, high = 0, len(self._moves)
        while low < high:
            middle = (low + high + 1) // 2
            if self._allocator.progress(self._moves[:middle], self._units) <= sparsity + 1e-9:
                low = middle
            else:
                high = middle - 1
        gone = self._allocator.progress(self._moves[:low], self._units)
        return Choice(self._alive(self._moves[:low]), 1.0 - gone)

    def _refine(self, objective: Objective, end: int) -> Choice:
        """Step over moves that would cut too deep until what is left is near the goal."""
        best = self._measure(objective, self._moves[:end])
        if end == 0 or _near(best.achieved, objective.goal):
            return best
        made = list(self._moves[: end - 1])
        skipped: set[int] = {self._moves[end - 1].target}
        current = self._measure(objective, made)
        best = min((best, current), key=lambda c: abs(c.achieved - objective.goal))
        for move in self._moves[end : end + TRIALS]:
            if _near(best.achieved, objective.goal):
                break
            if move.target in skipped:  # a target's moves are made in order or not at all
                continue
            tried = self._measure(objective, [*made, move])
            if tried.achieved < objective.goal * (1 - TOLERANCE):
                skipped.add(move.target)
                continue
            made.append(move)
            best = min((best, tried), key=lambda c: abs(c.achieved - objective.goal))
        return best

    def _measure(self, objective: Objective, made: Sequence[Move]) -> Choice:
        alive = self._alive(made)
        gone = self._allocator.progress(made, self._units)
        return Choice(alive, objective.measure(self._cost, alive, gone))

    def _alive(self, made: Sequence[Move]) -> Mask:
        alive = self._cost.whole()
        if made:
            alive[np.concatenate([move.units for move in made])] = False
        for g in self._risky:
            if not alive[g].all(axis=1).any():
                alive[g[int(np.argmax(self._rank[g].min(axis=1)))]] = True
        return alive


def _near(achieved: float, goal: float) -> bool:
    return abs(achieved - goal) <= TOLERANCE * goal


def _ranks(size: int, targets: Sequence[Target], scores: Sequence[Scores]) -> NDArray[np.float64]:
    """Return the rank of each unit within its target, in [0, 1]; what is no unit ranks highest."""
    rank = np.full(size, np.inf)
    for target, score in zip(targets, scores, strict=True):
        order = np.argsort(np.argsort(score, kind="stable"), kind="stable")
        rank[target.units] = order / max(1, len(order))
    return rank


def _risky(axes: Sequence[Ids], targets: Sequence[Target], size: int) -> list[Ids]:
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
        distinct = len(np.unique(column))
        if distinct != widths[owner[0]]:
            return False
        rows *= distinct
    return rows == len(g)
