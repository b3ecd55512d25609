"""Optimal allocation: the widths that keep the most importance, by integer programming."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import ClassVar, Literal

import numpy as np

from fxprune.allocators.optimal.lattice import Lattice, Listed, lattice
from fxprune.allocators.optimal.program import best
from fxprune.allocators.optimal.tables import Tables, tabulate
from fxprune.allocators.optimal.values import Importance, Measure
from fxprune.allocators.ranking import Global, Uniform
from fxprune.allocators.registry import Choice, Needs, Problem, allocator
from fxprune.guards import Ids
from fxprune.objectives.counted import Ratio

ROUNDS = 8  # programs solved at one rounding, each on a finer lattice than the one before
CLOSE = 0.009  # relative: how far below the goal a choice may lie; one per cent is asked
NARROWER = 1 / 3
GAIN = 1e-3  # relative: a finer lattice that gains less is the last
SAME = 1e-4  # relative: a cost was predicted if it is no further from what is counted

MOST = 1000  # options of a target at most, as more take more memory than sense


@allocator("optimal")
@dataclass(frozen=True)
class Optimal:
    """Choose all widths at once so that the most importance is kept at the cost asked.

    Maximise Σₖ vₖ(oₖ) subject to cost(o) ≤ goal over one option oₖ a target, where vₖ is the
    importance kept of a target by a `measure`. Scores that are changes of the loss are added up
    ("sum"), and where a metric knows what is lost with several units together, as `obs` does, that
    is taken (as in ZipLM, arXiv:2302.04089); of others, such as norms, the shares of each target
    count ("shares", see `Importance`): "auto" takes what fits the metric. `normalize` divides the
    scores of a target by their mean; "auto" does so but where changes of the loss are added. What
    inputs and outputs cost together
    is counted exactly, as tables over pairs of targets; the program is solved by HiGHS (Huangfu &
    Hall 2018) through `scipy.optimize.milp`, within a relative `gap`. Wide targets start with
    about `options` options, and finer ones around each solution follow. Where three targets or
    more interact, the rest is linear about the last solution, which is counted, corrected by the
    ratio and solved again (as in HALP, Shen et al. 2021, arXiv:2110.10811).

    An objective that sums over kernels supplies its tables by `Objective.terms`; others, such as
    the peak of activations, are looked up one target after the other. The result is never
    worse than `global` and `uniform`: it is one of theirs where that keeps more. `seconds` bound
    the search, not the tables.
    """

    measure: Measure = "auto"
    normalize: Literal["auto", "mean", "none"] = "auto"
    options: int = 16
    seconds: float = 30.0
    gap: float = 1e-3
    needs: ClassVar[Needs] = "nothing"

    def __post_init__(self) -> None:
        if not 2 <= self.options <= MOST or self.seconds <= 0.0 or not 0.0 <= self.gap < 1.0:
            raise ValueError(
                f"options={self.options} (2 to {MOST:,}), seconds={self.seconds:g} (above 0), "
                f"gap={self.gap:g} (0 or more, below 1): one is out of its range"
            )

    def choose(self, problem: Problem) -> Choice:
        """Solve at the coarsest rounding at which the goal is met, starting from `global`."""
        start = Global("none" if self.normalize == "none" else "mean").choose(
            problem
        )  # it says what is out of reach
        importance = Importance.of(problem, self.normalize, self.measure)
        goal = 1.0 - problem.objective.sparsity
        listed = Listed(problem, problem.moves(problem.steps[-1]), importance)
        if len(problem.targets) < 2 or _due(listed).achieved <= goal + 1e-9:
            return start
        found = [start, *self._uniform(problem)]
        until = monotonic() + self.seconds
        choice = self._solved(problem, importance, start, goal, until)
        found += [choice] if choice is not None else []
        first = self._best(problem, found, importance)
        if first is not choice and first.achieved > goal:  # it keeps more at a little more cost
            choice = self._solved(problem, importance, first, first.achieved, until)
            first = self._best(
                problem, [*found, *([choice] if choice is not None else [])], importance
            )
        kept, all_, other = (
            importance.kept(one) for one in (first.alive, problem.cost.whole(), start.alive)
        )
        problem.say(
            f"optimal: {first.achieved:.4f} of the cost keeps {kept:.6g} of {all_:.6g}; "
            f"global keeps {other:.6g} at {start.achieved:.4f}"
        )
        return first

    def _solved(
        self, problem: Problem, importance: Importance, start: Choice, most: float, until: float
    ) -> Choice | None:
        """Return the best choice at the coarsest rounding at which one meets the goal."""
        for step in problem.steps:
            listed = Listed(problem, problem.moves(step), importance)
            choice = _Solver(self, listed, until, most).improved(start)
            if choice is not None:
                return choice
        return None

    def _uniform(self, problem: Problem) -> Iterator[Choice]:
        """Yield the uniform choice; of a ratio it takes the largest share, not that of all."""
        if not isinstance(problem.objective, Ratio):
            yield Uniform().choose(problem)

    def _best(self, problem: Problem, found: list[Choice], importance: Importance) -> Choice:
        """Return what keeps the most of those that meet the goal, else what comes nearest."""
        goal = 1.0 - problem.objective.sparsity
        near = [choice for choice in found if problem.near(choice)]
        if near:
            return max(reversed(near), key=lambda choice: importance.kept(choice.alive))
        return min(found, key=lambda choice: abs(choice.achieved - goal))


def _due(listed: Listed) -> Choice:
    return listed.problem.choice(listed.made(listed.least))


class _Solver:
    """Solve programs at one rounding, each about the solution of the last."""

    def __init__(self, of: Optimal, listed: Listed, until: float, most: float) -> None:
        self._of, self._listed, self._until, self._most = of, listed, until, most
        self._problem = listed.problem
        self._goal = 1.0 - self._problem.objective.sparsity

    def improved(self, start: Choice) -> Choice | None:
        """Return the best choice found that meets the goal, None where none does."""
        found: Choice | None = None
        most, window, hair = (False, -np.inf), 1.0, 1e-9
        at = self._listed.nearest(start.alive)
        for number in range(1, ROUNDS + 1):
            if monotonic() >= self._until:
                self._problem.say(f"optimal: {self._of.seconds:g} s are over")
                break
            grid = lattice(self._listed, at, window, self._of.options)
            tables = tabulate(grid)
            places = self._places(grid, tables)
            window *= NARROWER
            if places is None and not grid.thinned:
                break
            if places is None:
                continue
            at = grid.counts(places)
            choice = self._problem.choice(self._listed.made(at))
            kept, near = self._kept(choice), self._problem.near(choice)
            self._say(number, choice, kept)
            rank, gain = (choice.achieved <= self._most + hair, kept), kept - most[1]
            if near and rank > most:
                found, most = choice, rank
            foreseen = abs(tables.of(places) - choice.achieved) <= SAME * self._goal
            slight = gain <= GAIN * abs(kept)
            settled = slight or not (grid.narrowed or grid.thinned)
            if found is not None and foreseen and settled:
                break
        return found

    def _places(self, grid: Lattice, tables: Tables) -> Ids | None:
        """Return the best options within the first bracket of costs that holds any."""
        for bracket in self._brackets():
            left = max(0.5, min(self._until - monotonic(), self._of.seconds / 4))
            places = best(grid, tables, bracket, left, self._of.gap)
            if places is not None:
                return places
        return None

    def _brackets(self) -> Iterator[tuple[float, float]]:
        """Yield least and most costs, the best first; of a ratio, no more than it allows."""
        goal, hair = self._goal, 1e-9
        if isinstance(self._problem.objective, Ratio):
            whole = self._problem.choice([]).achieved
            slack = 0.5 * whole / max(1, sum(map(len, self._problem.targets)))
            while slack < CLOSE * goal:
                yield goal - hair, goal + slack
                slack *= 4
            yield goal - hair, goal * (1 + CLOSE)
            return
        yield goal * (1 - CLOSE), self._most + hair
        yield goal * (1 - CLOSE), goal * (1 + CLOSE)

    def _kept(self, choice: Choice) -> float:
        return self._listed.importance.kept(choice.alive)

    def _say(self, number: int, choice: Choice, kept: float) -> None:
        self._problem.say(
            f"optimal: program {number}: {choice.achieved:.4f} of the cost keeps {kept:.6g}"
        )
