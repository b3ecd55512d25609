"""eliminate: remove the units that are provably dead, and fold their constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fxprune.allocators import Choice
from fxprune.cost import Cost, Costs, OriginalWidths
from fxprune.elimination import (
    DeadUnits,
    WeightedConsumer,
    compensate,
    constants,
    dead_units_of,
    owners,
)
from fxprune.errors import InputError
from fxprune.graphs import tensors_of
from fxprune.guards import Ids
from fxprune.passes.allocate import planned
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Program, Shrunk
from fxprune.surgery import shrink
from fxprune.targets import Discovery, Selection, Target


@register("eliminate")
@dataclass(frozen=True)
class Eliminate:
    """Remove every unit of which nothing but constants is read, and add the constants back.

    What is constant is so in evaluation mode: in training a batch norm gives other numbers.
    """

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Discovery, Selection)
    ensures: ClassVar[Facts] = (Choice, Plan, Costs, OriginalWidths, Shrunk)

    def __call__(self, program: Program) -> Program:
        """Return the program with a smaller module of the same function, and its plan."""
        if any(tensor.is_meta for tensor in tensors_of(program.module).values()):
            raise InputError(
                "eliminate: a model on the meta device has no weights, so nothing is constant; "
                "load its weights first"
            )
        coupling, selected = program[Discovery].coupling, program[Selection].targets
        facts = constants(program.module, program.signature)
        found = dead_units_of(coupling, facts, _units(selected))
        cost = Cost(program.module, coupling, program.signature.batch)
        before = program.module
        program = planned(program, cost, Choice(found.alive, 1.0))
        module = shrink(before, coupling, found.alive, program[Plan].kept)
        lost = [
            (one.node.name, values, one.axis)
            for one in found.consumers
            if isinstance(one, WeightedConsumer) and (values := one.lost(found.alive)) is not None
        ]
        places = compensate(module, lost)
        zeros = {"zeros_before": _zeros(before), "zeros_after": _zeros(module)}
        program = program.with_(replace(program[Costs], **zeros), Shrunk())
        program = program.on(module).without(Discovery)
        return program.noted(*_notes(program, found, places))


def _zeros(module: torch.nn.Module) -> int:
    return sum(int((parameter == 0).sum()) for parameter in module.parameters())


def _units(targets: tuple[Target, ...]) -> Ids:
    every = [target.units for target in targets]
    return np.concatenate([np.zeros(0, dtype=np.int64), *every])


def _notes(program: Program, found: DeadUnits, places: list[str]) -> list[str]:
    targets = program[Selection].targets
    units, notes = _units(targets), list[str]()
    if found.alive[units].all():
        why = "" if program[Costs].zeros_before else ": no parameter is zero"
        notes = [f"nothing was removed: no unit is provably dead or constant{why}"]
    if places:
        some = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
        notes.append(
            f"constants of removed units, as they are in evaluation mode, were folded into {some} "
            f"({len(places)} in all); training mode may give other numbers"
        )
    for refusal in found.refused:
        for k, mine in owners(targets, refusal.units).items():
            notes.append(refusal.described(targets[k].name, len(mine)))
    for k, mine in owners(targets, found.spared).items():
        notes.append(
            f"{len(mine)} dead units of {targets[k].name} are kept: an axis cannot become empty"
        )
    return notes
