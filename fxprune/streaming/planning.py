"""Plan on the meta device: which stored tensors are whose, what is removed, and that it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from fxprune import passes, pipeline
from fxprune.allocators import Choice
from fxprune.capture import capture
from fxprune.errors import FileError, InputError, SpecError, VerifyError, root_cause
from fxprune.files.shards import Shards
from fxprune.graphs import tensors_of
from fxprune.loop.progress import Progress
from fxprune.metrics import METRICS
from fxprune.metrics.stored import Stored
from fxprune.objectives.latency import Latency
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.report import Report
from fxprune.spec import Spec
from fxprune.streaming.meter import Meter
from fxprune.surgery import aliases
from fxprune.surgery.kept_weights import changed_weights
from fxprune.targets import Discovery

UNREPAIRED = ("auto", "none")  # repairs that do nothing where there are no batches


def check(spec: Spec) -> None:
    """Raise SpecError for what a model that is never run cannot be asked."""
    named = [spec.metric, *(one.metric for one in spec.target if one.metric is not None)]
    for one in named:
        needs = getattr(one.made(), "needs", "nothing")
        if needs != "nothing":
            told = ", ".join(name for name, kind in METRICS.items() if kind.needs == "nothing")
            raise SpecError(f"metric: {one.name} needs {needs}, and {UNRUN}; choose one of {told}")
    if spec.allocation.made().needs == "evaluate":
        raise SpecError(
            f"allocation: {spec.allocation.name} asks an evaluator, and {UNRUN}; choose another"
        )
    if isinstance(spec.objective.made(), Latency):
        raise SpecError(f"objective: latency is measured, and {UNRUN}; give params, macs or bytes")
    schedule = spec.schedule.made()
    if schedule.count != 1 or schedule.warmup or spec.fine_tune is not None:
        raise SpecError(f"schedule: more than one step is for training, and {UNRUN}; leave it out")
    if spec.repair.name not in UNREPAIRED:
        raise SpecError(f'repair: {spec.repair.name} changes weights, and {UNRUN}; say "none"')


UNRUN = "a checkpoint is pruned without running its model"


@dataclass(frozen=True)
class Names:
    """Hold under which name each tensor of a model is stored, and what is stored beside them.

    `own` are the names in the model, by those in the checkpoint.
    """

    own: Mapping[str, str]
    stored: Mapping[str, str]
    beside: tuple[str, ...]

    @classmethod
    def of(
        cls, model: nn.Module, renamed: Mapping[str, str], shards: Shards, copied: Sequence[str]
    ) -> Names:
        """Match a model with a checkpoint; raises FileError where a name or a shape is not as said.

        `renamed` are names in the model by other names that they are stored by. What the model does
        not have is refused, unless a pattern in `copied` takes it.
        """
        tensors = tensors_of(model)
        own = {name: renamed.get(name, name) for name in shards.entries}
        beside = tuple(name for name, mine in own.items() if mine not in tensors)
        own = {name: mine for name, mine in own.items() if mine in tensors}
        stored: dict[str, str] = {}
        for group in aliases(model).values():
            there = [name for name, mine in own.items() if mine in group]
            stored |= dict.fromkeys(group, there[0]) if there else {}
        found = cls(own, stored, beside)
        found._check(model, shards, copied)
        return found

    def _check(self, model: nn.Module, shards: Shards, copied: Sequence[str]) -> None:
        for name in model.state_dict(keep_vars=True):
            if name not in self.stored:
                raise FileError(
                    f"{shards.folder}: lacks {name}, which the model has; is it of this model?"
                )
        tensors = tensors_of(model)
        for name, mine in self.own.items():
            entry, shape = shards.entries[name], tuple(tensors[mine].shape)
            if entry.shape != shape:
                raise FileError(
                    f"{shards.folder / entry.shard}: {name} is of {entry.shape}, and the model's "
                    f"of {shape}; is it of this model?"
                )
        for name in self.beside:
            if not any(fnmatchcase(name, pattern) for pattern in copied):
                raise FileError(
                    f"{shards.folder / shards.entries[name].shard}: holds {name}, which the model "
                    "does not have; is it of this model? What is to be copied as it is, say so "
                    "(copy, --copy PATTERN)"
                )

    def kept(self, plan: Plan) -> dict[str, tuple[torch.Tensor, ...]]:
        """Return the kept indices of every axis, by the names in the checkpoint."""
        return {name: plan.kept[mine] for name, mine in self.own.items() if mine in plan.kept}


def planned(
    model: nn.Module, inputs: Any, spec: Spec, shards: Shards, names: Names, watch: Progress
) -> tuple[Plan, Report]:
    """Return what to keep of every tensor, and what that costs; weights are read to be scored."""
    with watch.within("capture"):
        program = capture(model, inputs)
    program = replace(program, say=watch.detail, stage=watch.stage)
    meter = Meter("read", len(shards.entries), shards.bytes())
    with meter.shown():
        program = program.with_(Stored(lambda name: meter.seen(shards.tensor(names.stored[name]))))
        program = pipeline.run(program, passes.coupling(spec))
    program = pipeline.run(program, [passes.allocating(spec)])
    _check(program)
    program = _fitting(pipeline.run(program, [passes.make("shrink", {})]))
    plan = program[Plan]
    plan = Plan(plan.kept, plan.targets, spec.to_dict())
    unread = [name for name in names.stored if name not in plan.kept]
    if names.beside:
        program = program.noted(f"copied as they are: {_listed(names.beside)}")
    if unread:
        program = program.noted(f"nothing reads them, so they are copied whole: {_listed(unread)}")
    return plan, Report.of(program.with_(plan))


def _check(program: Program) -> None:
    """Raise SpecError or InputError for what cannot be done by cutting stored tensors."""
    if program[Plan].masks:
        raise SpecError(
            f"target: masks, as of {next(iter(program[Plan].masks))}, are not written into "
            "checkpoints; choose targets of units, such as hidden or head"
        )
    changed = changed_weights(program[Discovery].coupling, program[Choice].alive)
    if changed:
        node = min(changed, key=lambda one: one.name)
        raise InputError(
            f"model: {node} computes a weight of what is removed as well, so that what is kept "
            "would change with it; exclude what it reads, or prune the model in memory"
        )


def _fitting(program: Program) -> Program:
    """Run the smaller graph on the meta device, which tells all its shapes."""
    try:
        with torch.no_grad():
            program.module(*program.signature.args, **program.signature.kwargs)
    except Exception as error:
        raise VerifyError(
            f"shrink: the smaller graph does not fit together: {root_cause(error, 200)}"
        ) from error
    return program


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
