"""Relative rates: one number for each target, completed to a choice that meets the goal.

Searches look for the rates. Whatever they try meets the objective, so that scores are compared at
equal cost, and only the proportions between targets are searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxprune.allocators.registry import Choice, Problem

LEAST, EQUAL, MOST = 0.01, 0.5, 1.0  # a target of the least rate is touched last


@dataclass(frozen=True)
class Tried:
    """Hold rates with the choice that they make, and what the evaluator says of it."""

    rates: tuple[float, ...]
    choice: Choice
    near: bool
    score: float

    @property
    def rank(self) -> tuple[bool, float]:
        """Return what the best has most of: one that meets the goal comes before all others."""
        return self.near, self.score


def met(problem: Problem, rates: Sequence[float]) -> Choice:
    """Return the choice that meets the goal with shares in proportion to the rates.

    Bounds come first: where a target can lose no more, the others lose its part.
    """
    return problem.meet(lambda moves: moves.share / rates[moves.target])


def uniform(problem: Problem) -> tuple[float, ...]:
    """Return the rates at which every target loses the same share."""
    return (EQUAL,) * len(problem.targets)


def tried(problem: Problem, rates: Iterable[float]) -> Tried:
    """Return rates with their choice and its score."""
    fixed = tuple(map(float, rates))
    choice = met(problem, fixed)
    return Tried(fixed, choice, problem.near(choice), problem.evaluate(choice))
