"""The learned scales of norms (Liu et al. 2017, network slimming, arXiv:1708.06519)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxprune.errors import SpecError
from fxprune.graphs import arguments
from fxprune.metrics.footprint import parameters, parts, scored
from fxprune.metrics.learning import begins, trained
from fxprune.metrics.registry import Evidence, Learned, Needs, Reduction, Scores, Seen, metric


@metric("slim")
@dataclass(frozen=True)
class Slim:
    """Take |γ| of the norms that scale the unit: what slimming trains towards zero.

    The channels of a residual stream pass several norms; their scales are averaged unless
    `reduction` says otherwise. A target that no norm scales cannot be scored so. With a `penalty`
    λ above 0 the caller's fine-tuning minimises its loss + λ Σ|γ| over the weights γ of all norms:
    λ·sign(γ) is added to their gradients, once a step of the optimizer. That needs training before
    the first removal; the paper takes 1e-4 or 1e-5, and one-shot with a warm-up.
    """

    reduction: Reduction = "mean"
    penalty: float = 0.0
    needs: ClassVar[Needs] = "nothing"
    settles: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.penalty < float("inf"):
            raise ValueError(f"penalty={self.penalty:g}: 0 or more is needed")
        if self.penalty:  # of this one metric, not of its class: scales that trained need no more
            object.__setattr__(self, "needs", "training")

    def watched(self, module: fx.GraphModule) -> list[str]:
        """Return the names of the weights of all norms; none where there is no penalty."""
        nodes = module.graph.find_nodes(op="get_attr") if self.penalty else ()
        scales = {str(node.target) for node in nodes if is_scale(node)}
        return [name for name in trained(module) if name in scales]

    def observe(self, seen: Seen, learned: Learned) -> torch.Tensor | None:
        """Return the gradient with λ·sign(γ) added, once a step of the optimizer."""
        if not begins(seen.parameter):
            return None
        return seen.gradient + self.penalty * seen.parameter.sign()

    def settle(
        self, name: str, parameter: torch.Tensor, keep: torch.Tensor, learned: Learned
    ) -> None:
        """Do nothing: the penalty is the same for all."""

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return |γ| reduced over the norms, one array `[units]` a target.

        Raises SpecError where units of a target pass no norm with a weight.
        """
        scales = {str(node.target) for node, *_ in parameters(evidence) if is_scale(node)}
        found = parts(evidence, lambda name, tensor: tensor.abs() if name in scales else None)
        return scored(evidence, found, self.reduction, _unscaled)


def _unscaled(target: str) -> SpecError:
    return SpecError(
        f"metric: slim: no norm with a weight scales {target}; exclude it, or choose another metric"
    )


def is_scale(node: fx.Node) -> bool:
    """Tell whether a parameter is the weight of a normalisation."""
    return any(
        isinstance(user.target, torch._ops.OpOverload)
        and "norm" in user.target._schema.name
        and arguments(user).get("weight") is node
        for user in node.users
    )
