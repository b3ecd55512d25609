"""Prune into the user's own class: what it cannot be narrowed to is left out beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from torch import nn

from fxprune import passes, pipeline
from fxprune.capture import capture, unwrapped
from fxprune.errors import SpecError, WriteBackError
from fxprune.loop.caller_functions import Callbacks
from fxprune.loop.optimizer_state import carry
from fxprune.loop.pretrained import settings
from fxprune.loop.steps import prune_in_steps
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.spec import Spec
from fxprune.surgery import kept_indices
from fxprune.surgery.own_class import narrow
from fxprune.targets import Discovery, Selection, Target

FIRST = ("head_dim", "head", "group")  # kinds that are left out alone, before all that is blamed
M = TypeVar("M", bound=nn.Module)


def prune_own_class(model: M, spec: Spec, inputs: Any, calls: Callbacks) -> M:
    """Prune a model, and return one of its own class; targets that it cannot say are left out.

    They are found beforehand, by taking half of every target. Where the choice that is made in the
    end cannot be written back either, that is left out as well and the model is pruned again. The
    result has a `plan` and a `report`, if its class gives these names to nothing else. Raises
    WriteBackError where nothing would be left to prune.
    """
    if not isinstance(model, nn.Module):
        raise SpecError(
            f'result: "module" needs a torch.nn.Module, and this is a {type(model).__name__}'
        )
    trial = _Trial.of(model, spec, inputs, calls)
    left = trial.left_out()
    while True:
        slim = prune_in_steps(model, excluding(spec, left, trial), inputs, calls)
        own = deepcopy(model)
        try:
            slim.write_back(own)
        except WriteBackError as refused:
            more = {name: refused for name in refused.targets if name not in left}
            if not more:
                raise
            left |= more
            calls.say(f"left out: {', '.join(more)}; pruning again")
            continue
        break
    if calls.optimizer is not None:
        carry(calls.optimizer, slim, own, None)
    report = replace(slim.report, notes=(*slim.report.notes, *_notes(left)))
    plan = replace(slim.plan, settings=settings(model, own))
    for name, value in (("plan", plan), ("report", report)):
        if not hasattr(own, name):
            setattr(own, name, value)
    return own


def excluding(spec: Spec, left: Mapping[str, WriteBackError], trial: _Trial) -> Spec:
    """Return a specification without some targets, and without selections of nothing else."""
    kept = []
    for number, target in enumerate(spec.target):
        selected = trial.selected[number]
        if not selected or selected - left.keys():
            kept.append(target.model_copy(update={"exclude": (*target.exclude, *left)}))
    if not kept:
        first = next(iter(left.values()))
        raise WriteBackError(f"result: no target is left that the class can say. {first}")
    return spec.model_copy(update={"target": tuple(kept)})


def _notes(left: Mapping[str, WriteBackError]) -> Iterator[str]:
    """Say of each obstacle which targets were left out."""
    for error in dict.fromkeys(left.values()):
        names = [name for name, one in left.items() if one is error]
        fact = str(error).removeprefix("write_back: ").partition("; the model was left")[0]
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        yield f"left out, as its class cannot say other widths: {listed} ({fact})"


@dataclass
class _Trial:
    """Hold a model and its selected targets, of which half of the units are taken for a try."""

    model: nn.Module
    program: Program
    selected: list[set[str]]
    left: dict[str, WriteBackError] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, spec: Spec, inputs: Any, calls: Callbacks) -> _Trial:
        """Capture a model and select what a specification names, each selection by itself."""
        program = capture(model, inputs, calls.dynamic, calls.outputs)
        selected: list[set[str]] = []
        for number in range(len(spec.target)):
            alone = spec.model_copy(update={"target": (spec.target[number],)})
            chosen = pipeline.run(program, passes.coupling(alone)[:-1])[Selection].targets
            selected.append({target.name for target in chosen})
        return cls(model, pipeline.run(program, passes.coupling(spec)[:1]), selected)

    @property
    def targets(self) -> list[Target]:
        """Return the targets that are selected and not left out."""
        names = set().union(*self.selected) - self.left.keys()
        return [one for one in self.program[Discovery].targets if one.name in names]

    def left_out(self) -> dict[str, WriteBackError]:
        """Return the targets that cannot be written back, each with the error that says why."""
        fault = self._fault()
        while fault is not None:
            blamed = [one for one in self.targets if one.name in fault.targets]
            for some in self._suspects(blamed):
                after = self._fault([one.name for one in some])
                if after is None or after.place != fault.place:
                    break
            else:
                some = blamed or self.targets
                after = self._fault([one.name for one in some])
            self.left |= {one.name: fault for one in some}
            fault = after
        return self.left

    def _suspects(self, blamed: list[Target]) -> Iterator[list[Target]]:
        """Yield parts of what is blamed, of one kind each: it may be enough to leave these out."""
        for kind in FIRST:
            some = [one for one in blamed if one.kind == kind]
            if some and len(some) < len(blamed):
                yield some

    def _fault(self, but: list[str] | tuple[()] = ()) -> WriteBackError | None:
        """Return what is in the way of narrowing a copy to half of the units of every target."""
        coupling = self.program[Discovery].coupling
        alive = np.ones(coupling.guards.size, dtype=bool)
        for target in self.targets:
            if target.name not in but:
                alive[target.units[(len(target) + 1) // 2 :]] = False
        if alive.all():
            return None
        plan = Plan(kept_indices(self.program.module, coupling, alive))
        try:
            with unwrapped(deepcopy(self.model)) as copy:
                narrow(copy, plan, self.program.signature)
        except WriteBackError as refused:
            return refused
        return None
