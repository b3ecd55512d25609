"""Remove features one after the other, the rest being refitted: what is lost, and in which order.

With `P = (E[x xᵀ] + λ)⁻¹` over the features that are left, removing those of a unit, `S`, costs
`tr(W_Sᵀ P_SS⁻¹ W_S)` once the rest is refitted; then `W ← W − P_·S P_SS⁻¹ W_S` and
`P ← P − P_·S P_SS⁻¹ P_S·` (Hassibi & Stork 1992; in blocks, arXiv:2203.07259 and 2302.04089).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxprune.guards import Ids

ROUNDS = 64  # units go one by one where so many are left, and else this share of them at once
DAMPING = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of which the best is taken
TRIES = 4  # at a matrix that is not positive enough, each with a hundred times the damping
Losses = NDArray[np.float64]


class Block:
    """Hold the features that are left of one matrix, and what its results lose without some.

    `owners` says of each feature `[K]` which unit it belongs to, −1 for none.
    """

    def __init__(self, moments: Tensor, weights: Tensor, owners: Ids, damping: float) -> None:
        self._inverse = inverted(moments, damping)
        self._weights, self._owners = weights.clone(), owners

    def losses(self, units: int) -> Losses:
        """Return what is lost with each unit, `[units]`, 0 where it has no feature here."""
        found = np.zeros(units)
        order = np.argsort(self._owners, kind="stable")
        order = order[self._owners[order] >= 0]
        owners, starts, sizes = np.unique(
            self._owners[order], return_index=True, return_counts=True
        )
        for size in np.unique(sizes):
            mine = sizes == size
            at = torch.from_numpy(order[starts[mine][:, None] + np.arange(size)])
            at = at.to(self._weights.device)
            squares = self._inverse[at[:, :, None], at[:, None, :]]
            weights = self._weights[at]
            solved = torch.linalg.solve_ex(squares, weights)[0]
            lost = (weights * solved).sum((1, 2)).clamp(min=0.0)
            found[owners[mine]] = lost.cpu().numpy()
        return found

    def remove(self, units: Ids) -> float:
        """Remove the features of some units, refit the others, and return what is lost."""
        gone = np.isin(self._owners, units)
        if not gone.any():
            return 0.0
        out = torch.from_numpy(np.flatnonzero(gone)).to(self._weights.device)
        left = torch.from_numpy(np.flatnonzero(~gone)).to(self._weights.device)
        inverse, weights = self._inverse, self._weights
        rows = inverse.index_select(0, out)
        square, beside = rows.index_select(1, out), rows.index_select(1, left)
        given = weights.index_select(0, out)
        solved = torch.linalg.solve_ex(square, torch.cat([given, beside], 1))[0]
        first, second = solved[:, : given.shape[1]], solved[:, given.shape[1] :]
        self._weights = weights.index_select(0, left) - beside.T @ first
        self._inverse = inverse.index_select(0, left).index_select(1, left)
        self._inverse.addmm_(beside.T, second, alpha=-1.0)
        self._owners = self._owners[~gone]
        return max(0.0, float((given * first).sum()))


def best_damping(halves: Sequence[Tensor], weights: Tensor, owners: Ids) -> float:
    """Return the damping with which each half of the rows tells the other best.

    What every other unit says is foretold from the rest: with few rows, little of it can be.
    """
    gone = (owners >= 0) & (owners % 2 == 0)
    if len(halves) < 2 or gone.all() or not gone.any():
        return DAMPING[2]
    out, left = (torch.from_numpy(np.flatnonzero(one)).to(weights.device) for one in (gone, ~gone))
    given = weights.index_select(0, out)
    parts = [_parts(one, out, left, given) for one in halves]
    errors = dict.fromkeys(DAMPING, 0.0)
    for (square, beside, _), (other, across, whole) in (parts, parts[::-1]):
        values, vectors = torch.linalg.eigh(square)
        turned, scale = vectors.T @ beside, float(values.mean().clamp(min=1e-300))
        for one in DAMPING:
            made = vectors @ (turned / (values.clamp(min=0.0) + one * scale)[:, None])
            errors[one] += float(
                whole - 2.0 * (made * across).sum() + (made * (other @ made)).sum()
            )
    return min(DAMPING, key=lambda one: (errors[one], -one))


def _parts(
    moments: Tensor, out: Tensor, left: Tensor, given: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Return E[x xᵀ] of what is left, E[x y] with what the others say, y, and E[y²]."""
    rows = moments.index_select(0, left)
    beside = rows.index_select(1, out) @ given
    whole = (given * (moments.index_select(0, out).index_select(1, out) @ given)).sum()
    return rows.index_select(1, left), beside, float(whole)


def inverted(moments: Tensor, damping: float) -> Tensor:
    """Return the inverse of moments `[K, K]`, damped relative to the mean of their diagonal."""
    scale = float(moments.diagonal().mean())
    scale = scale if scale > 0.0 else 1.0
    eye = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    for attempt in range(TRIES):
        damped = moments + max(damping, 1e-10) * scale * 100.0**attempt * eye
        factor, wrong = torch.linalg.cholesky_ex(damped)
        if not bool(wrong):
            return torch.cholesky_inverse(factor)
    return eye / scale


def eliminated(blocks: Sequence[Block], units: int) -> tuple[Ids, Losses]:
    """Return the units in the order in which they go, and what is lost with the first 1, 2, ….

    The next is that which the results of all blocks together need least. Where many are left,
    several go at once; the loss is that of all of them.
    """
    left, order, steps = np.arange(units), list[Ids](), list[Losses]()
    while len(left):
        losses = np.zeros(units)
        for block in blocks:
            losses += block.losses(units)
        many = max(1, len(left) // ROUNDS)
        least = np.argsort(losses[left], kind="stable")[:many]
        gone = left[least]
        total = sum(block.remove(gone) for block in blocks)
        single = losses[gone]
        share = single / single.sum() if single.sum() > 0.0 else np.full(many, 1.0 / many)
        order.append(gone)
        steps.append(total * share)
        left = np.delete(left, least)
    return np.concatenate(order), np.cumsum(np.concatenate(steps))
