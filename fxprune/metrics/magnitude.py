"""Magnitude of weights over a unit's whole footprint (Li et al. 2017, arXiv:1608.08710)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fxprune.metrics.footprint import of_targets, parts, reduced, scored, single
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric


@metric("l1")
@dataclass(frozen=True)
class L1:
    """Sum |w| over every weight that is removed with the unit."""

    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "nothing"
    reads_all: ClassVar[bool] = True  # so that a weight that is no number shows in the scores

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return Σ|w| a part, reduced over the parts; one array `[units]` a target."""
        return of_targets(evidence, power_sums(evidence, 1, self.reduction))


@metric("l2")
@dataclass(frozen=True)
class L2:
    """Take √Σw² over every weight that is removed with the unit."""

    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "nothing"
    reads_all: ClassVar[bool] = True  # so that a weight that is no number shows in the scores

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return the root of Σw² a part, reduced over the parts; one array `[units]` a target."""
        return of_targets(evidence, np.sqrt(power_sums(evidence, 2, self.reduction)))


@metric("linf")
@dataclass(frozen=True)
class Linf:
    """Take max |w| over every weight that is removed with the unit."""

    reduction: Reduction = "max"
    needs: ClassVar[Needs] = "nothing"
    reads_all: ClassVar[bool] = True  # so that a weight that is no number shows in the scores

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return max |w| a part, reduced over the parts; one array `[units]` a target."""
        found = parts(evidence, lambda _, tensor: tensor.abs(), "max", elementwise=True)
        return scored(evidence, found, self.reduction)


def power_sums(evidence: Evidence, power: int, reduction: Reduction = "sum") -> Scores:
    """Return Σ|w|^power for every variable over all parameters it guards, shape `[variables]`."""
    found = parts(evidence, lambda _, tensor: _power(tensor, power), elementwise=True)
    return reduced(found, reduction, evidence.coupling.guards.size)[0]


def _power(tensor: torch.Tensor, power: int) -> torch.Tensor:
    """Return |w|^power of every entry, in single precision, or double where that is given."""
    if power == 2 and not tensor.is_complex():
        return single(tensor).square()
    return single(tensor.abs()).pow_(power)
