"""The loop: a schedule outside, an allocation inside, removal and fine-tuning after each step."""

from __future__ import annotations

from typing import Any

from fxprune.errors import SpecError
from fxprune.loop.caller_functions import Callbacks
from fxprune.loop.fine_tuning.calls import trains
from fxprune.loop.learned_metrics import learners
from fxprune.loop.run_state import Run
from fxprune.metrics import label
from fxprune.objectives import Objective
from fxprune.schedules import Schedule
from fxprune.spec import Spec
from fxprune.surgery import SlimModule


def prune_in_steps(model: Any, spec: Spec, inputs: Any, calls: Callbacks) -> SlimModule:
    """Prune as a specification says: step by step, each in terms of the original model."""
    check(spec, calls)
    with calls.watch:
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
    """Take all steps of the schedule; return the smaller module."""
    while run.saved.step < schedule.count:
        run.saved.step += 1
        run.watch.step(run.saved.step, schedule.count)
        goal = objective.at(schedule.sparsity(run.saved.step, objective.sparsity))
        run.remove(goal, part_of(schedule, run.saved.step, objective))
        if schedule.rewinds:
            run.rewind()
        run.fine_tune()
        if run.saved.step < schedule.count:
            run.settle(objective)
        run.note(goal)
        run.save()
    return run.finished()


def part_of(schedule: Schedule, step: int, objective: Objective) -> float:
    """Return how much of the way a step goes; where selections alone say how far, as to a half."""
    final = objective.sparsity or 0.5
    return min(1.0, schedule.sparsity(step, final) / final)


def check(spec: Spec, calls: Callbacks) -> None:
    """Raise SpecError where the axes cannot go together with what the caller gave."""
    schedule = spec.schedule.made()
    learners(spec)
    trained = trains(spec, calls)
    if schedule.warmup and not trained:
        raise SpecError(
            f"schedule: {spec.schedule.name} trains before it removes (warmup = "
            f"{schedule.warmup}), and fine_tune is missing; call prune(…, fine_tune=…)"
        )
    for one in [spec.metric, *(t.metric for t in spec.target if t.metric is not None)]:
        metric = one.made()
        calls.data.require(label(one.name), metric.needs)
        if metric.needs != "training":
            continue
        if not trained:
            raise SpecError(
                f"metric: {label(one.name)} learns while the model is trained, and fine_tune is "
                "missing; call prune(…, fine_tune=…)"
            )
        if not schedule.warmup:
            raise SpecError(
                f"metric: {label(one.name)} learns while the model is trained, and "
                f"{spec.schedule.name} removes before that; set its warmup to 1 or more"
            )
