"""Moments of features and results, and the weights that fit them best."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxprune import distributed

HALVES = 2  # of the rows: each is fitted without the other, which tells how much to damp
DAMPING = (1e-8, 1e-5, 1e-3, 1e-2, 1e-1, 1.0)  # of which the best is taken
LARGE = 1024  # features from which on fewer are tried
COARSE = (1e-4, 1e-2, 1e-1)
TRIES = 4  # at a matrix that is not positive enough, each with a hundred times the damping
SMALLEST = 1e-9  # of a variance, relative to the mean of all results: below, it is none
NEVER = float("inf")  # the damping that keeps the weights as they are


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold `XᵀX` `[B, K, K]`, `XᵀY` `[B, K, N]` and `ΣY²` `[B, N]` of blocks of rows, in float64.

    With an `intercept` the last feature is 1. Where it is `free`, something after the results
    corrects what it says: errors count up to a constant.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    rows: float = 0.0
    intercept: bool = False
    free: bool = False

    @classmethod
    def none(
        cls, sizes: torch.Size, device: torch.device, *, intercept: bool, free: bool
    ) -> Moments:
        """Return the moments of no rows at all, for weights of sizes `[B, K, N]`."""
        blocks, features, results = sizes
        wide = features + intercept
        shapes = (blocks, wide, wide), (blocks, wide, results), (blocks, results)
        xx, xy, yy = (torch.zeros(one, dtype=torch.float64, device=device) for one in shapes)
        return cls(xx, xy, yy, 0.0, intercept, free)

    @property
    def bytes(self) -> int:
        """Return the bytes of the sums."""
        return 8 * (self.xx.numel() + self.xy.numel() + self.yy.numel())

    def with_rows(self, x: Tensor, y: Tensor) -> Moments:
        """Add rows, `[B, rows, K]` and `[B, rows, N]`, to the sums, in place."""
        x, y = x.double(), y.double()
        if self.intercept:
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
        self.xx.add_(x.transpose(1, 2) @ x)
        self.xy.add_(x.transpose(1, 2) @ y)
        self.yy.add_(y.square().sum(1))
        return replace(self, rows=self.rows + x.shape[1])

    def __add__(self, other: Moments) -> Moments:
        xx, xy, yy = self.xx + other.xx, self.xy + other.xy, self.yy + other.yy
        return Moments(xx, xy, yy, self.rows + other.rows, self.intercept, self.free)

    def gathered(self) -> Moments:
        """Return the sums over all processes of a job."""
        xx, xy, yy = (distributed.summed(one) for one in (self.xx, self.xy, self.yy))
        rows = float(distributed.summed(torch.tensor([self.rows], dtype=torch.float64)))
        return Moments(xx, xy, yy, rows, self.intercept, self.free)

    def finite(self) -> bool:
        """Tell whether all sums are finite numbers."""
        return all(bool(one.sum().isfinite()) for one in (self.xx, self.xy, self.yy))

    def error(self, weights: Tensor) -> float:
        """Return `Σ|Y − XW|²` of weights `[B, K, N]`, with the best constant where it is free."""
        return max(0.0, float(self._errors(weights).sum()))

    def evened(self, weights: Tensor) -> float:
        """Return the error; where it is free, as a norm counts it: relative, result by result."""
        if not self.free:
            return self.error(weights)
        whole = (self.yy - self.xy[:, -1].square() / max(self.rows, 1.0)).clamp(min=0.0)
        alive = whole > SMALLEST * whole.mean()
        found = self._errors(weights).clamp(min=0.0)
        return float((found / torch.where(alive, whole, 1.0))[alive].sum())

    def _errors(self, weights: Tensor) -> Tensor:
        if self.free:
            weights = self._centred(weights)
        return self.yy + (weights * (self.xx @ weights - 2.0 * self.xy)).sum(1)

    def size(self) -> float:
        """Return what errors are relative to: the results' squares, about their means if free."""
        mean = self.xy[:, -1].square() / max(self.rows, 1.0) if self.free else 0.0
        return max(float((self.yy - mean).sum()), 1e-300)

    def _centred(self, weights: Tensor) -> Tensor:
        left = self.xy[:, -1] - (self.xx[:, -1:, :-1] @ weights[:, :-1])[:, 0]
        best = left / self.xx[:, -1:, -1].clamp(min=1.0)
        return torch.cat([weights[:, :-1], best[:, None]], 1)

    def solved(self, kept: Tensor, damping: float) -> Tensor:
        """Return the weights that minimise `Σ|Y − XW|² + λ·d·|W − W₀|²`, `d` the mean of diag(XᵀX).

        Where the matrix has no Cholesky factor λ grows; where all fails they are those kept.
        """
        many = self.xx.shape[1] - self.intercept
        diagonal = self.xx.diagonal(dim1=1, dim2=2)
        mean = diagonal[:, :many].mean(1, keepdim=True).expand(-1, many)
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))
        towards = self.xy - self.xx @ kept
        for attempt in range(TRIES if damping != NEVER else 0):
            ridge = mean * max(damping, 1e-12) * 100.0**attempt
            if self.intercept:
                ridge = torch.cat([ridge, 1e-12 * diagonal[:, -1:]], 1)
            factor, wrong = torch.linalg.cholesky_ex(self.xx + torch.diag_embed(ridge))
            if not bool(wrong.any()):
                found = kept + torch.cholesky_solve(towards, factor)
                return found if bool(found.isfinite().all()) else kept
        return kept


def best_damping(halves: tuple[Moments, Moments], kept: Tensor) -> float:
    """Return the damping with which each half of the rows tells the other best.

    It is infinite where nothing is better than the weights that were kept.
    """
    first, second = halves
    if not first.rows or not second.rows:
        return DAMPING[-1]
    tried = (NEVER, *(DAMPING if kept.shape[1] < LARGE else COARSE))
    errors = {
        one: second.evened(first.solved(kept, one)) + first.evened(second.solved(kept, one))
        for one in tried
    }
    best: float = min(tried, key=lambda one: (errors[one], one))
    return best
