"""What it is worth to keep some units of each target: what `optimal` maximises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators.registry import Moves, Problem
from fxprune.guards import Mask

Measure = Literal["shares", "wshares", "sum", "wsquare", "whalf"]
NOTHING = 1e-6  # the share of a target's scores below which nothing of it counts as kept


@dataclass(frozen=True, eq=False)
class Worth:
    """Hold the scores of all units, `[variables]`, and how what is kept of them is added up.

    "sum" adds them. "shares" adds up log(kept of a target / all of it): what is lost of a target
    counts in terms of what is left of it, so that none is given up for another.
    """

    scores: NDArray[np.float64]
    units: Sequence[Any]  # of each target
    totals: NDArray[np.float64]
    weights: NDArray[np.float64]
    measure: Measure

    @classmethod
    def of(cls, problem: Problem, normalize: str, measure: Measure) -> Worth:
        """Return the worth of a problem's units; `normalize` divides them by a target's mean."""
        scores = np.zeros(len(problem.cost.whole()))
        for target, given in zip(problem.targets, problem.scores, strict=True):
            mean = float(abs(given).mean()) or 1.0
            low = min(0.0, float(given.min())) if measure != "sum" else 0.0
            scaled = given / mean if normalize == "mean" else given
            scores[target.units] = scaled - low
        units = [target.units for target in problem.targets]
        totals = np.array([scores[one].sum() for one in units])
        ranks = {name: len(axes) for name, axes, *_ in problem.cost.tensors}
        weights = np.array(
            [
                float(len({name for name, _ in target.footprint if ranks.get(name, 0) > 1}) or 1)
                for target in problem.targets
            ]
        )
        if measure == "whalf":
            weights = np.sqrt(weights)
        if measure == "shares":
            weights = np.ones(len(weights))
        return cls(scores, units, totals, weights, measure)

    def lost(self, k: int, moves: Moves) -> NDArray[np.float64]:
        """Return what is lost of target `k` with 0, 1, 2, … moves."""
        each = np.cumsum(self.scores[moves.gone])[moves.ends - 1]
        gone: NDArray[np.float64] = np.concatenate([[0.0], each])
        if self.measure == "sum":
            return gone
        return -self.weights[k] * _logs(self.totals[k] - gone, self.totals[k], self.measure)

    def kept(self, alive: Mask) -> float:
        """Return the worth of what is alive."""
        left = np.array([self.scores[one][alive[one]].sum() for one in self.units])
        if self.measure == "sum":
            return float(left.sum())
        return float((self.weights * _logs(left, self.totals, self.measure)).sum())


def _logs(left: Any, total: Any, measure: Measure) -> NDArray[np.float64]:
    whole = np.maximum(total, 1e-30)
    kept: NDArray[np.float64] = np.clip(left / whole, 1e-3, 1.0)
    if measure == "wsquare":
        return np.square(1 - kept) * -1.0
    return np.square((1 - kept) / kept) * -1.0
