"""eliminate: remove the units that are provably dead, and fold their constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fxprune.allocators import Choice
from fxprune.constants import constants
from fxprune.cost import Cost
from fxprune.deadness import Deadness, deadness, owners
from fxprune.errors import InputError
from fxprune.folding import compensate
from fxprune.guards import Ids
from fxprune.origin import Origin
from fxprune.pipeline import register
from fxprune.program import Program, tensors_of
from fxprune.shrinking import shrink
from fxprune.targets import Target
from fxprune.weighted import Weighted
from passes.allocate import planned


@register("eliminate")
@dataclass(frozen=True)
class Eliminate:
    """Remove every unit of which nothing but constants is read, and add the constants back.

    What is constant is so in evaluation mode: in training a batch norm gives other numbers.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled",)
    ensures: ClassVar[tuple[str, ...]] = ("planned", "shrunk")

    def __call__(self, program: Program) -> Program:
        """Return the program with a smaller module of the same function, and its plan."""
        assert program.discovery is not None
        if any(tensor.is_meta for tensor in tensors_of(program.module).values()):
            raise InputError(
                "eliminate: a model on the meta device has no weights, so nothing is constant; "
                "load its weights first"
            )
        coupling = program.discovery.coupling
        facts = constants(program.module, program.signature)
        found = deadness(coupling, facts, _units(program.selected))
        cost = Cost(program.module, coupling, program.signature.batch)
        origin = program.origin or Origin(program.discovery, program.selected, cost)
        before = program.module
        program = planned(program.with_(origin=origin), cost, Choice(found.alive, 1.0))
        assert program.plan is not None
        module = shrink(before, coupling, found.alive, program.plan.kept)
        lost = [
            (one.node.name, values, one.axis)
            for one in found.readers
            if isinstance(one, Weighted) and (values := one.lost(found.alive)) is not None
        ]
        places = compensate(module, lost)
        zeros = {"zeros_before": _zeros(before), "zeros_after": _zeros(module)}
        program = program.with_(costs={**program.costs, **zeros})
        program = program.with_(module=module, owned=True, facts=program.facts - {"coupled"})
        return program.noted(*_notes(program, found, places))


def _zeros(module: torch.nn.Module) -> int:
    return sum(int((parameter == 0).sum()) for parameter in module.parameters())


def _units(targets: tuple[Target, ...]) -> Ids:
    every = [target.units for target in targets]
    return np.concatenate([np.zeros(0, dtype=np.int64), *every])


def _notes(program: Program, found: Deadness, places: list[str]) -> list[str]:
    targets = program.selected
    units, notes = _units(targets), list[str]()
    if found.alive[units].all():
        why = "" if program.costs["zeros_before"] else ": no parameter is zero"
        notes = [f"nothing was removed: no unit is provably dead or constant{why}"]
    if places:
        some = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
        notes.append(
            f"constants of removed units, as they are in evaluation mode, went into {some} "
            f"({len(places)} in all); training mode may give other numbers"
        )
    for refusal in found.refused:
        for k, mine in owners(targets, refusal.units).items():
            notes.append(refusal.described(targets[k].name, len(mine)))
    for k, mine in owners(targets, found.spared).items():
        notes.append(
            f"{len(mine)} dead units of {targets[k].name} stay: an axis cannot become empty"
        )
    return notes
