"""The passes, one file each, and the pipelines they form."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.objectives import Objective
from fxprune.pipeline import PASSES, Pass, make
from fxprune.spec import Spec

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
    """Return the passes that decide what leaves in one step of a schedule.

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
            "part": part,
            **bounds,
        },
    )


def pruning(spec: Spec, objective: Objective | None = None, part: float = 1.0) -> tuple[Pass, ...]:
    """Return the pipeline of one step of `prune`: what a specification means, in order."""
    return (*choosing(spec, objective, part), *removing(), make("verify", {}))


def removing() -> tuple[Pass, ...]:
    """Return the passes that remove what was chosen."""
    return make("shrink", {}), make("gate", {}), make("restore", {}), make("impose", {})


def eliminating() -> tuple[Pass, ...]:
    """Return the pipeline of `speedup`: what the zeros of a model prove to be dead leaves."""
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
]
