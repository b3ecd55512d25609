"""Magnitude of weights over a unit's whole footprint (Li et al. 2017, arXiv:1608.08710)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from fxprune.guards import Ids
from fxprune.metrics.registry import Scores, metric
from fxprune.program import attribute
from fxprune.rules.site import Coupling, TensorGuard
from fxprune.targets import Target


@metric("l1")
@dataclass(frozen=True)
class L1:
    """Sum |w| over every weight that leaves with the unit."""

    def score(
        self, module: fx.GraphModule, coupling: Coupling, targets: Sequence[Target]
    ) -> list[Scores]:
        """Return Σ|w| a unit, one array `[units]` a target."""
        total = footprint_sums(module, coupling, power=1)
        return [total[target.units] for target in targets]


@metric("l2")
@dataclass(frozen=True)
class L2:
    """Take √Σw² over every weight that leaves with the unit."""

    def score(
        self, module: fx.GraphModule, coupling: Coupling, targets: Sequence[Target]
    ) -> list[Scores]:
        """Return √Σw² a unit, one array `[units]` a target."""
        total = np.sqrt(footprint_sums(module, coupling, power=2))
        return [total[target.units] for target in targets]


def footprint_sums(module: fx.GraphModule, coupling: Coupling, power: int) -> Scores:
    """Return Σ|w|^power for every variable over all parameters it guards, shape `[variables]`."""
    ids, weights = [np.zeros(1, dtype=np.int64)], [np.zeros(1)]
    seen: set[int] = set()
    for node in module.graph.nodes:
        value = coupling.values.get(node) if node.op == "get_attr" else None
        tensor = attribute(module, str(node.target)) if value is not None else None
        if not isinstance(tensor, torch.nn.Parameter) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if isinstance(value, TensorGuard):
            for column, weight in _sums(tensor, value, coupling, power):
                ids.append(column)
                weights.append(weight)
    counted = np.bincount(np.concatenate(ids), np.concatenate(weights), coupling.guards.size)
    total = counted.astype(np.float64)
    total[0] = 0.0
    return total


def _sums(
    tensor: torch.Tensor, value: TensorGuard, coupling: Coupling, power: int
) -> Iterator[tuple[Ids, Scores]]:
    """Yield variables and the Σ|w|^power of each index that they guard, an axis at a time."""
    guards = [coupling.guards.normal(g) for g in value.dims]
    guarded = [dim for dim, g in enumerate(guards) if g.shape[1]]
    if not guarded:
        return
    with torch.no_grad():
        size = tensor.detach().abs().float()
        energy = size if power == 1 else size.square_()
        bare = [dim for dim in range(energy.ndim) if dim not in guarded]
        energy = energy.sum(dim=bare, keepdim=True) if bare else energy
    for dim in guarded:
        others = [d for d in range(energy.ndim) if d != dim]
        rows = energy.sum(dim=others) if others else energy
        weight = rows.double().cpu().numpy()
        for column in guards[dim].T:
            yield column, weight
