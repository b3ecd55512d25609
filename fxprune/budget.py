"""Meet an objective: find how many of the ordered moves to make, and never empty an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

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
TRIALS = 2048  # choices tried in which two targets differ, to land within the tolerance
REACH = 8  # moves by which either may differ


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
        self._by_target: list[list[Move]] = [[] for _ in targets]
        for move in self._moves:
            self._by_target[move.target].append(move)
        self._recent = list(dict.fromkeys(move.target for move in reversed(self._moves)))
        self._units = sum(map(len, targets))
        self._rank = _ranks(len(cost.whole()), targets, scores)
        self._risky = _risky(cost.every_axis(), targets, len(cost.whole()))

    def meet(self, objective: Objective, name: str) -> Choice:
        """Return the choice nearest to the goal; raises ObjectiveError where none is near."""
        if not self._measure(objective, ()).achieved:
            raise ObjectiveError(f"objective.{name}: the model has no {name}; choose another")
        least = self._measure(objective, self._moves)
        if least.achieved > objective.goal * (1 + TOLERANCE) + 1e-9:
            raise ObjectiveError(
                f"objective.{name}: the selected targets can go down to {least.achieved:.3f}, and "
                f"{objective.goal:g} was asked; ask for no less, or select more targets"
            )
        prefix = self._moves[: self._fewest(objective, [], self._moves)]
        if prefix and not _near(self._measure(objective, prefix).achieved, objective.goal):
            prefix = self._around(objective, prefix)
        return self._refine(objective, prefix)

    def _fewest(self, objective: Objective, made: list[Move], rest: Sequence[Move]) -> int:
        """Return how many moves of `rest` after those made meet the goal: all, where none do."""
        low, high = 0, len(rest)
        while low < high:
            middle = (low + high) // 2
            tried = self._measure(objective, [*made, *rest[:middle]])
            if tried.achieved <= objective.goal + 1e-9:
                high = middle
            else:
                low = middle + 1
        return high

    def _around(self, objective: Objective, prefix: list[Move]) -> list[Move]:
        """Go on without the coarse target whose last move overshot the goal, if that is nearer."""
        coarse = prefix[-1].target
        rest = [move for move in self._moves[len(prefix) :] if move.target != coarse]
        other = prefix[:-1] + rest[: self._fewest(objective, prefix[:-1], rest)]
        offs = [_off(self._measure(objective, moves), objective) for moves in (prefix, other)]
        return prefix if offs[0] <= offs[1] else other

    def ratio(self, sparsity: float) -> Choice:
        """Make as many moves as keep the sparsity ratio at or below what was asked.

        Raises ObjectiveError where all of them remove less than that.
        """
        most = self._allocator.progress(self._moves, self._units)
        if most < sparsity * (1 - TOLERANCE) - 1e-9:
            raise ObjectiveError(
                f"objective.ratio: the selected targets can lose {most:.3f} of their units within "
                f"their bounds, and {sparsity:g} was asked; ask for no more, or relax min_keep, "
                "max_ratio and round_to"
            )
        low, high = 0, len(self._moves)
        while low < high:
            middle = (low + high + 1) // 2
            if self._allocator.progress(self._moves[:middle], self._units) <= sparsity + 1e-9:
                low = middle
            else:
                high = middle - 1
        gone = self._allocator.progress(self._moves[:low], self._units)
        return Choice(self._alive(self._moves[:low]), 1.0 - gone)

    def _refine(self, objective: Objective, prefix: Sequence[Move]) -> Choice:
        """Step single moves, then look at pairs ever further apart, until the goal is near."""
        made = [0] * len(self._by_target)
        for move in prefix:
            made[move.target] += 1
        best = self._measure(objective, prefix)
        stepped = True
        while stepped and not _near(best.achieved, objective.goal):
            stepped = False
            for changed in self._singles(made, 1):
                tried = self._measure(objective, self._made(changed))
                if _off(tried, objective) < _off(best, objective):
                    best, made, stepped = tried, changed, True
                    break
        for changed in islice(self._others(made), TRIALS):
            if _near(best.achieved, objective.goal):
                break
            tried = self._measure(objective, self._made(changed))
            best = min(best, tried, key=lambda choice: _off(choice, objective))
        return best

    def _made(self, counts: Sequence[int]) -> list[Move]:
        return [m for listed, n in zip(self._by_target, counts, strict=True) for m in listed[:n]]

    def _singles(self, made: list[int], step: int) -> Iterator[list[int]]:
        """Yield the choices `step` moves of one target away, the last moves of the order first."""
        for target in self._recent:
            for delta in (-step, step):
                if 0 <= made[target] + delta <= len(self._by_target[target]):
                    yield [n + delta * (k == target) for k, n in enumerate(made)]

    def _others(self, made: list[int]) -> Iterator[list[int]]:
        """Yield every choice where there are few, the nearest first, and else those in pairs."""
        ranges = [range(len(listed) + 1) for listed in self._by_target]
        if prod(map(len, ranges)) > TRIALS:
            return self._pairs(made)

        def distance(other: Sequence[int]) -> int:
            return sum(abs(a - b) for a, b in zip(made, other, strict=True))

        return iter(sorted(map(list, product(*ranges)), key=distance))

    def _pairs(self, made: list[int]) -> Iterator[list[int]]:
        """Yield the choices in which two targets differ, the smaller differences first."""
        for reach in range(1, REACH):
            for step in range(1, reach + 1):
                for first in self._singles(made, reach):
                    yield from self._singles(first, step)

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


def _off(choice: Choice, objective: Objective) -> float:
    return abs(choice.achieved - objective.goal)


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
