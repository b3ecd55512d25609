"""Which units of a model a plan keeps: the plan as it lies on a model that is captured anew."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from fxprune.errors import InputError
from fxprune.guards import Mask
from fxprune.plan import Plan
from fxprune.rules import Coupling, TensorGuard
from fxprune.surgery.shrinking import kept_indices


def alive_of(module: fx.GraphModule, coupling: Coupling, plan: Plan) -> Mask:
    """Return which variables a plan keeps; raises InputError where it is not of this model."""
    alive = np.ones(coupling.guards.size, dtype=bool)
    seen = np.zeros_like(alive)
    kept = np.zeros_like(alive)
    for node in module.graph.find_nodes(op="get_attr"):
        value, axes = coupling.values.get(node), plan.kept.get(str(node.target))
        if axes is None or not isinstance(value, TensorGuard):
            continue
        if len(axes) != len(value.dims):
            raise InputError(_foreign(str(node.target)))
        for g, index in zip(value.dims, axes, strict=True):
            rows = coupling.guards.normal(g)
            if len(index) and int(index.max()) >= len(rows):
                raise InputError(_foreign(str(node.target)))
            seen[rows] = True
            kept[rows[index.numpy()]] = True
    alive[seen & ~kept] = False
    found = kept_indices(module, coupling, alive)
    for name, axes in plan.kept.items():
        mine = found.get(name)
        if mine is None or not all(map(torch.equal, axes, mine)):
            raise InputError(_foreign(name))
    return alive


def _foreign(name: str) -> str:
    return (
        f"plan: {name} of this model is not as the plan has it; give a model built like the one "
        "that was pruned, not yet narrowed"
    )
