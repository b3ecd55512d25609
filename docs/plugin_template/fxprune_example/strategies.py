"""A metric, an allocation, a schedule and an objective: what to remove, and how fast."""

from dataclasses import dataclass
from typing import ClassVar

from fxprune.extend import (
    Choice,
    Cost,
    Evidence,
    Mask,
    Objective,
    Problem,
    Schedule,
    Scores,
    weight_scores,
)


@dataclass(frozen=True)
class Cubes:
    """Score a unit by the sum of a power of its weights."""

    power: float = 3.0
    needs: ClassVar[str] = "nothing"  # or "data", "loss", "training"

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return one array `[units]` for each target, higher for what matters more."""
        return weight_scores(evidence, lambda weights: weights.abs() ** self.power)


@dataclass(frozen=True)
class NarrowestFirst:
    """Take from the targets with the fewest units first."""

    needs: ClassVar[str] = "nothing"  # or "evaluate"

    def choose(self, problem: Problem) -> Choice:
        """Return which units are kept, at the goal of the objective."""
        return problem.meet(lambda moves: moves.share + problem.sizes[moves.target])


@dataclass(frozen=True, kw_only=True)
class Halfway(Schedule):
    """Remove half of it in the first step and the rest in the second."""

    @property
    def count(self) -> int:
        """Return 2."""
        return 2

    def sparsity(self, step: int, final: float) -> float:
        """Return what is removed after a step, of the original."""
        return final * step / 2


@dataclass(frozen=True)
class Work(Objective):
    """Keep a share of the work: multiplications, and a number of them for each parameter read."""

    per_parameter: float = 4.0  # an option: objective = { work = 0.5, per_parameter = 2.0 }
    unit: ClassVar[str] = "multiplications"

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return the work that is left; `alive` is bool, `[variables]`."""
        return cost.macs(alive) + self.per_parameter * cost.params(alive)
