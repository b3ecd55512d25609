"""allocate: decide which units go, so that the objective is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fxprune.allocators import ALLOCATORS, Bounds, moves_of
from fxprune.budget import TOLERANCE, Budget, Choice
from fxprune.cost import Cost
from fxprune.errors import ObjectiveError, SpecError
from fxprune.objectives import OBJECTIVES
from fxprune.pipeline import register, unknown
from fxprune.plan import Plan, TargetPlan
from fxprune.program import Program
from fxprune.shrinking import kept_indices

# Kernels work on blocks of channels: widths that are no multiples of them run on slower paths, so
# that a narrower layer can be slower. "auto" takes the first of these at which the goal is met.
COARSE = (8, 4, 2)


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
    round_to: int | Literal["auto"] = "auto"

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled", "scored")
    ensures: ClassVar[tuple[str, ...]] = ("planned",)

    def __call__(self, program: Program) -> Program:
        """Return the program with its plan; raises ObjectiveError for a goal out of reach."""
        objective, goal = self._objective()
        if self.allocation not in ALLOCATORS:
            raise SpecError(f"allocation: {unknown('allocation', self.allocation, ALLOCATORS)}")
        assert program.discovery is not None
        coupling = program.discovery.coupling
        cost = Cost(program.module, coupling, program.signature.batch)
        choice = self._choice(cost, program, objective, goal)
        return self._planned(program, cost, choice, objective, goal)

    def _choice(self, cost: Cost, program: Program, objective: str, goal: float) -> Choice:
        """Return the choice at the coarsest rounding that meets the objective."""
        if objective == "ratio":
            step = 1 if self.round_to == "auto" else self.round_to
            return self._budget(cost, program, step).ratio(goal)
        wanted = OBJECTIVES[objective](goal)
        if self.round_to != "auto":
            return self._budget(cost, program, self.round_to).meet(wanted, objective)
        for step in COARSE:
            try:
                choice = self._budget(cost, program, step).meet(wanted, objective)
            except ObjectiveError:
                continue  # a finer rounding may still reach it
            if abs(choice.achieved - goal) <= TOLERANCE * goal:
                return choice
        return self._budget(cost, program, 1).meet(wanted, objective)

    def _budget(self, cost: Cost, program: Program, step: int) -> Budget:
        bounds = Bounds(self.min_keep, self.max_ratio, step)
        moves = moves_of(program.selected, program.scores, bounds)
        allocator = ALLOCATORS[self.allocation]()
        return Budget(cost, program.selected, program.scores, moves, allocator)

    def _objective(self) -> tuple[str, float]:
        given = {k: v for k in ("ratio", "params", "macs") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            raise SpecError("allocate: give exactly one of ratio, params, macs")
        ((name, goal),) = given.items()
        legal = 0 <= goal < 1 if name == "ratio" else 0 < goal <= 1
        step = 1 if self.round_to == "auto" else self.round_to
        if not legal or self.min_keep < 1 or step < 1 or not 0 <= self.max_ratio <= 1:
            raise SpecError(
                f"allocate: {name}={goal:g} (0 to 1), min_keep={self.min_keep} (1 or more), "
                f"max_ratio={self.max_ratio:g} (0 to 1), round_to={self.round_to} (auto, or 1 or "
                "more): one of them is out of its range"
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
            "parameters_before": cost.every_param(),
            "parameters_after": cost.params(alive),
            "macs_before": cost.macs(whole),
            "macs_after": cost.macs(alive),
            "bytes_before": cost.every_byte(),
            "bytes_after": cost.bytes(alive),
        }
        notes: list[str] = []
        if cost.dropped_params:
            notes.append(
                f"{cost.dropped_params:,} parameters are read by nothing in evaluation mode, such "
                "as auxiliary heads: they are counted before, and left out of the result"
            )
        wanted = 1.0 - goal if objective == "ratio" else goal
        if abs(choice.achieved - wanted) > TOLERANCE * wanted:
            left = 1.0 - choice.achieved if objective == "ratio" else choice.achieved
            notes.append(
                f"objective.{objective}: asked {goal:g}, nearest reachable {left:.4f}: "
                "the units of the selected targets allow nothing nearer"
            )
        if len(plans) and np.all([plan.kept == plan.units for plan in plans]):
            notes.append("nothing was removed: the bounds or the objective leave nothing to take")
        return program.with_(alive=alive, plan=Plan(kept, plans), costs=costs).noted(*notes)
