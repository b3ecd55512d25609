"""allocate: decide which units go, so that the objective is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Literal

import torch

from fxprune.allocators import Allocator, Bounds, Choice
from fxprune.allocators import make as make_allocator
from fxprune.blocks import BlockTarget, masks_of
from fxprune.budget import Budget
from fxprune.cost import Cost
from fxprune.errors import SpecError
from fxprune.guards import Mask
from fxprune.objectives import OBJECTIVES, Objective, goal_type
from fxprune.objectives import make as make_objective
from fxprune.objectives.latency import Latency
from fxprune.origin import Origin
from fxprune.pipeline import register
from fxprune.plan import Plan, TargetPlan
from fxprune.program import Program
from fxprune.registry import checked
from fxprune.rules.kept import Kept
from fxprune.rules.site import TensorGuard
from fxprune.search import TOLERANCE
from fxprune.shrinking import kept_indices
from fxprune.targets import Terms


@register("allocate")
@dataclass(frozen=True)
class Allocate:
    """Choose units by allocation until the objective is met, within the bounds of every target.

    The objective is a share of the original model; `part` is how much of the way a step goes.
    """

    allocation: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    activations: float | None = None
    min_keep: int = 1
    min_ratio: float = 0.0
    max_ratio: float = 1.0
    round_to: int | Literal["auto"] = "auto"
    part: float = 1.0

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled", "scored")
    ensures: ClassVar[tuple[str, ...]] = ("planned",)

    def __call__(self, program: Program) -> Program:
        """Return the program with its plan; raises ObjectiveError for a goal out of reach."""
        name, objective = self._objective()
        if isinstance(objective, Latency) and program.kernels is not None:
            objective = objective.timed(program.kernels)
        allocator = make_allocator(self.allocation, self.options)
        self._check()
        assert program.discovery is not None
        cost = costed(program)
        origin = program.origin or Origin(program.discovery, program.selected, cost)
        choice = self._chosen(
            program, allocator, self._budget(program, origin, cost, name, objective)
        )
        program = planned(program.with_(origin=origin), cost, choice)
        return program.noted(*_notes(program, choice, name, objective))

    def _chosen(self, program: Program, allocator: Allocator, budget: Budget) -> Choice:
        if allocator.needs == "evaluate" and program.trials is None:
            raise SpecError(
                f"allocation: {self.allocation} needs an evaluator, and evaluate is missing; call "
                "prune(…, evaluate=…)"
            )
        if allocator.needs == "evaluate":  # a goal out of reach is refused before any question
            budget.meet(attrgetter("share"), "largest share")
        return allocator.choose(budget)

    def _budget(
        self, program: Program, origin: Origin, cost: Cost, name: str, objective: Objective
    ) -> Budget:
        selected, trials = program.selected, program.trials
        return Budget(
            cost,
            selected,
            program.scores,
            [self._bounds(terms) for terms in program.terms or (Terms(),) * len(selected)],
            [len(origin.of(target)) for target in selected],
            objective,
            name,
            0.0 if name == "ratio" else objective.whole(origin.cost),
            origin.gone(selected),
            (lambda choice: trials.score(program, choice)) if trials is not None else None,
            program.say,
            program.additive,
        )

    def _bounds(self, terms: Terms) -> Bounds:
        mine = {k: getattr(self, k) for k in ("min_keep", "min_ratio", "max_ratio", "round_to")}
        bounds = Bounds(**{**mine, **terms.bounds})
        return Bounds(
            bounds.min_keep, bounds.max_ratio, bounds.round_to, bounds.min_ratio * self.part
        )

    def _objective(self) -> tuple[str, Objective]:
        given = dict(self.objective)
        plain = ("ratio", "params", "macs", "bytes", "activations")
        given |= {name: v for name in plain if (v := getattr(self, name)) is not None}
        names = [name for name in given if name in OBJECTIVES]
        if len(names) != 1:
            raise SpecError(f"allocate: give exactly one of {', '.join(OBJECTIVES)}")
        checked(f"allocate.{names[0]}", goal_type(names[0]), given[names[0]])
        options = {"goal": given.pop(names[0]), **given}
        return names[0], make_objective(names[0], options)

    def _check(self) -> None:
        step = 1 if self.round_to == "auto" else self.round_to
        shares = 0 <= self.min_ratio <= self.max_ratio <= 1
        if self.min_keep < 1 or step < 1 or not shares or not 0 <= self.part <= 1:
            raise SpecError(
                f"allocate: min_keep={self.min_keep} (1 or more), min_ratio={self.min_ratio:g} and "
                f"max_ratio={self.max_ratio:g} (0 to 1, in this order), round_to={self.round_to} "
                f"(auto, or 1 or more), part={self.part:g} (0 to 1): one is out of its range"
            )


def planned(program: Program, cost: Cost, choice: Choice) -> Program:
    """Return a program that knows its origin with the plan and the costs of a choice."""
    assert program.discovery is not None
    assert program.origin is not None
    alive = choice.alive
    plans = tuple(
        TargetPlan(t.name, t.kind, len(t), int(alive[t.units].sum()), t.exact, t.why)
        for t in program.selected
    )
    kept = kept_indices(program.module, program.discovery.coupling, alive)
    kept = kept | _kept_sites(program, alive)
    costs = _costs(program.origin.cost, cost, choice)
    plan = Plan(kept, plans, masks=masks_of(program.selected, alive, kept))
    program = program.with_(alive=alive, plan=plan, costs=costs)
    facts = program.facts | {"planned"}
    return program.with_(achieved=choice.achieved, facts=facts)


def _kept_sites(program: Program, alive: Mask) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return the kept indices of the axes of every activation that has a mask."""
    assert program.discovery is not None
    coupling = program.discovery.coupling
    kept, nodes = Kept(coupling.guards, alive), {n.name: n for n in program.module.graph.nodes}
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    for target in program.selected:
        if isinstance(target, BlockTarget) and target.site:
            value = coupling.values[nodes[target.site]]
            assert isinstance(value, TensorGuard)
            found[target.tensor] = tuple(kept.indices(g) for g in value.dims)
    return found


def costed(program: Program) -> Cost:
    """Return the cost of a program, which knows the selected blocks."""
    assert program.discovery is not None
    cost = Cost(program.module, program.discovery.coupling, program.signature.batch)
    cost.blocks = tuple(t for t in program.selected if isinstance(t, BlockTarget) and not t.site)
    return cost


def _costs(original: Cost, cost: Cost, choice: Choice) -> dict[str, int]:
    return {
        "parameters_before": original.every_param(),
        "parameters_after": cost.params(choice.alive),
        "masked": cost.masked(choice.alive),
        "macs_before": original.macs(original.whole()),
        "macs_after": cost.macs(choice.alive),
        "bytes_before": original.every_byte(),
        "bytes_after": cost.bytes(choice.alive),
        "activation_bytes_before": original.peak_activations(original.whole()),
        "activation_bytes_after": cost.peak_activations(choice.alive),
    }


def _notes(program: Program, choice: Choice, name: str, objective: Objective) -> list[str]:
    notes: list[str] = []
    assert program.origin is not None
    assert program.plan is not None
    original, plans = program.origin.cost, program.plan.targets
    if original.dropped_params:
        notes.append(
            f"{original.dropped_params:,} parameters are read by nothing in evaluation mode, such "
            "as auxiliary heads: they are counted before, and left out of the result"
        )
    wanted = 1.0 - objective.sparsity
    ratio = name == "ratio"
    asked, left = (1.0 - wanted, 1.0 - choice.achieved) if ratio else (wanted, choice.achieved)
    if choice.note:
        notes.append(f"objective.{name}: asked {asked:g}, achieved {left:.4f}: {choice.note}")
    elif abs(choice.achieved - wanted) > TOLERANCE * wanted:
        notes.append(
            f"objective.{name}: asked {asked:g}, nearest reachable {left:.4f}: "
            "the units of the selected targets allow nothing nearer"
        )
    blocks = [target for target in program.selected if isinstance(target, BlockTarget)]
    notes += [note for target in blocks if (note := target.remark())]
    if plans and all(plan.kept == plan.units for plan in plans):
        notes.append("nothing was removed: the bounds or the objective leave nothing to take")
    return notes
