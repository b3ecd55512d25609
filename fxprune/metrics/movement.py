"""Movement: which weights training drives away from zero (Sanh et al. 2020, arXiv:2005.07683)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxprune.errors import CallbackError
from fxprune.metrics.footprint import of_targets, parts, reduced
from fxprune.metrics.learning import trained
from fxprune.metrics.registry import Evidence, Learned, Needs, Reduction, Scores, metric


@metric("movement")
@dataclass(frozen=True)
class Movement:
    """Sum S over the unit's weights, S of a weight being −Σ g·w over the caller's fine-tuning.

    Each backward pass subtracts its own gradient times the weight, so that gradients accumulated
    over several passes count once. S is negative for weights that training shrinks; it has the
    shape of its parameter and is called "movement:<parameter>" in what is learned. Gradients that
    are not finite, as those of a loss scaled too far, are left out.
    """

    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "training"
    settles: ClassVar[bool] = False
    straight_through: ClassVar[bool] = True  # gradients reach masked weights, which may come back

    def watched(self, module: fx.GraphModule) -> list[str]:
        """Return the names of all parameters that the graph reads."""
        return trained(module)

    def observe(
        self, name: str, parameter: torch.nn.Parameter, gradient: torch.Tensor, learned: Learned
    ) -> None:
        """Subtract gradient × weight from what was learned of the weights."""
        if bool(gradient.isfinite().all()):
            moved = gradient.float() * parameter.float()
            known = learned.get(f"movement:{name}")
            learned[f"movement:{name}"] = -moved if known is None else known.sub_(moved)

    def settle(
        self, name: str, parameter: torch.Tensor, keep: torch.Tensor, learned: Learned
    ) -> None:
        """Do nothing: scores move with the gradients alone."""

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return ΣS a part, reduced over the parts; one array `[units]` a target.

        Raises CallbackError where no backward pass reached a weight of some target.
        """
        found = parts(evidence, lambda name, _: evidence.learned.get(f"movement:{name}"))
        total, count = reduced(found, self.reduction, evidence.coupling.guards.size)
        for target in evidence.targets:
            if not count[target.units].all():
                raise CallbackError(
                    f"fine_tune: no backward pass with finite gradients reached the weights of "
                    f"{target.name}, and movement learns from them; train them, or exclude it"
                )
        return of_targets(evidence, total)
