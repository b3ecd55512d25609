"""The passes: what is done to a program, one file and one verb each.

Every file here is imported, every `@register` makes a pass known by name, and its fields are its
options. The functions below are the pipelines: the order of passes as tuples.
The loop runs them, and so does `fxprune run`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from fxprune.objectives import Objective
from fxprune.pipeline import PASSES, Pass, make
from fxprune.program import Repaired, Restored, Shrunk, Verified
from fxprune.spec import Spec
from fxprune.targets import Discovery

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def coupling(spec: Spec) -> tuple[Pass, ...]:
    """Return the passes that find out what a specification selects, and score it."""
    metric = spec.metric
    return (
        make("couple", {}),
        *(
            make(
                "select",
                target.model_dump(exclude_none=True)
                | {"more": number > 0, "where": spec.where(number)},
            )
            for number, target in enumerate(spec.target)
        ),
        make(
            "score",
            {"metric": metric.name, "options": metric.options, "normalize": metric.normalize},
        ),
    )


def choosing(spec: Spec, objective: Objective | None = None, part: float = 1.0) -> tuple[Pass, ...]:
    """Return the passes that decide what one step of a schedule removes.

    `objective` is what the step asks, of the original model, and `part` its share of the way.
    """
    return (*coupling(spec), allocating(spec, objective, part))


def allocating(spec: Spec, objective: Objective | None = None, part: float = 1.0) -> Pass:
    """Return the pass that meets the objective of a step, given scores."""
    allocation = spec.allocation
    name, _ = spec.objective.chosen
    wanted = objective or spec.objective.made()
    bounds = {k: getattr(allocation, k) for k in ("min_keep", "min_ratio", "max_ratio", "round_to")}
    return make(
        "allocate",
        {
            "allocation": allocation.name,
            "options": allocation.options,
            "objective": {name: wanted.goal, **wanted.options},
            "same": allocation.same,
            "part": part,
            **bounds,
        },
    )


def pruning(spec: Spec, objective: Objective | None = None, part: float = 1.0) -> tuple[Pass, ...]:
    """Return the pipeline of one step of `prune`: what a specification means, in order."""
    return (*choosing(spec, objective, part), *removing(), make("verify", {}), repairing(spec))


def repairing(spec: Spec) -> Pass:
    """Return the pass that repairs what is left, once it is verified."""
    return make("repair", {"method": spec.repair.name, "options": spec.repair.options})


def removing() -> tuple[Pass, ...]:
    """Return the passes that remove what was chosen."""
    return make("shrink", {}), make("gate", {}), make("restore", {}), make("impose", {})


def verified(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """Return passes with `verify` after every `shrink`: when the module is restored, at the latest.

    It comes before `repair`, after which the weights are no longer those of the original.
    `eliminate` is no business of `verify`, which compares with zeroed units: it folds constants.
    """
    done: list[Pass] = []
    unverified = False
    for one in passes:
        if unverified and (Discovery in one.ensures or Repaired in one.ensures):
            done.append(make("verify", {}))
        if Shrunk in one.ensures or Verified in one.ensures:
            unverified = one.name == "shrink"
        elif Repaired in one.ensures:
            unverified = False
        done.append(one)
    if unverified and not any(Restored in one.ensures for one in passes):
        done.append(make("restore", {}))
    return tuple(done) if not unverified else (*done, make("verify", {}))


def eliminating() -> tuple[Pass, ...]:
    """Return the pipeline of `speedup`: what the zeros of a model prove to be dead is removed."""
    return tuple(make(name, {}) for name in ("fold", "couple", "eliminate", "restore"))


__all__ = [
    "PASSES",
    "Pass",
    "allocating",
    "choosing",
    "coupling",
    "eliminating",
    "make",
    "pruning",
    "removing",
    "repairing",
    "verified",
]
