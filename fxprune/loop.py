"""The loop: a schedule outside, an allocation inside, removal and fine-tuning after each step."""

from __future__ import annotations

from typing import Any

from fxprune.calling import Callbacks
from fxprune.errors import SpecError
from fxprune.learners import learners
from fxprune.objectives import Objective
from fxprune.running import Run
from fxprune.schedules import Schedule
from fxprune.slim import SlimModule
from fxprune.spec import Spec


def prune_in_steps(model: Any, spec: Spec, inputs: Any, calls: Callbacks) -> SlimModule:
    """Prune as a specification says: step by step, each in terms of the original model."""
    check(spec, calls)
    run = Run(model, spec, inputs, calls)
    objective = run.related(spec.objective.made())
    run.resume()
    warm_up(run, spec.schedule.made(), objective)
    return stepped(run, spec.schedule.made(), objective)


def warm_up(run: Run, schedule: Schedule, objective: Objective) -> None:
    """Train before anything is removed, as often as the schedule says."""
    while run.saved.tunings < schedule.warmup:
        run.fine_tune()
        run.settle(objective)
        run.save()


def stepped(run: Run, schedule: Schedule, objective: Objective) -> SlimModule:
    """Go all steps of the schedule; return what is left."""
    while run.saved.step < schedule.count:
        run.saved.step += 1
        goal = objective.at(schedule.sparsity(run.saved.step, objective.sparsity))
        run.remove(goal, min(1.0, goal.sparsity / (objective.sparsity or 1.0)))
        if schedule.rewinds:
            run.rewind()
        run.fine_tune()
        if run.saved.step < schedule.count:
            run.settle(objective)
        run.note(goal)
        run.save()
    return run.finished()


def check(spec: Spec, calls: Callbacks) -> None:
    """Raise SpecError where the axes cannot go together with what the caller gave."""
    schedule = spec.schedule.made()
    learners(spec)
    if schedule.warmup and calls.fine_tune is None:
        raise SpecError(
            f"schedule: {spec.schedule.name} trains before it removes (warmup = "
            f"{schedule.warmup}), and fine_tune is missing; call prune(…, fine_tune=…)"
        )
    for one in [spec.metric, *(t.metric for t in spec.target if t.metric is not None)]:
        metric = one.made()
        calls.data.require(one.name, metric.needs)
        if metric.needs != "training":
            continue
        if calls.fine_tune is None:
            raise SpecError(
                f"metric: {one.name} learns while the model is trained, and fine_tune is "
                "missing; call prune(…, fine_tune=…)"
            )
        if not schedule.warmup:
            raise SpecError(
                f"metric: {one.name} learns while the model is trained, and "
                f"{spec.schedule.name} removes before that; set its warmup to 1 or more"
            )
