"""allocate: decide which units are removed, so that the objective is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import floor
from operator import attrgetter
from typing import Any, ClassVar, Literal

from fxprune import latency
from fxprune.allocators import Allocator, Bounds, Choice, Evaluator
from fxprune.allocators import make as make_allocator
from fxprune.allocators.budget import Budget
from fxprune.allocators.equal_widths import Listed, equal_widths
from fxprune.allocators.search import TOLERANCE
from fxprune.cost import Cost, Costs, OriginalWidths
from fxprune.errors import SpecError
from fxprune.metrics.registry import Scored
from fxprune.objectives import OBJECTIVES, Objective, goal_type
from fxprune.objectives import make as make_objective
from fxprune.objectives.latency import Latency
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan, TargetPlan
from fxprune.program import Program
from fxprune.registry import WIDEST, checked
from fxprune.surgery import kept_indices
from fxprune.targets import BlockTarget, Discovery, Selection, Target, Terms
from fxprune.targets.activation_sites import kept_sites
from fxprune.targets.blocks import masks_of


@register("allocate")
@dataclass(frozen=True)
class Allocate:
    """Choose units by allocation until the objective is met, within the bounds of every target.

    The objective is a share of the original model; `part` is how much of the way a step goes.
    With `same="structure"` all targets of one structure keep as many units.
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
    same: Literal["structure"] | None = None
    part: float = 1.0

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Discovery, Selection, Scored)
    ensures: ClassVar[Facts] = (Choice, Plan, Costs, OriginalWidths)

    def __call__(self, program: Program) -> Program:
        """Return the program with its plan; raises ObjectiveError for a goal out of reach."""
        name, objective = self._objective()
        if isinstance(objective, Latency) and latency.KernelModel in program:
            objective = objective.timed(program[latency.KernelModel])
        allocator = make_allocator(self.allocation, self.options)
        self._check()
        cost = costed(program)
        program = beside_original(program, cost)
        choice = self._chosen(program, allocator, self._budget(program, cost, name, objective))
        program = planned(program, cost, choice)
        return program.noted(*_notes(program, choice, name, objective))

    def _chosen(self, program: Program, allocator: Allocator, budget: Budget) -> Choice:
        if allocator.needs == "evaluate" and Evaluator not in program:
            raise SpecError(
                f"allocation: {self.allocation} needs an evaluator, and evaluate is missing; call "
                "prune(…, evaluate=…)"
            )
        if allocator.needs == "evaluate":  # a goal out of reach is refused before any question
            budget.meet(attrgetter("share"), "largest share")
        choice = allocator.choose(budget)
        return choice if self.same is None else replace(choice, counts=(), curves={})

    def _budget(self, program: Program, cost: Cost, name: str, objective: Objective) -> Budget:
        selection, scored, widths = program[Selection], program[Scored], program[OriginalWidths]
        evaluator = program.get(Evaluator)
        sizes = [len(widths.of(target)) for target in selection.targets]
        every = zip(selection.terms, selection.targets, sizes, strict=True)
        bounds = [self._bounds(*one) for one in every]
        listed = Listed(selection.targets, scored.scores, bounds, sizes, scored.losses)
        if self.same is not None:
            listed = equal_widths(listed)
        return Budget(
            cost,
            listed.targets,
            listed.scores,
            listed.bounds,
            listed.sizes,
            objective,
            name,
            0.0 if name == "ratio" else objective.whole(widths.cost),
            widths.gone(selection.targets),
            None if evaluator is None else partial(evaluator.score, program),
            program.say,
            scored.additive,
            listed.losses,
        )

    def _bounds(self, terms: Terms, target: Target, size: int) -> Bounds:
        if {"ratio", "width"} & set(terms.bounds):
            return self._fixed(terms, target, size)
        mine = {k: getattr(self, k) for k in ("min_keep", "min_ratio", "max_ratio", "round_to")}
        bounds = Bounds(**{**mine, **terms.bounds})
        return Bounds(
            bounds.min_keep, bounds.max_ratio, bounds.round_to, bounds.min_ratio * self.part
        )

    def _fixed(self, terms: Terms, target: Target, size: int) -> Bounds:
        """Return the bounds of a target whose width is fixed: there is one choice."""
        width = terms.bounds.get("width")
        if width is not None and width > size:
            raise SpecError(f"target.width: {target.name} has {size} units, and {width} are asked")
        ratio = terms.bounds["ratio"] if width is None else 1.0 - width / size
        gone = min(size - 1, floor(ratio * self.part * size + 1e-9))
        return Bounds(size - gone, 1.0, 1, gone / size)

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
        counts = 1 <= self.min_keep <= WIDEST and 1 <= step <= WIDEST
        shares = 0 <= self.min_ratio <= self.max_ratio <= 1
        if not counts or not shares or not 0 <= self.part <= 1:
            raise SpecError(
                f"allocate: min_keep={self.min_keep} (1 or more), min_ratio={self.min_ratio:g} and "
                f"max_ratio={self.max_ratio:g} (0 to 1, in this order), round_to={self.round_to} "
                f"(auto, or 1 or more), part={self.part:g} (0 to 1): one is out of its range"
            )


def planned(program: Program, cost: Cost, choice: Choice) -> Program:
    """Return a program with a choice, the plan that it amounts to, and what that costs."""
    program = beside_original(program, cost)
    selected, alive = program[Selection].targets, choice.alive
    plans = tuple(
        TargetPlan(t.name, t.kind, len(t), int(alive[t.units].sum()), t.exact, t.why)
        for t in selected
    )
    kept = kept_indices(program.module, program[Discovery].coupling, alive)
    kept = kept | kept_sites(program.module, program[Discovery].coupling, selected, alive)
    plan = Plan(kept, plans, masks=masks_of(selected, alive, kept))
    return program.with_(choice, plan, _costs(program[OriginalWidths].cost, cost, choice))


def beside_original(program: Program, cost: Cost) -> Program:
    """Return a program that knows the original widths: its own, where nothing is removed yet."""
    if OriginalWidths in program:
        return program
    widths = OriginalWidths(program[Discovery], program[Selection].targets, cost)
    return program.with_(widths)


def costed(program: Program) -> Cost:
    """Return the cost of a program, which knows the selected blocks."""
    cost = Cost(program.module, program[Discovery].coupling, program.signature.batch)
    selected = program[Selection].targets
    cost.blocks = tuple(t for t in selected if isinstance(t, BlockTarget) and not t.site)
    return cost


def _costs(original: Cost, cost: Cost, choice: Choice) -> Costs:
    return Costs(
        parameters_before=original.every_param(),
        parameters_after=cost.params(choice.alive),
        masked=cost.masked(choice.alive),
        macs_before=original.macs(original.whole()),
        macs_after=cost.macs(choice.alive),
        bytes_before=original.every_byte(),
        bytes_after=cost.bytes(choice.alive),
        activation_bytes_before=original.peak_activations(original.whole()),
        activation_bytes_after=cost.peak_activations(choice.alive),
    )


def _notes(program: Program, choice: Choice, name: str, objective: Objective) -> list[str]:
    notes: list[str] = []
    original, plans = program[OriginalWidths].cost, program[Plan].targets
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
    elif ratio and not objective.sparsity:
        pass  # what selections fix by themselves is all that was asked
    elif abs(choice.achieved - wanted) > TOLERANCE * wanted:
        notes.append(
            f"objective.{name}: asked {asked:g}, nearest reachable {left:.4f}: "
            "the units of the selected targets allow nothing nearer"
        )
    blocks = [one for one in program[Selection].targets if isinstance(one, BlockTarget)]
    notes += [note for target in blocks if (note := target.remark())]
    if plans and all(plan.kept == plan.units for plan in plans):
        notes.append("nothing was removed: the bounds or the objective leave nothing to remove")
    return notes
