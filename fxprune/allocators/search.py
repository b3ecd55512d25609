"""Search how many of the ordered moves meet an objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice, product
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators import Choice, Key, Moves, Progress
from fxprune.allocators.registry import NOWHERE, Values
from fxprune.errors import ObjectiveError
from fxprune.guards import Ids
from fxprune.objectives import Objective

TOLERANCE = 0.01  # relative: what was asked is met within one per cent
TRIALS = 2048  # choices tried in which two targets differ, to land within the tolerance
REACH = 8  # moves by which either may differ


class Measured(Protocol):
    """What a search asks of a budget."""

    @property
    def objective(self) -> Objective:
        """Return the goal, with what it counts."""

    @property
    def name(self) -> str:
        """Return the name of the objective."""

    @property
    def whole(self) -> float:
        """Return the cost of the original model."""

    def choice(self, moves: Sequence[Moves]) -> Choice:
        """Return the choice that moves amount to."""

    def near(self, choice: Choice) -> bool:
        """Tell whether a choice meets the goal."""

    def progress(self, units: Ids, shares: Values, kind: Progress) -> Values:
        """Return the sparsity ratio before any of the moves, and after each."""


class Search:
    """Search the prefix of the ordered moves that meets the objective.

    A sequence of moves is written as the numbers of their targets: which of its moves a target
    makes is never in question.
    """

    def __init__(self, budget: Measured, by_target: Sequence[Moves], key: Key) -> None:
        self._budget = budget
        self._goal = 1.0 - budget.objective.sparsity
        self._by_target = by_target
        self._place = _ordered(by_target, key)
        self._order = _joined([np.full(len(m), k) for k, m in enumerate(by_target)])[self._place]
        self._least = [moves.due for moves in by_target]
        self._due = sum(self._least)

    @cached_property
    def _recent(self) -> list[int]:
        return list(dict.fromkeys(self._order[::-1].tolist()))

    def meet(self) -> Choice:
        """Return the choice nearest to the goal; raises ObjectiveError where none is near."""
        name, due = self._budget.name, self._order[: self._due]
        if not self._budget.whole:
            raise ObjectiveError(f"objective.{name}: the model has no {name}; choose another")
        if (first := self._measure(due)).achieved <= self._goal + 1e-9:
            return first
        least = self._measure(self._order)
        if least.achieved > self._goal * (1 + TOLERANCE) + 1e-9:
            raise out_of_reach(name, least.achieved, self._goal)
        rest = self._order[self._due :]
        prefix = np.concatenate([due, rest[: self._fewest(due, rest)]])
        if len(prefix) and not self._near(self._measure(prefix)):
            prefix = self._around(prefix)
        return self._refine(prefix)

    def _fewest(self, made: Ids, rest: Ids) -> int:
        """Return how many moves of `rest` after those made meet the goal: all, where none do."""
        low, high = 0, len(rest)
        while low < high:
            middle = (low + high) // 2
            tried = self._measure(np.concatenate([made, rest[:middle]]))
            if tried.achieved <= self._goal + 1e-9:
                high = middle
            else:
                low = middle + 1
        return high

    def _around(self, prefix: Ids) -> Ids:
        """Leave out the coarse target whose last move overshot the goal, if that is nearer."""
        rest = self._order[len(prefix) :]
        rest = rest[rest != prefix[-1]]
        other = np.concatenate([prefix[:-1], rest[: self._fewest(prefix[:-1], rest)]])
        offs = [self._off(self._measure(moves)) for moves in (prefix, other)]
        return prefix if offs[0] <= offs[1] else other

    def ratio(self, progress: Progress) -> Choice:
        """Make as many moves as keep the sparsity ratio at or below what was asked.

        Raises ObjectiveError where all of them remove less than that.
        """
        sparsity, budget = self._budget.objective.sparsity, self._budget
        shares = _joined([moves.share for moves in self._by_target])[self._place]
        units = _joined([np.diff(m.ends, prepend=0) for m in self._by_target])[self._place]
        reached = budget.progress(units, shares, progress)
        most = float(reached[-1])
        if most < sparsity * (1 - TOLERANCE) - 1e-9:
            raise ObjectiveError(
                f"objective.ratio: the selected targets can lose {most:.3f} of their units within "
                f"their bounds, and {sparsity:g} was asked; ask for no more, or relax min_keep, "
                "max_ratio and round_to"
            )
        made = max(self._due, int(np.searchsorted(reached, sparsity + 1e-9, side="right")) - 1)
        choice = self._measure(self._order[:made])
        return Choice(choice.alive, 1.0 - float(reached[made]), choice.counts)

    def _refine(self, prefix: Ids) -> Choice:
        """Step single moves, then look at pairs ever further apart, until the goal is near."""
        best = self._measure(prefix)
        made, stepped = list(best.counts), True
        while stepped and not self._near(best):
            stepped = False
            for changed in self._singles(made, 1):
                tried = self._made(changed)
                if self._off(tried) < self._off(best):
                    best, made, stepped = tried, changed, True
                    break
        for changed in islice(self._others(made), TRIALS):
            if self._near(best):
                break
            best = min(best, self._made(changed), key=self._off)
        return best

    def _singles(self, made: list[int], step: int) -> Iterator[list[int]]:
        """Yield the choices `step` moves of one target away, the last moves of the order first."""
        for target in self._recent:
            for delta in (-step, step):
                wanted = made[target] + delta
                if self._least[target] <= wanted <= len(self._by_target[target]):
                    yield [n + delta * (k == target) for k, n in enumerate(made)]

    def _others(self, made: list[int]) -> Iterator[list[int]]:
        """Yield every choice where there are few, the nearest first, and else those in pairs."""
        ranges = [
            range(least, len(listed) + 1)
            for least, listed in zip(self._least, self._by_target, strict=True)
        ]
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

    def _measure(self, made: Ids) -> Choice:
        return self._made(np.bincount(made, minlength=len(self._by_target)).tolist())

    def _made(self, counts: Sequence[int]) -> Choice:
        pairs = zip(self._by_target, counts, strict=True)
        return self._budget.choice([moves.first(count) for moves, count in pairs])

    def _off(self, choice: Choice) -> float:
        return abs(choice.achieved - self._goal)

    def _near(self, choice: Choice) -> bool:
        return self._budget.near(choice)


def out_of_reach(name: str, least: float, goal: float, how: str = "") -> ObjectiveError:
    """Return the error for a goal below the least share of the original that targets allow."""
    error = ObjectiveError(
        f"objective.{name}: the selected targets can go down to {least:.3f}{how}, and {goal:g} was "
        "asked; ask for no less, select more targets (masks make none cheaper), or relax min_keep, "
        "max_ratio and round_to"
    )
    error.least = least
    return error


def _ordered(by_target: Sequence[Moves], key: Key) -> Ids:
    """Return the places of all moves in ascending order of `key`, those that are due first.

    A target's own moves keep their order: a later one is never cheaper than an earlier.
    """
    late = _joined([np.arange(len(moves)) >= moves.due for moves in by_target])
    values = _joined([np.maximum.accumulate(key(moves)) for moves in by_target])
    return np.lexsort((values, late))


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else NOWHERE
