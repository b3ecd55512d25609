"""The passes, one file each, and the pipelines they form."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.pipeline import PASSES, Pass, make
from fxprune.spec import AllocationSpec, Spec

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def pruning(spec: Spec) -> tuple[Pass, ...]:
    """Return the pipeline of `prune`: what a specification means, in order."""
    target, allocation = spec.target, spec.allocation
    name, value = spec.objective.chosen
    return (
        make("couple", {}),
        make("select", target.model_dump()),
        make("score", {"metric": spec.metric.name, "options": spec.metric.options}),
        make("allocate", {**allocation_options(allocation), name: value}),
        make("shrink", {}),
        make("restore", {}),
        make("verify", {}),
    )


def allocation_options(allocation: AllocationSpec) -> dict[str, object]:
    """Return the options of `allocate` that an allocation table gives."""
    options = allocation.model_dump()
    return {"allocation": options.pop("name"), **options}


__all__ = ["PASSES", "Pass", "pruning"]
