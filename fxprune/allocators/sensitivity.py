"""Sensitivity allocation: the largest share of each target within a common drop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators.registry import Choice, Moves, Needs, Problem, Values, allocator

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # shares removed, and the drops at them

FINEST = 1e-3  # the least step: each costs an evaluation of every target


@allocator("sensitivity")
@dataclass(frozen=True)
class Sensitivity:
    """Take from every target the largest share within a common drop (Han et al. 2015).

    arXiv:1506.02626. One target k alone is pruned to the shares `step`, 2·`step`, … up to `most`,
    and evaluated each time; its drop is dₖ(r) = max over r' ≤ r of eval(whole) − eval(k at r'),
    linear between the points measured. Every target loses max {r : dₖ(r) ≤ d}, with the one drop
    d at which the objective is met. It takes most/step evaluations a target, and one more.
    """

    step: float = 0.1
    most: float = 0.9
    needs: ClassVar[Needs] = "evaluate"

    def __post_init__(self) -> None:
        if not FINEST <= self.step <= self.most <= 1.0:
            raise ValueError(
                f"step={self.step:g} and most={self.most:g}: {FINEST:g} ≤ step ≤ most ≤ 1 is needed"
            )

    def choose(self, problem: Problem) -> Choice:
        """Measure the curve of every target, and make moves in the order of their drops."""
        if len(problem.targets) < 2:
            return problem.meet(lambda moves: moves.share)
        listed = problem.moves(problem.steps[-1])
        whole = problem.evaluate(problem.choice([]))
        curves = [self._curve(problem, moves, whole) for moves in listed]
        # Where drops are equal, above all where they are none, each target loses the same share.
        hair = 1e-6 * (max(float(drops[-1]) for _, drops in curves) or 1.0)

        def drop(moves: Moves) -> Values:
            drops: Values = np.interp(moves.share, *curves[moves.target]) + hair * moves.share
            return drops

        measured = dict(zip((moves.target for moves in listed), curves, strict=True))
        return replace(problem.meet(drop), curves=measured)

    def _curve(self, problem: Problem, moves: Moves, whole: float) -> Curve:
        """Return the shares to which one target alone was pruned, and the drops at them."""
        if not len(moves):
            return np.zeros(1), np.zeros(1)
        k = moves.target
        before = 1.0 - len(problem.targets[k]) / problem.sizes[k]
        shares, drops = [before], [0.0]
        for ratio in np.arange(self.step, self.most + 1e-9, self.step):
            made = moves.first(int(np.searchsorted(moves.share, ratio + 1e-9, side="right")))
            if len(made) and made.share[-1] > shares[-1]:
                shares.append(float(made.share[-1]))
                drops.append(whole - problem.evaluate(problem.choice([made])))
        problem.say(
            f"sensitivity: {problem.targets[k].name}: at most {max(drops):.4g} lost "
            f"with {shares[-1]:.0%} removed"
        )
        return np.array(shares), np.maximum.accumulate(drops)
