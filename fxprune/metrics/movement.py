"""Movement: which weights training drives away from zero (Sanh et al. 2020, arXiv:2005.07683)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import fx

from fxprune.errors import CallbackError
from fxprune.metrics.footprint import parts, scored
from fxprune.metrics.learning import trained
from fxprune.metrics.registry import Evidence, Learned, Needs, Reduction, Scores, Seen, metric


@metric("movement")
@dataclass(frozen=True)
class Movement:
    """Learn a score S of every weight from the caller's fine-tuning: it falls by g·w.

    Each backward pass counts with its own gradient g, so that gradients accumulated over several
    passes count once. S has the shape of its parameter and is called "movement:<parameter>" in what
    is learned. Gradients that are not finite, as those of a loss scaled too far, are left out.

    In mode "hard" a unit's score is S summed over its weights, that is −Σ g·w: negative for what
    training shrinks; the paper keeps the top of it. In mode "soft" S descends the loss with the
    regulariser λ Σσ(S), λ being the `penalty`: each backward pass makes it

        S ← S − `rate` · (g·w / rms(g·w) + λ σ(S)(1 − σ(S))),  from S = 0,

    rms being over the tensor: without it, as in the paper, which has Adam take the scale out again,
    rate and penalty would depend on how large gradients are. A block has one S, moved by the sum of
    its g·w (Lagunas et al. 2021, arXiv:2109.04838), and so has a single weight; a unit of several
    tensors has the mean S of its weights. The score is σ(S), 1/2 at first, and the allocation
    "threshold" removes what falls below its own: how much, and of which tensor, is learned, more
    the higher the penalty.
    """

    mode: Literal["hard", "soft"] = "hard"
    rate: float = 0.05
    penalty: float = 0.0
    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "training"
    settles: ClassVar[bool] = False
    straight_through: ClassVar[bool] = True  # gradients reach masked weights, which may come back

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < inf or not 0.0 <= self.penalty < inf:
            raise ValueError(f"rate={self.rate:g} above 0, penalty={self.penalty:g} of 0 or more")
        if self.mode == "hard" and self.penalty:
            raise ValueError('a penalty is of mode = "soft"')
        if self.mode == "soft" and self.reduction != "sum":
            raise ValueError('a reduction is of mode = "hard": in "soft" a unit has one score')

    def watched(self, module: fx.GraphModule) -> list[str]:
        """Return the names of all parameters that the graph reads."""
        return trained(module)

    def observe(self, seen: Seen, learned: Learned) -> None:
        """Move the scores of a parameter by one backward pass."""
        if not bool(seen.gradient.isfinite().all()):
            return
        key, moved = f"movement:{seen.name}", seen.gradient.float() * seen.parameter.float()
        score = learned.setdefault(key, torch.zeros_like(moved))
        if self.mode == "soft":
            if seen.grid is not None:
                moved = seen.grid.together(moved)
            size = moved.square().mean().sqrt()
            moved = self.rate * (moved / size if size > 0 else moved)
            falls = score.sigmoid()
            moved += self.rate * self.penalty * falls * (1.0 - falls)
        score.sub_(moved)

    def settle(
        self, name: str, parameter: torch.Tensor, keep: torch.Tensor, learned: Learned
    ) -> None:
        """Do nothing: scores move with the gradients alone."""

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return ΣS a part, reduced over the parts, or σ(mean S); one array `[units]` a target.

        Raises CallbackError where no backward pass reached a weight of some target.
        """
        found = parts(evidence, lambda name, _: evidence.learned.get(f"movement:{name}"))
        total = scored(evidence, found, self.reduction, _unreached)
        if self.mode == "hard":
            return total

        def ones(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
            return torch.ones_like(tensor) if f"movement:{name}" in evidence.learned else None

        weights = scored(evidence, parts(evidence, ones), "sum")
        pairs = zip(total, weights, strict=True)
        return [_sigmoid(one / np.maximum(many, 1.0)) for one, many in pairs]


def _unreached(target: str) -> CallbackError:
    return CallbackError(
        f"fine_tune: no backward pass with finite gradients reached the weights of {target}, and "
        "movement learns from them; train them, or exclude it"
    )


def _sigmoid(scores: Scores) -> Scores:
    return 0.5 * (1.0 + np.tanh(0.5 * scores))
