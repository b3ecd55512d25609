"""allocate: decide which units go, so that the objective is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.allocators import ALLOCATORS, Bounds, moves_of
from fxprune.budget import TOLERANCE, Budget, Choice
from fxprune.cost import Cost
from fxprune.errors import SpecError
from fxprune.objectives import OBJECTIVES
from fxprune.pipeline import register, unknown
from fxprune.plan import Plan, TargetPlan
from fxprune.program import Program
from fxprune.shrinking import kept_indices


@register("allocate")
@dataclass(frozen=True)
class Allocate:
    """Choose units by allocation until the objective is met, within the bounds of every target."""

    allocation: str = "uniform"
    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    min_keep: int = 1
    max_ratio: float = 1.0
    round_to: int = 1

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled", "scored")
    ensures: ClassVar[tuple[str, ...]] = ("planned",)

    def __call__(self, program: Program) -> Program:
        """Return the program with its plan; raises ObjectiveError for a goal out of reach."""
        objective, goal = self._objective()
        if self.allocation not in ALLOCATORS:
            raise SpecError(f"allocation: {unknown('allocation', self.allocation, ALLOCATORS)}")
        assert program.discovery is not None
        coupling, targets = program.discovery.coupling, program.selected
        cost = Cost(program.module, coupling, program.signature.batch)
        bounds = Bounds(self.min_keep, self.max_ratio, self.round_to)
        moves = moves_of(targets, program.scores, bounds)
        allocator = ALLOCATORS[self.allocation]()
        budget = Budget(cost, targets, program.scores, moves, allocator)
        if objective == "ratio":
            choice = budget.ratio(goal)
        else:
            choice = budget.meet(OBJECTIVES[objective](goal), objective)
        return self._planned(program, cost, choice, objective, goal)

    def _objective(self) -> tuple[str, float]:
        given = {k: v for k in ("ratio", "params", "macs") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            raise SpecError("allocate: give exactly one of ratio, params, macs")
        ((name, goal),) = given.items()
        legal = 0 <= goal < 1 if name == "ratio" else 0 < goal <= 1
        if not legal or self.min_keep < 1 or self.round_to < 1 or not 0 <= self.max_ratio <= 1:
            raise SpecError(
                f"allocate: {name}={goal:g} (0 to 1), min_keep={self.min_keep} (1 or more), "
                f"max_ratio={self.max_ratio:g} (0 to 1), round_to={self.round_to} (1 or more): "
                "one of them is out of its range"
            )
        return name, goal

    def _planned(
        self, program: Program, cost: Cost, choice: Choice, objective: str, goal: float
    ) -> Program:
        assert program.discovery is not None
        alive = choice.alive
        plans = tuple(
            TargetPlan(t.name, t.kind, len(t), int(alive[t.units].sum()), t.exact, t.why)
            for t in program.selected
        )
        kept = kept_indices(program.module, program.discovery.coupling, alive)
        whole = cost.whole()
        costs = {
            "parameters_before": cost.params(whole),
            "parameters_after": cost.params(alive),
            "macs_before": cost.macs(whole),
            "macs_after": cost.macs(alive),
            "bytes_before": cost.bytes(whole),
            "bytes_after": cost.bytes(alive),
        }
        notes: list[str] = []
        wanted = 1.0 - goal if objective == "ratio" else goal
        if abs(choice.achieved - wanted) > TOLERANCE * wanted:
            left = 1.0 - choice.achieved if objective == "ratio" else choice.achieved
            notes.append(
                f"objective.{objective}: asked {goal:g}, nearest reachable {left:.4f}: "
                "the units of the selected targets are too coarse for less of a difference"
            )
        if len(plans) and np.all([plan.kept == plan.units for plan in plans]):
            notes.append("nothing was removed: the bounds or the objective leave nothing to take")
        return program.with_(alive=alive, plan=Plan(kept, plans), costs=costs).noted(*notes)
