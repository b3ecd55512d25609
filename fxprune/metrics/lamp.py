"""Magnitudes made comparable between targets (Lee et al. 2021, arXiv:2010.07611)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.metrics.magnitude import power_sums
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric


@metric("lamp")
@dataclass(frozen=True)
class Lamp:
    """Divide a unit's Σw² by that of all units of its target that are no smaller.

    With e = Σw² over a unit's footprint, the score of unit u is e_u / Σ{e_v : e_v ≥ e_u}. The
    largest unit of every target scores 1, so that a global ranking never empties a target.
    """

    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "nothing"

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return layer-adaptive scores in [0, 1], one array `[units]` a target."""
        energy = power_sums(evidence, 2, self.reduction)
        return [adaptive(energy[target.units]) for target in evidence.targets]


def adaptive(energy: Scores) -> Scores:
    """Return each number over the sum of those that are no smaller, shape `[n]`.

    >>> adaptive(np.array([1.0, 3.0, 4.0, 0.0])).tolist()
    [0.125, 0.42857142857142855, 1.0, 0.0]
    """
    ordered = np.sort(energy)
    rest = np.cumsum(ordered[::-1])[::-1]
    below = rest[np.searchsorted(ordered, energy)]
    return np.asarray(energy / np.where(below > 0, below, 1.0), dtype=np.float64)
