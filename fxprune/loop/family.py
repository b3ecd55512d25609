"""A family: one scoring, a model for each of several goals, and the value and cost of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.errors import FxpruneError, SpecError
from fxprune.guards import Mask
from fxprune.latency import batch_of, clock_of, device
from fxprune.loop.caller_functions import Callbacks, Evaluate, FineTune
from fxprune.loop.family_table import Family, Member, Row, marked
from fxprune.loop.progress import Wanted
from fxprune.loop.run_state import Run
from fxprune.loop.steps import check, stepped, warm_up
from fxprune.loop.trials import Trials
from fxprune.metrics import Loss
from fxprune.metrics.registry import Scored
from fxprune.objectives import Objective, goal_type
from fxprune.objectives.latency import Latency
from fxprune.onnx.turns import Timing, timed
from fxprune.program import Program
from fxprune.registry import checked
from fxprune.report import Report
from fxprune.spec import ObjectiveSpec, Spec
from fxprune.spec.modules import with_names
from fxprune.surgery import SlimModule
from fxprune.targets import Selection

SECONDS = 1.0  # for which each member is timed at least
Timed = tuple[nn.Module, Any]  # with the signature it is called by


def prune_family(
    model: Any,
    spec: Any,
    inputs: Any = None,
    *,
    sweep: Sequence[float],
    device: str | None = None,
    calibrate: Iterable[Any] | None = None,
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    fine_tune: FineTune | None = None,
    progress: Wanted = None,
) -> Family:
    """Return one model for each goal of a sweep, all from one capture and one scoring.

    `sweep` are goals of the specification's objective, which replace the one it has: shares to
    keep, or of `ratio` to remove. Each member is what `prune` makes at that goal, `fine_tune`
    included, and has a row of the family's `table` beside the original. With a `device`, such as
    "ort-cpu", or a latency as the objective, all are timed there at last, in turn with the
    original. On the `pareto` front are those that no other beats, at no higher cost (time, where it
    was taken, else the objective's) and no lower value (`evaluate`'s score, else importance).

    The schedule must remove in one step. One that trains before does so once, towards the smallest
    member. What else is given is as for `prune`. Raises what `prune` raises, and SpecError for a
    goal that cannot be; a goal out of reach is refused with all the others.
    """
    calls = Callbacks.of(calibrate, loss, evaluate, fine_tune, progress=progress)
    given = Spec.of(with_names(spec, model))
    return swept(model, given, inputs, calls, goals_of(given, sweep), device)


def goals_of(spec: Spec, sweep: Sequence[Any]) -> list[tuple[float, Spec]]:
    """Return each goal with its specification; raises SpecError where they cannot be swept."""
    name, _ = spec.objective.chosen
    if spec.schedule.made().count != 1:
        raise SpecError(
            f"sweep: {spec.schedule.name} prunes in steps, each from the last one's result, so "
            'its goals share no scoring; set the schedule to "one-shot", or prune once a goal'
        )
    if isinstance(sweep, str) or not isinstance(sweep, Iterable) or not list(sweep):
        raise SpecError(f"sweep: {sweep!r}: a list of goals is needed, such as [0.8, 0.6, 0.4]")
    found: dict[float, Spec] = {}
    for goal in sweep:
        if isinstance(goal, str):
            raise SpecError(f'sweep: "{goal}" is not a number; goals are shares, such as 0.5')
        checked(f"sweep.{name}", goal_type(name), goal)
        if goal in found:
            raise SpecError(f"sweep: {goal:g} stands there twice; name each goal once")
        objective = ObjectiveSpec.model_validate({name: float(goal), **spec.objective.options})
        found[float(goal)] = spec.model_copy(update={"objective": objective})
    return [*found.items()]


def swept(
    model: Any,
    spec: Spec,
    inputs: Any,
    calls: Callbacks,
    goals: list[tuple[float, Spec]],
    timed_on: str | None,
) -> Family:
    """Score once, remove as each goal asks, and return what each member became."""
    check(spec, calls)
    deepest = max((one.objective.made() for _, one in goals), key=lambda one: one.sparsity)
    clock = _clock(deepest, timed_on)
    with calls.watch:
        run = Run(model, spec, inputs, calls)
        deepest = run.related(deepest)
        warm_up(run, spec.schedule.made(), deepest)
        scored = run.with_prediction(run.scored(), deepest)
        members = tuple(
            _member(run.with_goal(wanted, scored, f"{goal:g}"), scored, goal, wanted)
            for goal, wanted in goals
        )
        whole, score = run.whole(), None
        if calls.evaluate is not None:
            score = Trials(calls.evaluate).of(whole.module)
        first = _first(members[0].module.report, score)
        family = Family(spec.objective.chosen[0], first, members)
        return marked(family if clock is None else _timed(family, whole, clock))


def _member(run: Run, scored: Program, goal: float, wanted: Spec) -> Member:
    """Return the member at a goal: what it would be if it were the only one."""
    objective = wanted.objective.made()
    try:
        with torch.random.fork_rng():
            slim = stepped(run, wanted.schedule.made(), objective)
    except FxpruneError as error:
        raise type(error)(f"sweep: {goal:g}: {error}") from error
    kept = importance(scored, run.saved.alive[-1].numpy())
    return Member(goal, slim, _row(goal, objective, slim, run.saved.history[-1].score, kept))


def importance(scored: Program, alive: Mask) -> float:
    """Return the share of the scores that is kept, those of each target divided by their mean."""
    kept = whole = 0.0
    for target, scores in zip(scored[Selection].targets, scored[Scored].scores, strict=True):
        values = np.asarray(scores, dtype=np.float64)
        values = values / (float(np.abs(values).mean()) or 1.0)
        kept += float(values[alive[target.units]].sum())
        whole += float(np.abs(values).sum())
    return kept / whole if whole else 1.0


# ---- rows ----------------------------------------------------------------------------------------


def _first(report: Report, score: float | None) -> Row:
    """Return the row of the original."""
    return Row(
        goal=None,
        achieved=None,
        cost=1.0,
        parameters=report.parameters_before,
        macs=report.macs_before,
        bytes=report.bytes_before,
        importance=1.0,
        score=score,
    )


def _row(
    goal: float, objective: Objective, slim: SlimModule, score: float | None, kept: float
) -> Row:
    report: Report = slim.report
    share, latency = report.steps[-1].achieved, report.latency
    return Row(
        goal=goal,
        # in the terms of the goal: what is kept, or of a ratio what is removed
        achieved=latency.ratio if latency is not None else objective.at(1.0 - share).goal,
        cost=share,
        parameters=report.parameters_after,
        macs=report.macs_after,
        bytes=report.bytes_after,
        importance=kept,
        score=score,
        requested=latency.requested if latency is not None else None,
        predicted=latency.predicted if latency is not None else None,
        met=latency.met if latency is not None else None,
    )


# ---- times ---------------------------------------------------------------------------------------


def _clock(objective: Objective, timed_on: str | None) -> Latency | None:
    """Return on what to time, with how many threads and which batch; None where not at all."""
    if isinstance(objective, Latency):
        if timed_on not in (None, objective.device):
            raise SpecError(
                f"device: {timed_on}: the objective is a latency on {objective.device}, and its "
                "members are timed there; leave device out"
            )
        return objective
    if timed_on is None:
        return None
    device(timed_on, "device")
    return Latency(1.0, device=timed_on)


def _timed(family: Family, whole: Program, clock: Latency) -> Family:
    """Return the family with the times of all members, taken in turn with the original."""
    build, batch = device(clock.device), batch_of(whole.signature, clock.batch)
    made: list[Timed] = [(whole.module, whole.signature)]
    made += [(one.module, one.module.signature) for one in family.members]
    runs = [build(module, signature, clock.threads, batch) for module, signature in made]
    names = ["original", *(f"{one.goal:g}" for one in family.members)]
    ticks = clock_of(clock.device, clock.threads)
    first, *others = timed(names, runs, clock.threads, batch, SECONDS, clock=ticks)
    pairs = zip(family.members, others, strict=True)
    several = "s" * (clock.threads != 1)
    return replace(
        family,
        original=_clocked(family.original, first),
        members=tuple(replace(one, row=_clocked(one.row, time)) for one, time in pairs),
        timed_on=f"{clock.device}, {clock.threads} thread{several}, batch {batch}",
    )


def _clocked(row: Row, time: Timing) -> Row:
    return replace(
        row,
        milliseconds=time.median_ms,
        low=time.low_ms,
        high=time.high_ms,
        ratio=time.ratio,
        ratio_low=time.ratio_low,
        ratio_high=time.ratio_high,
    )
