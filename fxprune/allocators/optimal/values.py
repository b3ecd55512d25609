"""The importance of keeping some units of each target: what `optimal` maximises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators.registry import Moves, Problem
from fxprune.guards import Ids, Mask

Measure = Literal["auto", "shares", "sum"]
Values = NDArray[np.float64]
LEAST = 1e-3  # the share of its scores below which no less of a target counts as kept


@dataclass(frozen=True, eq=False)
class Importance:
    """Hold the scores of all units, `[variables]`, and how the kept importance is added up.

    For "sum" it is the sum of the scores that are kept or, where it is known what is lost with
    several units of a target together, minus the sum of that: `curves`, `[units + 1]`. For
    "shares" it is −Σₖ wₖ·(lostₖ/keptₖ)², with the shares of the scores of target k, and wₖ the
    number of weights (matrices, kernels) that a unit has a part in: lostₖ/keptₖ is like a ratio of
    noise to signal in each of them. So no
    target is given up for another, and one that many layers read counts more.
    """

    scores: Values
    units: Sequence[Ids]  # of each target
    totals: Values
    weights: Values
    adds: bool
    curves: Sequence[Values] = ()

    @classmethod
    def of(cls, problem: Problem, normalize: str, measure: Measure) -> Importance:
        """Return how a problem's units count; `normalize` divides them by a target's mean."""
        adds = problem.additive if measure == "auto" else measure == "sum"
        mean = normalize == "mean" or (normalize == "auto" and not (adds and problem.additive))
        scores = np.zeros(len(problem.cost.whole()))
        for target, given in zip(problem.targets, problem.scores, strict=True):
            scale = (float(abs(given).mean()) or 1.0) if mean else 1.0
            low = 0.0 if adds else min(0.0, float(given.min(initial=0.0)))
            scores[target.units] = (given - low) / scale
        units = [target.units for target in problem.targets]
        totals = np.array([scores[one].sum() for one in units])
        ranks = {name: len(axes) for name, axes, *_ in problem.cost.tensors}
        read = [
            {name for name, _ in t.footprint if ranks.get(name, 0) > 1} for t in problem.targets
        ]
        weights = np.array([max(1.0, float(len(names))) for names in read])
        known = problem.losses if adds and not mean else ()
        curves = [np.concatenate([[0.0], one]) for one in known]
        return cls(scores, units, totals, weights, adds, curves)

    def lost(self, k: int, moves: Moves) -> Values:
        """Return what is lost of target `k` with 0, 1, 2, … moves."""
        if self.curves:
            places: Ids = np.concatenate([[0], moves.ends])
            return self.curves[k][places]
        each = np.cumsum(self.scores[moves.gone])[moves.ends - 1]
        gone: Values = np.concatenate([[0.0], each])
        return gone if self.adds else -self._worth(self.totals[k] - gone, k)

    def kept(self, alive: Mask) -> float:
        """Return the importance of what is alive."""
        if self.curves:
            gone = [int((~alive[one]).sum()) for one in self.units]
            return -float(sum(one[n] for one, n in zip(self.curves, gone, strict=True)))
        left = np.array([self.scores[one][alive[one]].sum() for one in self.units])
        if self.adds:
            return float(left.sum())
        return float(self._worth(left, slice(None)).sum())

    def _worth(self, left: Values, k: Any) -> Values:
        whole = np.maximum(self.totals[k], 1e-30)
        kept = np.clip(left / whole, LEAST, 1.0)
        found: Values = -self.weights[k] * np.square((1.0 - kept) / kept)
        return found
