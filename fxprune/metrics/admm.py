"""Alternating directions: train towards what is kept (Zhang et al. 2018, arXiv:1804.03294)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import fx

from fxprune.metrics.footprint import parts, scored, single
from fxprune.metrics.learning import begins, trained
from fxprune.metrics.registry import Evidence, Learned, Needs, Reduction, Scores, Seen, metric


@metric("admm")
@dataclass(frozen=True)
class Admm:
    """Take ‖W + U‖₂ over the unit's weights, while they train on the loss + (ρ/2)‖W − Z + U‖².

    After the first fine-tuning Z = Π(W) and U = 0, Π setting to zero what would be removed in the
    end; after each further one Z = Π(W + U), and then U grows by W − Z, in the warm-up and between
    the steps of a schedule alike. A warm-up of k trains towards Z in k − 1 rounds: give it 2 or
    more. Z and U have the shape of their parameter
    and are called "admm-z:<parameter>" and "admm-u:<parameter>" in what is learned. Parameters of
    which everything would be kept train freely.
    """

    rho: float = 1e-3
    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "training"
    settles: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 < self.rho < float("inf"):
            raise ValueError(f"rho={self.rho:g}: a number above 0 is needed")

    def watched(self, module: fx.GraphModule) -> list[str]:
        """Return the names of all parameters that the graph reads."""
        return trained(module)

    def observe(self, seen: Seen, learned: Learned) -> torch.Tensor | None:
        """Return the gradient with ρ(W − Z + U) added, once a step of the optimizer."""
        weight, gradient = seen.parameter, seen.gradient
        goal, gap = learned.get(f"admm-z:{seen.name}"), learned.get(f"admm-u:{seen.name}")
        if goal is None or gap is None or not begins(weight):
            return None
        return gradient + self.rho * (weight - goal + gap).to(gradient.dtype)

    def settle(
        self, name: str, parameter: torch.Tensor, keep: torch.Tensor, learned: Learned
    ) -> None:
        """Project W + U on what would be kept, and let U grow by what W lacks of that."""
        if bool(keep.all()):
            learned.pop(f"admm-z:{name}", None)
            learned.pop(f"admm-u:{name}", None)
            return
        gap, weight = learned.get(f"admm-u:{name}"), parameter.detach().float()
        goal = (weight if gap is None else weight + gap) * keep
        learned[f"admm-z:{name}"] = goal
        learned[f"admm-u:{name}"] = torch.zeros_like(goal) if gap is None else gap + weight - goal

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return the root of Σ(w + u)² reduced over the parts, one array `[units]` a target."""

        def squares(name: str, tensor: torch.Tensor) -> torch.Tensor:
            gap = evidence.learned.get(f"admm-u:{name}")
            whole = single(tensor) if gap is None else single(tensor) + gap
            return whole.abs().square()

        found = scored(evidence, parts(evidence, squares), self.reduction)
        return [np.sqrt(one) for one in found]
