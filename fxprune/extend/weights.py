"""Score units by what every one of their weights counts: all that most metrics need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from fxprune.metrics.footprint import parts, scored
from fxprune.metrics.registry import Evidence, Reduction, Scores


def weight_scores(
    evidence: Evidence,
    count: Callable[[torch.Tensor], torch.Tensor],
    *,
    within: Literal["sum", "max"] = "sum",
    reduction: Reduction = "sum",
) -> list[Scores]:
    """Return one array of scores `[units]` a target, from what each weight counts.

    `count(weights)` returns a tensor of the shape that it is given, entry by entry. What the
    weights of a unit count is added up `within` each parameter axis that the unit has a part in, or
    the largest is taken; `reduction` says how these become one.
    """
    found = parts(evidence, lambda _, tensor: count(tensor), within, elementwise=True)
    return scored(evidence, found, reduction)
