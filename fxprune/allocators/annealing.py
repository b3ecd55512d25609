"""Simulated annealing of the rates at which targets lose units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators.rates import LEAST, MOST, Tried, tried, uniform
from fxprune.allocators.registry import TRIALS, Choice, Needs, Problem, allocator

AT_FIRST = 0.5  # the share of ordinary bad moves accepted at the start
COLDEST = 0.003  # the last temperature, of the first


@dataclass(frozen=True)
class Step:
    """Hold one candidate, by how much it is better than where the walk was, and what came of it.

    `cool` runs from 0 to 1 as the temperature falls; before, it is −1, and the walk does not move.
    """

    at: Tried
    gain: float
    accepted: bool
    cool: float


@allocator("simulated-annealing")
@dataclass(frozen=True)
class SimulatedAnnealing:
    """Anneal relative rates of targets, scored by the evaluator (AutoCompress, Liu et al. 2019).

    arXiv:1907.03141. The walk starts with equal rates. A candidate changes some of the rates, and
    is completed to meet the objective; one that is worse by Δ is accepted with the probability
    exp(−Δ/T). T follows the evaluator's own scale: the first candidates are neighbours of the
    start, and T₀ = Δ̄ / ln 2, with Δ̄ the mean of what they lose, accepts half of such moves; then
    T falls geometrically to 0.003·T₀, where almost none are. Steps grow shorter, to a third of
    `reach`. The best choice seen is returned, after `trials` candidates.
    """

    trials: int = 100
    seed: int = 0
    reach: float = 0.25  # the standard deviation of a step at the start; rates are 0 to 1
    needs: ClassVar[Needs] = "evaluate"

    def __post_init__(self) -> None:
        if not 2 <= self.trials <= TRIALS or self.reach <= 0.0 or self.seed < 0:
            raise ValueError(
                f"trials={self.trials} (2 to {TRIALS:,}), seed={self.seed} (0 or more), "
                f"reach={self.reach:g} (above 0): one is out of its range"
            )

    def choose(self, problem: Problem) -> Choice:
        """Return the best choice of the walk."""
        if len(problem.targets) < 2:
            return problem.meet(lambda moves: moves.share)
        *_, best = self._records(problem)
        return best.choice

    def _records(self, problem: Problem) -> Iterator[Tried]:
        """Yield what is better than all before it, the start at first, and say so."""
        rank = None
        for number, step in enumerate(self.walk(problem), 1):
            if rank is None or step.at.rank > rank:
                rank, score = step.at.rank, step.at.score
                problem.say(f"annealing: {number} of {self.trials}: {score:.4g} is the best")
                yield step.at

    def walk(self, problem: Problem) -> Iterator[Step]:
        """Yield the start and every candidate in turn."""
        random = np.random.default_rng(self.seed)
        start = here = best = tried(problem, uniform(problem))
        yield Step(here, 0.0, True, -1.0)
        losses: list[float] = []
        scouts = max(1, min(10, self.trials // 5))
        for _ in range(scouts):
            at = tried(problem, _moved(start.rates, self.reach, random))
            losses.append(start.score - at.score)
            best = max(best, at, key=lambda one: one.rank)
            yield Step(at, -losses[-1], False, -1.0)
        here, first = best, _temperature(losses)
        rest = self.trials - 1 - scouts
        for k in range(rest):
            cool = k / max(1, rest - 1)
            warmth = COLDEST**cool
            at = tried(problem, _moved(here.rates, self.reach * warmth**0.2, random))
            gain, luck = at.score - here.score, random.random()
            accepted = gain >= 0.0 or luck < exp(gain / (first * warmth))
            yield Step(at, gain, accepted, cool)
            here = at if accepted else here


def _temperature(losses: list[float]) -> float:
    """Return the temperature at which half of moves that lose as much as these are accepted."""
    bad = [loss for loss in losses if loss > 0.0] or [abs(loss) for loss in losses]
    return max(float(np.mean(bad)), 1e-12) / -log(AT_FIRST)


def _moved(
    rates: tuple[float, ...], reach: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return rates of which about a third, one at least, took a step."""
    some = random.random(len(rates)) < 1 / 3
    some[random.integers(len(rates))] = True
    step = random.normal(0.0, reach, len(rates))
    moved: NDArray[np.float64] = np.array(rates) + np.where(some, step, 0.0)
    return moved.clip(LEAST, MOST)
