"""The learned scales of norms (Liu et al. 2017, network slimming, arXiv:1708.06519)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxprune.errors import SpecError
from fxprune.metrics.footprint import of_targets, parameters, parts, reduced
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric
from fxprune.rules.site import arguments


@metric("slim")
@dataclass(frozen=True)
class Slim:
    """Take |γ| of the norms that scale the unit: what slimming trains towards zero.

    The channels of a residual stream pass several norms; their scales are averaged unless
    `reduction` says otherwise. A target that no norm scales cannot be scored so.
    """

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "nothing"

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return |γ| reduced over the norms, one array `[units]` a target.

        Raises SpecError where units of a target pass no norm with a weight.
        """
        scales = {str(node.target) for node, *_ in parameters(evidence) if is_scale(node)}
        found = parts(evidence, lambda name, tensor: tensor.abs() if name in scales else None)
        total, count = reduced(found, self.reduction, evidence.coupling.guards.size)
        for target in evidence.targets:
            if not count[target.units].all():
                raise SpecError(
                    f"metric: slim: no norm with a weight scales {target.name}; exclude it, or "
                    "choose another metric"
                )
        return of_targets(evidence, total)


def is_scale(node: fx.Node) -> bool:
    """Tell whether a parameter is the weight of a normalisation."""
    return any(
        isinstance(user.target, torch._ops.OpOverload)
        and "norm" in user.target._schema.name
        and arguments(user).get("weight") is node
        for user in node.users
    )
