"""Meet an objective within the bounds of every target: the problem that allocators solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators import Bounds, Choice, Key, Moves, Progress, Ranked, moves_of
from fxprune.allocators.minimum_widths import ranks, restored, risky
from fxprune.allocators.registry import MANY, NOWHERE, Values
from fxprune.allocators.search import TOLERANCE, Search
from fxprune.cost import Cost
from fxprune.errors import ObjectiveError, SpecError
from fxprune.guards import Ids, Mask, distinct
from fxprune.metrics import Scores
from fxprune.objectives import Objective
from fxprune.targets import Target


@dataclass(frozen=True, eq=False)
class Budget:
    """Search choices that meet the objective: the `Problem` that allocators solve.

    `whole` is the cost of the original model, `sizes` the units that its targets had, and `gone`
    the units lost by targets that have no units left to choose. `evaluator` scores a choice.
    """

    cost: Cost
    targets: Sequence[Target]
    scores: Sequence[Scores]
    bounds: Sequence[Bounds]
    sizes: Sequence[int]
    objective: Objective
    name: str
    whole: float
    gone: int = 0
    evaluator: Callable[[Choice], float] | None = None
    say: Callable[[str], None] = lambda text: None
    additive: bool = False
    losses: Sequence[Scores] = ()

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Return the roundings to try, the coarsest first."""
        auto = any(bound.round_to == "auto" for bound in self.bounds)
        return self.objective.roundings if auto and self.name != "ratio" else (1,)

    def moves(self, step: int) -> list[Moves]:
        """Return the moves of each target in their order, at a rounding."""
        if step not in self._moves:
            self._moves[step] = self._cut(step)
        return self._moves[step]

    def _cut(
        self,
        step: int,
        finer: Mapping[int, Ids] = MappingProxyType({}),
        known: Sequence[Moves] = (),
    ) -> list[Moves]:
        return moves_of(self.targets, self._ranked, self.bounds, self.sizes, step, finer, known)

    @cached_property
    def _ranked(self) -> list[Ranked]:
        return [Ranked.of(t, score) for t, score in zip(self.targets, self.scores, strict=True)]

    @cached_property
    def _moves(self) -> dict[int, list[Moves]]:
        return {}

    def meet(self, key: Key, progress: Progress = "units") -> Choice:
        """Return the choice nearest to the goal that moves made in the order of `key` lead to.

        It is the one at the coarsest rounding that is near enough. Raises ObjectiveError where
        none is near.
        """
        for step in self.steps[:-1]:
            try:
                choice = Search(self, self.moves(step), key).meet()
            except ObjectiveError:
                continue  # a finer rounding may still reach it
            if self.near(choice):
                return choice
        return self._refined(key, progress)

    def _refined(self, key: Key, progress: Progress) -> Choice:
        """Search at the finest rounding, cutting large moves up where the search ends."""
        finer: dict[int, Ids] = {}
        step, moves = self.steps[-1], self.moves(self.steps[-1])
        while True:
            search = Search(self, moves, key)
            choice = search.ratio(progress) if self.name == "ratio" else search.meet()
            cuts = {
                m.target: cut for m in moves if len(cut := around(m.ends, choice.counts[m.target]))
            }
            if not cuts:
                return choice
            finer |= {k: np.union1d(finer.get(k, cut), cut) for k, cut in cuts.items()}
            before = sum(map(len, moves))
            moves = self._cut(step, finer, moves)
            if sum(map(len, moves)) == before:
                return choice

    def below(self, threshold: float) -> Choice:
        """Return the choice of all units whose score is at most a threshold, within the bounds."""
        ends = [np.searchsorted(one.highest, threshold, side="right") for one in self._ranked]
        moves = self._cut(self.steps[-1], {k: np.array([end]) for k, end in enumerate(ends)})
        taken = [max(m.due, int(np.searchsorted(m.score, threshold, side="right"))) for m in moves]
        return self.choice([m.first(n) for m, n in zip(moves, taken, strict=True) if n])

    def near(self, choice: Choice) -> bool:
        """Tell whether a choice meets the goal within the tolerance."""
        goal = 1.0 - self.objective.sparsity
        return abs(choice.achieved - goal) <= TOLERANCE * goal

    def choice(self, moves: Sequence[Moves]) -> Choice:
        """Return the choice of some moves; where an axis would be empty, its best unit is kept."""
        alive = self.cost.whole()
        if moves:
            alive[np.concatenate([one.gone for one in moves])] = False
        for g in self._risky:
            if not alive[g].all(axis=1).any():
                alive[g[int(np.argmax(self._rank[g].min(axis=1)))]] = True
        for g, least in self.cost.choices():
            restored(alive, g, self._rank, least)
        counts = [0] * len(self.targets)
        for one in moves:
            counts[one.target] = len(one)
        return Choice(alive, self._share(alive, moves), tuple(counts))

    def _share(self, alive: Mask, moves: Sequence[Moves]) -> float:
        if self.name == "ratio":
            return 1.0 - (self._lost + sum(len(one.gone) for one in moves)) / self._all
        return self.objective.count(self.cost, alive) / self.whole

    def progress(self, units: Ids, shares: Values, kind: Progress) -> Values:
        """Return the sparsity ratio before any move, and after each, given what each removes.

        `units` are how many, and `shares` the share of the target removed then. What the
        targets lost in earlier steps counts.
        """
        if kind == "largest share":
            pairs = zip(self.sizes, self.targets, strict=True)
            lost = [(size - len(target)) / size for size, target in pairs]
            reached = np.maximum.accumulate(np.concatenate([[max(lost, default=0.0)], shares]))
        else:
            reached = (self._lost + np.cumsum(np.concatenate([[0], units]))) / self._all
        return np.asarray(reached, dtype=np.float64)

    @cached_property
    def _lost(self) -> int:
        """Return how many units are removed already."""
        return self.gone + sum(self.sizes) - sum(map(len, self.targets))

    @cached_property
    def _all(self) -> int:
        return max(1, self.gone + sum(self.sizes))

    def evaluate(self, choice: Choice) -> float:
        """Return what the user's evaluator says of a choice."""
        if self.evaluator is None:
            raise SpecError("allocation: it needs evaluate; call prune(…, evaluate=…)")
        return self.evaluator(choice)

    @cached_property
    def _rank(self) -> NDArray[np.float64]:
        return ranks(len(self.cost.whole()), self.targets, self.scores)

    @cached_property
    def _risky(self) -> list[Ids]:
        return risky(self.cost.every_axis(), self.targets, len(self.cost.whole()))


def around(ends: Ids, made: int) -> Ids:
    """Return where the moves around the place that a search came to can be cut, none where not.

    >>> around(np.arange(1, MANY + 1), 2).tolist(), around(np.arange(0, 3 * MANY, 3), 1).tolist()
    ([], [1, 2])
    """
    if len(ends) < MANY:
        return NOWHERE
    stops = np.concatenate([[0], ends])
    found = [NOWHERE]
    for low, high in pairwise(stops[max(0, made - 1) : made + 2].tolist()):
        if high - low > 1:
            found.append(np.linspace(low, high, 66).astype(np.int64)[1:-1])
    cuts = distinct(np.concatenate(found))
    fresh: Ids = cuts[stops[np.searchsorted(stops, cuts)] != cuts]
    return fresh
