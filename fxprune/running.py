"""A run through a schedule: what the model was, what is left of it, what was learned."""

from __future__ import annotations

import json
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

import passes
from fxprune import masks, pipeline, ranks
from fxprune.allocators import Choice
from fxprune.calling import Callbacks, Say, called, check_finite
from fxprune.capture import capture
from fxprune.carrying import carry
from fxprune.checkpoint import Checkpoint, Saved
from fxprune.errors import CheckpointError
from fxprune.learners import learners
from fxprune.objectives import Objective
from fxprune.objectives.latency import Latency
from fxprune.origin import Kept, Origin, after
from fxprune.plan import Plan
from fxprune.program import Program, tensors_of
from fxprune.report import LatencyReport, Report, Step
from fxprune.slim import SlimModule
from fxprune.spec import AllocationSpec, Spec
from fxprune.stopwatch import Stopwatch
from fxprune.trials import Trials, fingerprint
from fxprune.watching import cut, narrowed, settled, watching
from passes.allocate import costed, planned


class Run:
    """Carry a model through a schedule: what it was, what is left of it, and what was learned."""

    def __init__(self, model: Any, spec: Spec, inputs: Any, calls: Callbacks) -> None:
        self._spec, self._calls = spec, calls
        self._model = model
        self._program = capture(model, inputs)
        self._first = self._program
        self._scored: Program | None = None  # where one scoring serves several goals
        self._slim: SlimModule | None = None
        self._origin: Origin | None = None
        self._kept: Kept | None = None
        self._achieved = 1.0
        self._seconds: dict[str, float] = {}
        self.saved = Saved()
        belongs = ""
        if calls.checkpoint is not None:
            belongs = json.dumps([spec.to_dict(), fingerprint(self._program.module)])
            self._checkpoint = Checkpoint(calls.checkpoint, belongs)
        memory = calls.checkpoint / "scores.jsonl" if calls.checkpoint and ranks.first() else None
        self._trials = Trials(calls.evaluate, memory) if calls.evaluate is not None else None
        self._learners = learners(spec)
        # such a metric looks at what is masked as well, which may come back
        self._through = any(getattr(one, "straight_through", False) for one in self._learners)
        self._stopwatch: Stopwatch | None = None
        self._latency: LatencyReport | None = None
        self._masks: dict[str, torch.Tensor] = {}
        self._gates: dict[str, torch.Tensor] = {}

    # ---- a step ----------------------------------------------------------------------------------

    def scored(self) -> Program:
        """Return the program of what is left of the model, with every selected unit scored."""
        return pipeline.run(self._ready(), passes.coupling(self._spec))

    def foreseen(self, scored: Program, goal: Objective) -> Program:
        """Return a scored program that can foretell a latency, if one is asked and it can be."""
        if self._stopwatch is None or not isinstance(goal, Latency) or scored.kernels is not None:
            return scored
        kernels = self._stopwatch.kernels(scored, goal, self._calls.say)
        if isinstance(kernels, str):
            self._calls.say(kernels)
        return scored if isinstance(kernels, str) else scored.with_(kernels=kernels)

    def towards(self, spec: Spec, scored: Program, say: Say) -> Run:
        """Return a run that goes on from here to another goal, with these scores."""
        other = copy(self)
        other._spec, other.saved = spec, deepcopy(self.saved)
        other._scored, other._calls = scored.with_(say=say), replace(self._calls, say=say)
        return other

    def whole(self) -> Program:
        """Return the original model as a module to run."""
        return pipeline.run(self._first, [passes.make("restore", {})])

    def remove(self, goal: Objective, part: float) -> None:
        """Choose until the goal is met, and remove what was chosen."""
        if self.saved.history and goal.sparsity <= 1.0 - self.saved.history[-1].goal + 1e-12:
            return  # a schedule that cools down asks for no more
        scored = self._scored or self.scored()
        if isinstance(goal, Latency) and self.saved.step == self._spec.schedule.made().count:
            program = self._measured(scored, goal, part)
        else:
            program = self._removed(self._chosen_by(scored, goal, part))
        self._took(program)
        assert program.plan is not None
        smaller = [plan for plan in program.plan.targets if plan.kept < plan.units]
        units = sum(plan.units - plan.kept for plan in smaller)
        self._calls.say(f"step {self.saved.step}: {units} units of {len(smaller)} targets leave")

    def _removed(self, chosen: Program) -> Program:
        return pipeline.run(chosen, (*passes.removing(), passes.make("verify", {})))

    def _chosen_by(self, scored: Program, goal: Objective, part: float) -> Program:
        return pipeline.run(scored, (passes.allocating(self._spec, goal, part),))

    def _measured(self, scored: Program, goal: Latency, part: float) -> Program:
        watch, say = self._stopwatch, self._calls.say
        assert watch is not None
        scored = self.foreseen(scored, goal) if goal.sparsity else scored
        choose = cache(partial(self._chosen_by, scored, part=part))  # what is built was chosen
        if scored.kernels is not None and goal.sparsity:
            goal = watch.settled(goal, scored.kernels, choose, say)
        program, self._latency = watch.meet(goal, lambda one: self._removed(choose(one)), say)
        return program

    def related(self, objective: Objective) -> Objective:
        """Return an objective of which the share of the original to keep is known."""
        if not isinstance(objective, Latency):
            return objective
        self._stopwatch = Stopwatch(self._first, objective)
        return objective.related(self._stopwatch.original.median)

    def _ready(self) -> Program:
        """Return the program of what is left of the model, with all that the passes look at."""
        program = self._program if self._slim is None else self._graph(self._slim)
        return program.with_(
            calibration=self._calls.data,
            trials=self._trials,
            learned=self.saved.learned,
            origin=self._origin,
            masks={} if self._through else self._masks,
            dense=self._through,
            say=self._calls.say,
        )

    def _took(self, program: Program) -> None:
        """Go on with the smaller module of a program that was shrunk and restored."""
        assert program.plan is not None
        before = self._slim if self._slim is not None else self._model
        self._slim = cast(SlimModule, program.module)
        self._slim.signature = program.signature
        if self._calls.optimizer is not None:
            carry(self._calls.optimizer, before, self._slim, program.plan.kept)
        self._origin, self._achieved = program.origin, program.achieved
        self._kept = after(self._kept, program.plan.kept)
        self._masks = masks.masks_of(self._slim)
        # those of activations are part of the graph, which a module that is captured again has
        gates = {k: v for k, v in program.plan.masks.items() if k not in self._masks}
        self._gates = {**self._gates, **gates}
        self.saved.learned = cut(self.saved.learned, program.plan.kept)
        self.saved.alive.append(torch.from_numpy(np.asarray(program.alive)))
        self._seconds = {
            name: self._seconds.get(name, 0.0) + spent for name, spent in program.seconds.items()
        }
        self._program = program

    def rewind(self) -> None:
        """Put what is left back to the weights that the model came with."""
        assert self._slim is not None
        given = tensors_of(self._first.module)
        with torch.no_grad():
            for name, tensor in self._slim.state_dict(keep_vars=True).items():
                if name in given:
                    tensor.copy_(narrowed(given[name].detach(), (self._kept or {}).get(name, ())))
        if self._masks and not self._through:
            masks.hold(self._slim)
        if self._calls.optimizer is not None:
            self._calls.optimizer.state.clear()

    def fine_tune(self) -> None:
        """Let the caller train what is left, and the metrics that learn look on."""
        number = self.saved.tunings
        self.saved.tunings += 1
        if self._calls.fine_tune is None:
            return
        module = self._whole()
        self._calls.say(f"fine-tuning {number}")
        more = self.saved.step < self._spec.schedule.made().count  # else there is nothing to learn
        learners = self._learners if more else []
        seen = pipeline.run(self._ready(), self._selecting()) if learners else self._program
        with watching(learners, seen.module, module, self.saved.learned, seen.selected):
            ranks.together(lambda: self._tuned(module, number))

    def _selecting(self) -> tuple[passes.Pass, ...]:
        return passes.coupling(self._spec)[:-1]

    def _graph(self, module: SlimModule) -> Program:
        """Return a module captured, with its masks taken off meanwhile."""
        masks.detach(module)
        try:
            return capture(module)
        finally:
            masks.attach(module, self._masks, self._through)

    def _tuned(self, module: nn.Module, number: int) -> None:
        tune = self._calls.fine_tune
        assert tune is not None
        module.train()
        with torch.enable_grad():
            called("fine_tune", lambda: tune(module, number))
        module.train(self._first.signature.training)
        masks.settle(module)
        check_finite(module, number)

    def _whole(self) -> SlimModule:
        """Return the module to train: the model's own copy before the first removal."""
        if self._slim is None:
            program = pipeline.run(self._program, [passes.make("restore", {})])
            self._slim = cast(SlimModule, program.module)
            self._slim.signature = program.signature
            if self._calls.optimizer is not None:
                carry(self._calls.optimizer, self._model, self._slim, None)
        return self._slim

    def settle(self, objective: Objective) -> None:
        """Tell metrics that learn what would be removed now, all the way."""
        if not any(one.settles for one in self._learners):
            return
        # A search would ask its evaluator at every settling: the same bounds serve uniformly.
        allocation = self._spec.allocation
        bounds = allocation.model_dump(include=set(AllocationSpec.model_fields) - {"name"})
        uniform = AllocationSpec(name="uniform", **bounds)
        spec = self._spec.model_copy(update={"allocation": uniform})
        program = pipeline.run(self._ready(), passes.choosing(spec, objective))
        assert program.plan is not None
        tensors = tensors_of(program.module)
        settled(
            self._learners,
            cast(Any, program.module),
            tensors,
            program.plan,
            self.saved.learned,
        )

    def note(self, goal: Objective) -> None:
        """Write the step into the history."""
        score = None
        if self._trials is not None and self._slim is not None:
            score = self._trials.of(self._slim)
            self._slim.train(self._first.signature.training)
        step = Step(self.saved.step, 1.0 - goal.sparsity, self._achieved, score)
        self.saved.history.append(step)
        self._calls.say(f"step {step}")

    # ---- from a checkpoint, and the end ----------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, where the caller asked for one."""
        if self._calls.checkpoint is None or not ranks.first():
            return
        self.saved.weights = dict(self._whole().state_dict())
        self._checkpoint.save(self.saved, self._calls.optimizer)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one: repeat its removals, take its weights."""
        found = self._checkpoint.load() if self._calls.checkpoint is not None else None
        if found is None:
            return
        for alive in found.alive:
            program = pipeline.run(self._ready(), self._selecting())
            if program.discovery is None or len(alive) != program.discovery.coupling.guards.size:
                raise CheckpointError("checkpoint: it does not fit the model; start anew")
            self._took(pipeline.run(self._chosen(program, alive), passes.removing()))
        state = self._whole()
        state.load_state_dict(found.weights)
        if self._calls.optimizer is not None:
            self._checkpoint.load_optimizer(self._calls.optimizer, found.tunings)
        self.saved = found
        self._calls.say(f"resumed after step {found.step}")

    def _chosen(self, program: Program, alive: torch.Tensor) -> Program:
        assert program.discovery is not None
        cost = costed(program)
        origin = self._origin or Origin(program.discovery, program.selected, cost)
        choice = Choice(alive.numpy(), 1.0)
        return planned(program.with_(origin=origin), cost, choice)

    def finished(self) -> SlimModule:
        """Return the module with its plan and report, in terms of the original model."""
        assert self._slim is not None
        assert self._origin is not None
        slim, kept = self._slim, self._kept or {}
        if self._masks:
            masks.hold(slim)
        all_masks = {**self._masks, **self._gates}
        plan = Plan(kept, self._origin.plans(kept, all_masks), self._spec.to_dict(), all_masks)
        slim.plan = plan
        program = self._program.with_(plan=plan, seconds=self._seconds, origin=self._origin)
        slim.report = Report.of(program, self.saved.history, self._latency)
        return slim
