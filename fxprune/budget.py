"""Meet an objective within the bounds of every target: the problem that allocators solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators import Bounds, Choice, Key, Move, Progress, Ranked, moves_of
from fxprune.allocators.registry import MANY, NOWHERE
from fxprune.cost import Cost
from fxprune.emptiness import ranks, risky
from fxprune.errors import ObjectiveError, SpecError
from fxprune.guards import Ids, Mask
from fxprune.metrics.registry import Scores
from fxprune.objectives import Objective
from fxprune.search import TOLERANCE, Search
from fxprune.targets import Target

# Kernels work on blocks of channels: widths that are no multiples of them run on slower paths, so
# that a narrower layer can be slower. "auto" takes the first of these at which the goal is met.
ROUNDINGS = (8, 4, 2, 1)


@dataclass(frozen=True, eq=False)
class Budget:
    """Search choices that meet the objective: the `Problem` that allocators solve.

    `whole` is the cost of the original model, `sizes` the units that its targets had, and `gone`
    the units that targets lost of which nothing is left to choose. `evaluator` scores a choice.
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

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Return the roundings to try, the coarsest first."""
        auto = any(bound.round_to == "auto" for bound in self.bounds)
        return ROUNDINGS if auto and self.name != "ratio" else (1,)

    def moves(self, step: int) -> list[list[Move]]:
        """Return the moves of each target in their order, at a rounding."""
        if step not in self._moves:
            self._moves[step] = self._cut(step)
        return self._moves[step]

    def _cut(self, step: int, finer: Mapping[int, Ids] = MappingProxyType({})) -> list[list[Move]]:
        return moves_of(self.targets, self._ranked, self.bounds, self.sizes, step, finer)

    @cached_property
    def _ranked(self) -> list[Ranked]:
        return [Ranked.of(t, score) for t, score in zip(self.targets, self.scores, strict=True)]

    @cached_property
    def _moves(self) -> dict[int, list[list[Move]]]:
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
            ends = [np.cumsum([len(move.units) for move in listed]) for listed in moves]
            cuts = {k: cut for k, e in enumerate(ends) if len(cut := around(e, choice.counts[k]))}
            if not cuts:
                return choice
            finer |= {k: np.union1d(finer.get(k, cut), cut) for k, cut in cuts.items()}
            before = sum(map(len, moves))
            moves = self._cut(step, finer)
            if sum(map(len, moves)) == before:
                return choice

    def below(self, threshold: float) -> Choice:
        """Return the choice of all units whose score is at most a threshold, within the bounds."""
        ends = [np.searchsorted(one.highest, threshold, side="right") for one in self._ranked]
        moves = self._cut(self.steps[-1], {k: np.array([end]) for k, end in enumerate(ends)})
        taken = [m for listed in moves for m in listed if m.due or m.score <= threshold]
        return self.choice(taken)

    def near(self, choice: Choice) -> bool:
        """Tell whether a choice meets the goal within the tolerance."""
        goal = 1.0 - self.objective.sparsity
        return abs(choice.achieved - goal) <= TOLERANCE * goal

    def choice(self, moves: Sequence[Move]) -> Choice:
        """Return what some moves amount to; where an axis would be empty, its best stays."""
        alive = self.cost.whole()
        if moves:
            alive[np.concatenate([move.units for move in moves])] = False
        for g in self._risky:
            if not alive[g].all(axis=1).any():
                alive[g[int(np.argmax(self._rank[g].min(axis=1)))]] = True
        counts = [0] * len(self.targets)
        for move in moves:
            counts[move.target] += 1
        return Choice(alive, self._share(alive, moves), tuple(counts))

    def _share(self, alive: Mask, moves: Sequence[Move]) -> float:
        if self.name == "ratio":
            return 1.0 - self.progress(moves, "units")[-1]
        return self.objective.count(self.cost, alive) / self.whole

    def progress(self, moves: Sequence[Move], kind: Progress) -> list[float]:
        """Return the sparsity ratio before any of the moves, and after each.

        What the targets lost in earlier steps counts.
        """
        before = [size - len(t) for size, t in zip(self.sizes, self.targets, strict=True)]
        if kind == "largest share":
            shares = [lost / size for lost, size in zip(before, self.sizes, strict=True)]
            return [*accumulate((m.share for m in moves), max, initial=max(shares, default=0.0))]
        lost, whole = self.gone + sum(before), max(1, self.gone + sum(self.sizes))
        return [n / whole for n in accumulate((len(m.units) for m in moves), initial=lost)]

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
    return np.setdiff1d(np.concatenate(found), stops)
