"""Distance from the geometric median (He et al. 2019, FPGM, arXiv:1811.00250)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fxprune.guards import Ids
from fxprune.metrics.footprint import Part, makes, of_targets, parameters, reduced
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric
from fxprune.targets import Target


@metric("fpgm")
@dataclass(frozen=True)
class Fpgm:
    """Sum the distances of a unit's weights from those of the other units of its target.

    With W_i the weights that make unit i, all of them in one vector, the score is Σ_j ‖W_i − W_j‖₂:
    a unit near the geometric median is one that the others can stand in for. Several weights that
    make the same unit give a sum each, reduced by `reduction`. Where no weight makes a unit, those
    that read it are taken.
    """

    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "nothing"
    grain: ClassVar[tuple[str, ...]] = ("units",)

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return Σ_j ‖W_i − W_j‖₂ reduced over the weights, one array `[units]` a target."""
        size = evidence.coupling.guards.size
        makers, count = reduced(_distances(evidence, True, np.zeros(size)), self.reduction, size)
        readers, _ = reduced(_distances(evidence, False, count), self.reduction, size)
        return of_targets(evidence, np.where(count > 0, makers, readers))


def _distances(evidence: Evidence, made: bool, have: Scores) -> Iterator[Part]:
    """Yield the sums of distances along each axis made (or not), for targets that lack some."""
    owner = np.full(evidence.coupling.guards.size, -1)
    for k, target in enumerate(evidence.targets):
        if not have[target.units].all():
            owner[target.units] = k
    for node, tensor, guards in parameters(evidence):
        for dim, g in enumerate(guards):
            if not g.shape[1] or makes(node, dim) is not made:
                continue
            for k in np.unique(owner[g]).tolist():
                if k >= 0:
                    units, sums = _along(tensor, dim, g, evidence.targets[k])
                    yield Part(str(node.target), dim, made, units, sums)


def _along(tensor: torch.Tensor, dim: int, g: Ids, target: Target) -> tuple[Ids, Scores]:
    """Return the units of a target along an axis, and the sum of distances of each."""
    member = np.isin(g, target.units)
    row, column = np.nonzero(member)
    ids = g[row, column]
    row = row[np.argsort(ids, kind="stable")]
    units = np.unique(ids)  # a footprint is one for all units: each has as many rows
    vectors = tensor.movedim(dim, 0).flatten(1)[torch.from_numpy(row).to(tensor.device)]
    vectors = vectors.reshape(len(units), -1).double()
    return units, torch.cdist(vectors, vectors).sum(dim=1).cpu().numpy()
