"""The state of a run: the original, the smaller model, and what was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch

from fxprune import distributed, latency, passes, pipeline
from fxprune.allocators import Choice, Evaluator
from fxprune.capture import Modes, capture, prepare, put
from fxprune.cost import OriginalWidths
from fxprune.cost.original_widths import Kept, after
from fxprune.errors import CheckpointError
from fxprune.files.described_inputs import described
from fxprune.graphs import tensors_of
from fxprune.loop.caller_functions import Callbacks
from fxprune.loop.checkpoint import Checkpoint, Saved
from fxprune.loop.fine_tuning.calls import tuned, tuner
from fxprune.loop.latency_contract import LatencyContract
from fxprune.loop.learned_metrics import cut, learners, settled, watching
from fxprune.loop.optimizer_state import carry
from fxprune.loop.rewinding import rewound
from fxprune.loop.trials import Trials, fingerprint
from fxprune.metrics.reads import as_read
from fxprune.metrics.registry import Lessons
from fxprune.objectives import Objective
from fxprune.objectives.latency import Latency
from fxprune.passes.allocate import costed, planned
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.report import LatencyReport, Report, Step
from fxprune.spec import AllocationSpec, Spec
from fxprune.surgery import Masks, SlimModule, masks
from fxprune.targets import Discovery, Selection


class Run:
    """Carry a model through a schedule: the original, the smaller model, and what was learned."""

    def __init__(self, model: Any, spec: Spec, inputs: Any, calls: Callbacks) -> None:
        self._spec, self._calls = spec, calls
        self._model = model
        self.watch = calls.watch
        with self.watch.within("imports"):
            prepare(model)
        with self.watch.within("capture"):
            self._program = capture(model, inputs, calls.axes(spec), calls.outputs)
        self._first = self._program
        self._scored: Program | None = None  # where one scoring serves several goals
        self._slim: SlimModule | None = None
        self._kept: Kept | None = None
        self.saved = Saved()
        self._tune = tuner(spec, calls, lambda: self.whole().module)
        if calls.checkpoint is not None:
            of = [spec.to_dict(), fingerprint(self._program.module)]
            belongs = json.dumps([*of, calls.outputs] if calls.outputs else of)
            self._checkpoint = Checkpoint(calls.checkpoint, belongs)
        writes = calls.checkpoint is not None and distributed.first()
        memory = calls.checkpoint / "scores.jsonl" if calls.checkpoint and writes else None
        self._trials = Trials(calls.evaluate, memory) if calls.evaluate is not None else None
        self._learners = learners(spec)
        # such a metric looks at masked weights as well, which may come back
        self._through = any(getattr(one, "straight_through", False) for one in self._learners)
        self._latencies: LatencyContract | None = None
        self._latency: LatencyReport | None = None
        self._masks: dict[str, torch.Tensor] = {}
        self._gates: dict[str, torch.Tensor] = {}

    # ---- a step ----------------------------------------------------------------------------------

    def scored(self) -> Program:
        """Return the program of the smaller model, with every selected unit scored."""
        return pipeline.run(self._ready(), passes.coupling(self._spec))

    def with_prediction(self, scored: Program, goal: Objective) -> Program:
        """Return a scored program that can predict a latency, if one is asked and it can be."""
        if not isinstance(goal, Latency) or latency.KernelModel in scored:
            return scored
        with self.watch.within("latency"):
            kernels = self._contract(goal).kernels(scored, goal, self._calls.say)
        if isinstance(kernels, str):
            self._calls.say(kernels)
        return scored if isinstance(kernels, str) else scored.with_(kernels)

    def with_goal(self, spec: Spec, scored: Program, name: str) -> Run:
        """Return a run that continues from here to another goal, with these scores."""
        other = copy(self)
        other.watch = watch = self.watch.again(f"{name}: ")
        other._spec, other.saved = spec, deepcopy(self.saved)
        other._scored = replace(scored, say=watch.detail, stage=watch.stage)
        other._calls = replace(self._calls, say=watch.say, watch=watch)
        return other

    def whole(self) -> Program:
        """Return the original model as a module to run."""
        return pipeline.run(self._first, [passes.make("restore", {})])

    def remove(self, goal: Objective, part: float) -> None:
        """Choose until the goal is met, and remove what was chosen."""
        before = 1.0 - self.saved.history[-1].goal if self.saved.history else -1.0
        if goal.sparsity and goal.sparsity <= before + 1e-12:
            return  # a schedule that cools down asks for no more
        scored = self._scored or self.scored()
        if isinstance(goal, Latency) and self.saved.step == self._spec.schedule.made().count:
            program = self._measured(scored, goal, part)
        else:
            program = self._removed(self._chosen_by(scored, goal, part))
        self._advance(pipeline.run(program, [passes.repairing(self._spec)]))
        smaller = [plan for plan in program[Plan].targets if plan.kept < plan.units]
        units = sum(plan.units - plan.kept for plan in smaller)
        many = (
            f"{units} unit{'s' * (units != 1)} of {len(smaller)} target{'s' * (len(smaller) != 1)}"
        )
        self._calls.say(f"step {self.saved.step}: {many} removed")

    def _removed(self, chosen: Program) -> Program:
        return pipeline.run(chosen, (*passes.removing(), passes.make("verify", {})))

    def _chosen_by(self, scored: Program, goal: Objective, part: float) -> Program:
        return pipeline.run(scored, (passes.allocating(self._spec, goal, part),))

    def _measured(self, scored: Program, goal: Latency, part: float) -> Program:
        contract, say = self._contract(goal), self._calls.say
        scored = self.with_prediction(scored, goal) if goal.sparsity else scored
        choose = cache(partial(self._chosen_by, scored, part=part))  # what is built was chosen
        kernels = scored.get(latency.KernelModel)
        if kernels is not None and goal.sparsity:
            with self.watch.within("latency"):
                goal = contract.settled(goal, kernels, choose, say)
        with self.watch.within("latency"):
            met = contract.meet(goal, lambda one: self._removed(choose(one)), say)
        program, self._latency = met
        return program

    def related(self, objective: Objective) -> Objective:
        """Return an objective of which the share of the original to keep is known."""
        if not isinstance(objective, Latency):
            return objective
        return objective.related(self._contract(objective).original.median)

    def _contract(self, objective: Latency) -> LatencyContract:
        """Return what holds a latency to what was asked, the original measured once."""
        if self._latencies is None:
            with self.watch.within("latency"):
                self._latencies = LatencyContract(
                    self._first, objective, self._calls.say, self.watch.part
                )
        return self._latencies

    def _ready(self) -> Program:
        """Return the program of the smaller model, with all that the passes look at."""
        program = self._program if self._slim is None else self._graph(self._slim)
        program = replace(program, say=self.watch.detail, stage=self.watch.stage).with_(
            self._calls.data,
            Lessons(self.saved.learned),
            Masks({} if self._through else self._masks, self._through),
        )
        if self._trials is not None:
            program = program.with_(Evaluator(self._scored_by(self._trials)))
        widths = self._program.get(OriginalWidths)
        return program if widths is None else program.with_(widths)

    def _scored_by(self, trials: Trials) -> Callable[[Program, Choice], float]:
        """Return what scores choices, and shows that it does."""

        def score(program: Program, choice: Choice) -> float:
            value = trials.score(program, choice)
            self.watch.show(f"evaluation {trials.asked}: {value:.4g}")
            return value

        return score

    def _advance(self, program: Program) -> None:
        """Continue with the smaller module of a program that was shrunk and restored."""
        plan = program[Plan]
        before = self._slim if self._slim is not None else self._model
        self._slim = cast(SlimModule, program.module)
        self._slim.signature = program.signature
        if self._calls.optimizer is not None:
            carry(self._calls.optimizer, before, self._slim, plan.kept)
        self._kept = after(self._kept, plan.kept)
        self._slim.plan = Plan(self._kept)  # of the original, for whoever trains it
        self._masks = masks.masks_of(self._slim)
        # those of activations are part of the graph, which a module that is captured again has
        gates = {k: v for k, v in plan.masks.items() if k not in self._masks}
        self._gates = {**self._gates, **gates}
        self.saved.learned = cut(self.saved.learned, plan.kept)
        self.saved.alive.append(torch.from_numpy(np.asarray(program[Choice].alive)))
        self._program = program

    def rewind(self) -> None:
        """Rewind the smaller model to the weights that the original came with."""
        slim = self.trainable_module()
        given = rewound(self._first.module, self._kept or {})
        with torch.no_grad():
            for name, tensor in slim.state_dict(keep_vars=True).items():
                if name in given:
                    tensor.copy_(given[name])
        if self._masks and not self._through:
            masks.hold(slim)
        if self._calls.optimizer is not None:
            self._calls.optimizer.state.clear()

    def fine_tune(self) -> None:
        """Let the caller train the smaller model, while the metrics that learn observe."""
        number = self.saved.tunings
        self.saved.tunings += 1
        if (tune := self._tune) is None:
            return
        module, given = self.trainable_module(), self._first[Modes].given
        self._calls.say(f"fine-tuning {number}")
        with self._observed(module), self.watch.within("fine_tune"):
            found = distributed.together(lambda: tuned(tune, module, number, given))
        self.saved.tuned += [found] if found is not None else []

    def _observed(self, module: SlimModule) -> AbstractContextManager[None]:
        """Let the metrics that learn observe a module, while there is anything left to learn."""
        if not self._learners or self.saved.step >= self._spec.schedule.made().count:
            return nullcontext()
        seen, lessons = pipeline.run(self._ready(), self._selecting()), self.saved.learned
        targets = seen[Selection].targets
        read = as_read(seen.module, seen[Discovery].coupling, targets, known=True)
        return watching(self._learners, read.module, module, lessons, targets, read.names)

    def _selecting(self) -> tuple[passes.Pass, ...]:
        return passes.coupling(self._spec)[:-1]

    def _graph(self, module: SlimModule) -> Program:
        """Return a module captured, with its masks taken off meanwhile."""
        masks.detach(module)
        try:
            with self.watch.within("capture"):
                return capture(module)
        finally:
            masks.attach(module, self._masks, self._through)

    def trainable_module(self) -> SlimModule:
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
        targets, coupling = program[Selection].targets, program[Discovery].coupling
        module = as_read(program.module, coupling, targets, known=True).module
        settled(self._learners, module, tensors_of(module), program[Plan], self.saved.learned)

    def note(self, goal: Objective) -> None:
        """Write the step into the history."""
        score = None
        if self._trials is not None and self._slim is not None:
            with self.watch.within("evaluate"):
                score = self._trials.of(self._slim)
            put(self._slim, self._first[Modes].given)
        choice = self._program.get(Choice)
        achieved = choice.achieved if choice is not None else 1.0
        step = Step(self.saved.step, 1.0 - goal.sparsity, achieved, score)
        self.saved.history.append(step)
        self._calls.say(f"step {step}")

    # ---- from a checkpoint, and the end ----------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, where the caller asked for one."""
        if self._calls.checkpoint is None or not distributed.first():
            return
        self.saved.weights = dict(self.trainable_module().state_dict())
        self._checkpoint.save(self.saved, self._calls.optimizer)

    def resume(self) -> None:
        """Resume from the checkpoint, if there is one: repeat its removals, take its weights."""
        found = self._checkpoint.load() if self._calls.checkpoint is not None else None
        if found is None:
            return
        for alive in found.alive:
            program = pipeline.run(self._ready(), self._selecting())
            if len(alive) != program[Discovery].coupling.guards.size:
                raise CheckpointError("checkpoint: it does not fit the model; start again")
            chosen = planned(program, costed(program), Choice(alive.numpy(), 1.0))
            self._advance(pipeline.run(chosen, passes.removing()))
        state = self.trainable_module()
        state.load_state_dict(found.weights)
        if self._calls.optimizer is not None:
            self._checkpoint.load_optimizer(self._calls.optimizer, found)
        self.saved = found
        self._calls.say(f"resumed after step {found.step}")

    def finished(self) -> SlimModule:
        """Return the module with its plan and report, in terms of the original model."""
        slim, kept = self.trainable_module(), self._kept or {}
        widths = self._program[OriginalWidths]
        if self._masks:
            masks.hold(slim)
        all_masks = {**self._masks, **self._gates}
        called = self._first.signature
        inputs = described(called.args, called.kwargs, called.outputs)
        plan = Plan(kept, widths.plans(kept, all_masks), self._spec.to_dict(), all_masks, inputs)
        slim.plan = plan
        program = replace(self._program, seconds=self.watch.seconds()).with_(plan)
        slim.report = Report.of(program, self.saved.history, self._latency, self.saved.tuned)
        return slim
