"""repair: refit what is left to what the original computes, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import fx

from fxprune.allocators import Choice
from fxprune.elimination.mean_folding import fold_means
from fxprune.errors import PassError, SpecError
from fxprune.graphs import tensors_of
from fxprune.metrics import Calibration
from fxprune.metrics.calibration import leaves_of
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Program, Repaired, Restored, Shrunk
from fxprune.surgery import shrink
from fxprune.surgery.repair import REPAIRS, Job, Method, paired
from fxprune.targets import BlockTarget, Original, Selection
from fxprune.targets.activation_sites import impose

MASKED = "its weights are masked"


@register("repair")
@dataclass(frozen=True)
class Repair:
    """Refit the weights that are left, by a method of the specification's key `repair`.

    It goes by the batches of `calibrate`, or, if the method is `means`, by what batch norms hold.
    Without an option of its own, `damping`, `norms`, `samples` and `memory` are the method's.
    """

    method: str = "auto"
    damping: float | None = None
    norms: bool | None = None
    samples: int | None = None
    memory: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Plan, Shrunk, Original, Selection, Choice)
    ensures: ClassVar[Facts] = (Repaired,)

    def __post_init__(self) -> None:
        self._made()

    def __call__(self, program: Program) -> Program:
        """Return the program, whose weights are refitted; raises CalibrationError for bad data."""
        method = self._made()
        if self.method == "none":
            return program.with_(Repaired())
        original, alive = program[Original], program[Choice].alive
        data = program.get(Calibration) or Calibration()
        if data.batches is None or method.folds:
            return _without(program, self.method, method)
        if data.batches is iter(data.batches) and self.method == "auto":
            return program.with_(Repaired()).noted(
                "repair: calibrate can be iterated over only once, so nothing was repaired; give a "
                "list of batches or a data loader"
            )
        leaves = [
            tuple(leaves_of(original.module, program.signature, number, batch))
            for number, batch in data.each()
        ]
        smaller = _graph(program)
        pairs = paired(original.module, original.coupling, smaller, alive)
        spared = dict.fromkeys(program[Plan].masks, MASKED)
        batches = [(one, one) for one in leaves]
        found = method.repair(Job(original.module, smaller, pairs, spared, batches))
        if found is None:
            return program.with_(Repaired())
        _write(program.module, found.tensors)
        program.say(str(found.report))
        return program.with_(Repaired(), found.report)

    def _made(self) -> Method:
        own = {name: getattr(self, name) for name in ("damping", "norms", "samples", "memory")}
        given = {name: value for name, value in own.items() if value is not None}
        made: Method = REPAIRS.make(self.method, {**self.options, **given})
        return made


def _without(program: Program, name: str, method: Method) -> Program:
    """Return the program with the means of what was removed folded, if the method does that.

    Raises SpecError where it needs the data that lack.
    """
    if method.needs:
        raise SpecError(
            f"repair: {name} needs {method.needs}, and calibrate is missing; call "
            "prune(…, calibrate=…)"
        )
    original, alive = program[Original], program[Choice].alive
    weightless = any(one.is_meta for one in tensors_of(program.module).values())
    if weightless or not method.folds:
        return program.with_(Repaired())
    smaller = _graph(program)
    found = fold_means(original.module, original.coupling, program.signature, smaller, alive)
    if smaller is not program.module and (found.places or found.norms):
        named = tensors_of(smaller)
        _write(program.module, {name: named[name] for name in found.changed})
    return program.with_(Repaired()).noted(*found.notes())


def _graph(program: Program) -> fx.GraphModule:
    """Return the smaller graph of operators, with the tensors that the module has."""
    plan = program[Plan]
    if Restored not in program:
        return program.module
    original = program[Original]
    alive = program[Choice].alive
    graph = shrink(original.module, original.coupling, alive, plan.kept)
    sites = [t for t in program[Selection].targets if isinstance(t, BlockTarget) and t.site]
    if sites:
        impose(graph, sites, plan.masks)
    theirs = tensors_of(program.module)
    with torch.no_grad():
        for name, tensor in tensors_of(graph).items():
            if name in theirs and theirs[name].shape == tensor.shape:
                tensor.copy_(theirs[name])
            if name in plan.masks:
                tensor.mul_(plan.masks[name].to(tensor.device))
    return graph


def _write(module: fx.GraphModule, found: Mapping[str, torch.Tensor]) -> None:
    own = tensors_of(module)
    lost = [name for name in found if name not in own]
    if lost:
        raise PassError(f"repair: the module has no {lost[0]}; put repair before restore")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
