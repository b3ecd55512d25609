"""Uniform and global allocation: the same share of every target, or one ranking over all."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, Literal

from fxprune.allocators.registry import Choice, Needs, Problem, allocator


@allocator("uniform")
@dataclass(frozen=True)
class Uniform:
    """Take the same share of every target."""

    needs: ClassVar[Needs] = "nothing"

    def choose(self, problem: Problem) -> Choice:
        """Make moves in the order of the share of their target removed after each."""
        return problem.meet(attrgetter("share"), "largest share")


@allocator("global")
@dataclass(frozen=True)
class Global:
    """Rank all units together, each target's scores divided by their mean (or as they are)."""

    normalize: Literal["mean", "none"] = "mean"
    needs: ClassVar[Needs] = "nothing"

    def choose(self, problem: Problem) -> Choice:
        """Make moves in the order of their scores."""
        mean = self.normalize == "mean"
        scale = [float(abs(s).mean()) or 1.0 if mean else 1.0 for s in problem.scores]
        return problem.meet(lambda moves: moves.score / scale[moves.target])
