"""NetAdapt: step by step, from the target whose pruning costs the least score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.allocators.registry import Choice, Moves, Needs, Problem, Values, allocator

Counts = tuple[int, ...]  # how many moves of each target are made
FINEST = 1e-4  # of the whole: a cost that a step must save is halved down to this


@allocator("netadapt")
@dataclass(frozen=True)
class NetAdapt:
    """Shrink the one target that costs least score, until the budget is met (Yang et al. 2018).

    arXiv:1804.03230. Iteration i must bring the cost down by ΔRᵢ = `step`·`decay`ⁱ of the original
    cost: Resᵢ ≤ Resᵢ₋₁ − ΔRᵢ. Every target proposes the fewest further removals that do so alone,
    each proposal is evaluated, and the one of the highest score is made. The paper fine-tunes each
    proposal for a moment; `evaluate` may do so here, on the copy that it is given. The resource is
    the objective, whatever it counts. It works at the coarsest rounding that can meet the goal.
    """

    step: float = 0.05
    decay: float = 0.98
    needs: ClassVar[Needs] = "evaluate"

    def __post_init__(self) -> None:
        if not (0.0 < self.step < 1.0 and 0.0 < self.decay <= 1.0):
            raise ValueError(
                f"step={self.step:g} (above 0, below 1) and decay={self.decay:g} (above 0, to 1): "
                "one is out of its range"
            )

    def choose(self, problem: Problem) -> Choice:
        """Take the iterations in their order, and the last only as far as the goal asks."""
        if len(problem.targets) < 2:
            return problem.meet(lambda moves: moves.share)
        listed = _listed(problem)
        path = [_shares(problem, listed, counts) for counts in self._path(problem, listed)]

        def when(moves: Moves) -> Values:
            """Return the iterations that made moves, at whatever rounding; shares break ties."""
            gone = [shares[moves.target] for shares in path]
            when: Values = np.searchsorted(gone, moves.share - 1e-9) + 1e-3 * moves.share
            return when

        return problem.meet(when)

    def _path(self, problem: Problem, listed: list[Moves]) -> Iterator[Counts]:
        """Yield the counts of moves made at the start and after each iteration."""
        goal, demand = 1.0 - problem.objective.sparsity, self.step
        made = tuple(moves.due for moves in listed)
        here = _choice(problem, listed, made)
        yield made
        while here.achieved > goal + 1e-9 and not problem.near(here):
            proposals = _proposals(problem, listed, made, max(goal, here.achieved - demand))
            if not proposals:
                return
            scores = [problem.evaluate(choice) for _, choice in proposals]
            best = max(range(len(scores)), key=scores.__getitem__)
            before, (made, here) = made, proposals[best]
            changed = next(k for k, n in enumerate(made) if n != before[k])
            problem.say(
                f"netadapt: {here.achieved:.3f} of the cost, {problem.targets[changed].name} "
                f"shrunk, {scores[best]:.4g}"
            )
            yield made
            demand *= self.decay


def _listed(problem: Problem) -> list[Moves]:
    """Return the moves at the coarsest rounding at which all of them together meet the goal."""
    goal = 1.0 - problem.objective.sparsity
    for step in problem.steps:
        listed = problem.moves(step)
        least = _choice(problem, listed, tuple(map(len, listed)))
        if least.achieved <= goal + 1e-9 or problem.near(least):
            return listed
    return problem.moves(problem.steps[-1])


def _proposals(
    problem: Problem, listed: list[Moves], made: Counts, bar: float
) -> list[tuple[Counts, Choice]]:
    """Return for every target the fewest further moves that bring the cost to the bar or below.

    Where no target can do so alone, less is asked; where that does not help, such as with a peak
    that several targets have a part in, each proposes one move.
    """
    here = _choice(problem, listed, made).achieved
    while here - bar > FINEST:
        found = [_fewest(problem, listed, made, k, bar) for k in range(len(listed))]
        if proposals := [one for one in found if one is not None]:
            return proposals
        bar = (here + bar) / 2
    more = [_plus(made, k, 1) for k in range(len(listed)) if made[k] < len(listed[k])]
    return [(counts, _choice(problem, listed, counts)) for counts in more]


def _fewest(
    problem: Problem, listed: list[Moves], made: Counts, k: int, bar: float
) -> tuple[Counts, Choice] | None:
    low, high = 1, len(listed[k]) - made[k]
    if high < 1 or _choice(problem, listed, _plus(made, k, high)).achieved > bar + 1e-9:
        return None
    while low < high:
        middle = (low + high) // 2
        if _choice(problem, listed, _plus(made, k, middle)).achieved <= bar + 1e-9:
            high = middle
        else:
            low = middle + 1
    counts = _plus(made, k, high)
    return counts, _choice(problem, listed, counts)


def _plus(made: Counts, k: int, more: int) -> Counts:
    return (*made[:k], made[k] + more, *made[k + 1 :])


def _choice(problem: Problem, listed: list[Moves], counts: Counts) -> Choice:
    return problem.choice([moves.first(n) for moves, n in zip(listed, counts, strict=True)])


def _shares(problem: Problem, listed: list[Moves], counts: Counts) -> list[float]:
    """Return the share of each target removed by some moves."""
    before = [1 - len(t) / size for t, size in zip(problem.targets, problem.sizes, strict=True)]
    return [
        float(moves.share[n - 1]) if n else gone
        for moves, n, gone in zip(listed, counts, before, strict=True)
    ]
