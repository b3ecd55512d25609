"""Chance: the baseline that every metric has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fxprune.metrics.registry import Evidence, Needs, Scores, metric


@metric("random")
@dataclass(frozen=True)
class Random:
    """Draw a number in [0, 1) for each unit, the same ones for the same `seed`."""

    seed: int = 0
    needs: ClassVar[Needs] = "nothing"
    grain: ClassVar[tuple[str, ...]] = ("units", "weights", "activations")

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return uniform random numbers, one array `[units]` a target."""
        random = np.random.default_rng(abs(self.seed))
        return [random.random(len(target)) for target in evidence.targets]
