"""Allocation by a threshold: units below it are removed, and the sparsity follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from operator import attrgetter
from typing import ClassVar

from fxprune.allocators.registry import Choice, Needs, Problem, allocator


@allocator("threshold")
@dataclass(frozen=True)
class Threshold:
    """Take every unit, of whatever target, whose score is at most `threshold` (Sanh et al. 2020).

    arXiv:2005.07683: for the soft mode of movement, whose scores are σ(S), 0 to 1. How much that
    takes is learned, by target and in all. Bounds hold, but the objective and the steps of a
    schedule do not decide: the report compares with them. With `adjust` they do: where the
    threshold misses the objective by more than one per cent, it is moved to where it is met.
    """

    threshold: float = 0.1
    adjust: bool = False
    needs: ClassVar[Needs] = "nothing"

    def __post_init__(self) -> None:
        if not isfinite(self.threshold):
            raise ValueError(f"threshold={self.threshold:g}: a finite number is needed")

    def choose(self, problem: Problem) -> Choice:
        """Take what is at or below the threshold, or as much as the objective asks."""
        choice = problem.below(self.threshold)
        if problem.near(choice):
            return choice
        if self.adjust:
            problem.say(f"threshold: {self.threshold:g} keeps {choice.achieved:.4f}; it is moved")
            return problem.meet(attrgetter("score"))
        return replace(
            choice,
            note=f"that is what scores above the threshold of {self.threshold:g}; move it, raise "
            "the penalty of a metric that has one, or set adjust = true",
        )
