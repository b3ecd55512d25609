"""Statistics of norms: corrected by what pruning changed, never estimated anew.

What a norm of the smaller graph is given is compared with what that of the original is given on the
same data, and its own statistics are carried along. Calibration data are not the training data, and
plain estimates would move the statistics even where nothing was removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxprune import distributed
from fxprune.graphs import arguments, attribute

aten = torch.ops.aten
SMALLEST = 1e-9  # of a variance, relative to the mean of all channels: below, it is none
SAME = 1e-5  # relative difference up to which statistics are what they were
NORMS = {
    aten.batch_norm.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
}


@dataclass(frozen=True)
class Statistics:
    """Hold mean and variance of each channel, float64 `[channels]`."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, sums: Tensor) -> Statistics:
        """Return the statistics of `[3, channels]`: the entries, their sum and that of squares."""
        count, first, second = distributed.summed(sums)
        mean = first / count
        return cls(mean, (second / count - mean.square()).clamp(min=0.0))


def sums_of(given: Iterable[Tensor]) -> Tensor:
    """Return count, sum and sum of squares of activations `[n, channels, …]`, a channel each."""
    sums: list[Tensor] = []
    for x in given:
        rows = x.double().movedim(1, 0).flatten(1)
        count = torch.full_like(rows[:, 0], rows.shape[1])
        sums.append(torch.stack([count, rows.sum(1), rows.square().sum(1)]))
    return torch.stack(sums).sum(0)


def statistics_of(module: fx.GraphModule, node: fx.Node) -> tuple[str, str] | None:
    """Return the names of the mean and variance that a norm in evaluation uses, if it has any."""
    if node.target not in NORMS:
        return None
    given = arguments(node)
    read = given["running_mean"], given["running_var"]
    names = [str(one.target) for one in read if isinstance(one, fx.Node) and one.op == "get_attr"]
    found = [attribute(module, name) for name in names]
    if given.get("training") or len(names) != 2:
        return None
    return (names[0], names[1]) if all(isinstance(one, Tensor) for one in found) else None


def moved(original: Statistics, smaller: Statistics) -> bool:
    """Tell whether statistics differ by more than rounding."""
    scale = original.variance.sqrt() + SMALLEST
    mean = ((smaller.mean - original.mean).abs() > SAME * (scale + original.mean.abs())).any()
    return bool(mean) or bool((smaller.variance.sqrt() / scale - 1.0).abs().max() > SAME)


def corrected(
    mean: Tensor, variance: Tensor, original: Statistics, smaller: Statistics
) -> tuple[Tensor, Tensor]:
    """Return `m_p + (μ − m_o)·r` and `σ²·r²`, with `r² = v_p / v_o`.

    A channel that has no variance in one of the two keeps its scale.
    """
    living = torch.ones_like(original.mean, dtype=torch.bool)
    for one in (original, smaller):
        living &= one.variance > SMALLEST * one.variance.mean()
    square = torch.where(living, smaller.variance / original.variance, 1.0)
    shifted = smaller.mean + (mean.double() - original.mean) * square.sqrt()
    return shifted.to(mean.dtype), (variance.double() * square).to(variance.dtype)
