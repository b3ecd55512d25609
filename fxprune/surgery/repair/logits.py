"""Queries and keys that lose head dims together keep their logits, as far as their rank allows.

The logits of a head are `Q Kᵀ`, so any `Q M` and `K N` with `M Nᵀ` near the identity will do, not
only those that keep some of the dims. With `A = E[QᵀQ]` and `B = E[KᵀK]`, the best of rank r takes
the first singular vectors of `A^½ B^½ = U S Vᵀ`: `M = A^-½ U_r S_r^½` and `N = B^-½ V_r S_r^½`,
the truncation of `Q Kᵀ` where all queries meet all keys (Eckart & Young 1936; of the weights alone
it is that of LoRAP, arXiv:2404.09695). What all keys of an example have in common, softmax does not
see: it is left out of B. What is taken is never worse than the dims that were kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune import distributed
from fxprune.errors import CalibrationError
from fxprune.graphs import attribute, tensors_of
from fxprune.surgery.repair.activations import Memory
from fxprune.surgery.repair.lockstep import Side
from fxprune.surgery.repair.queries import ATTENTION, PRODUCTS, Logits, Operand, Pairs, logits_of
from fxprune.surgery.repair.refitting import NOT_FINITE, Refit
from fxprune.surgery.repair.walk import Mix, Pair
from fxprune.surgery.repair.weights import Entries

EXAMPLES = 256  # by which is told what logits lose
SMALLEST = 1e-10  # of a moment, relative to the largest: below, a direction is not there


def mixed(
    original: fx.GraphModule,
    smaller: fx.GraphModule,
    pairs: Pairs,
    batches: Sequence[Sequence[Any]],
    memory: Memory,
    spared: Mapping[str, str],
) -> tuple[dict[fx.Node, Pair], list[Refit]]:
    """Write mixed queries and keys into the smaller graph, which is owned, where that helps.

    Return the pairs, which now expect them, and what it brought: relative squared errors of the
    logits. Raises CalibrationError where queries or keys are not finite.
    """
    found, refits, changed = list[Logits](), list[Refit](), dict(pairs)
    for node, pair in pairs.items():
        if node.op == "call_function" and node.target in PRODUCTS:
            one = logits_of(original, smaller, pair.node, pairs, spared)
            if isinstance(one, Logits):
                found.append(one)
            elif one:
                refits.append(Refit(node.name, "", float("nan"), float("nan"), why=one))
    side = Side(original, batches, memory) if found else None
    for one in found:
        assert side is not None
        began = time.perf_counter()
        side.advance(one.node, inclusive=False)
        queries, keys, before, after = _solved(one, side)
        if after < before:
            for operand, matrices in ((one.queries, queries), (one.keys, keys)):
                _mix(original, smaller, changed, operand, matrices)
        seconds, done = time.perf_counter() - began, 0.0 if after < before else None
        refits.append(Refit(one.node.name, "", before, min(before, after), done, seconds=seconds))
    return changed, refits


# ---- the best of a rank --------------------------------------------------------------------------


def _solved(one: Logits, side: Side) -> tuple[Tensor, Tensor, float, float]:
    """Return the matrices of queries and keys `[heads, d, r]`, and the errors before and after."""
    sums, listed = _moments(one, side)
    heads, d = one.queries.columns.shape
    rank = int(one.queries.stays[one.groups[0][0]].sum())
    shape = heads, d, rank
    first, second = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    before = after = whole = 0.0
    for group in one.groups:
        mine = list(group)
        m, n = truncated(sums[0][mine].sum(0), sums[1][mine[0]], rank)
        kept = torch.eye(d, dtype=torch.float64)[:, one.queries.stays[mine[0]]]
        same = torch.eye(d, dtype=torch.float64)
        gone = (same, same - kept @ kept.T, same - m @ n.T)
        lost = distributed.total(np.array([_lost(listed, mine, each) for each in gone])).tolist()
        if not lost[2] < lost[1]:
            m = n = kept
        first[mine], second[mine] = m, n
        whole, before, after = whole + lost[0], before + lost[1], after + min(lost[1:])
    size = max(whole, 1e-300)
    return first, second, before / size, after / size


def truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return `M` and `N` `[d, r]` that minimise `|A^½ (I − M Nᵀ) B^½|`."""
    (root, inverse), (other, back) = _roots(a), _roots(b)
    u, s, vh = torch.linalg.svd(root @ other)
    size = s[:rank].sqrt()
    return inverse @ u[:, :rank] * size, back @ vh[:rank].T * size


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root of a moment and its inverse, where it is not zero."""
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    there = values > SMALLEST * values.max().clamp(min=1e-300)
    root = torch.where(there, values, 0.0).sqrt()
    back = torch.where(there, 1.0 / root.clamp(min=1e-300), 0.0)
    return (vectors * root) @ vectors.T, (vectors * back) @ vectors.T


def _moments(one: Logits, side: Side) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Return `E[QᵀQ]` and `E[KᵀK]` `[heads, d, d]`, and those of some examples by themselves."""
    sums, listed, many = list[Tensor](), list[tuple[Tensor, Tensor]](), 0
    heads = len(one.queries.columns)
    for number, values in enumerate(side.values):
        q, k = (values[operand.node].double().cpu() for operand in (one.queries, one.keys))
        k = k if one.node.target is ATTENTION else k.transpose(-1, -2)
        q, k = q.reshape(-1, heads, *q.shape[-2:]), k.reshape(len(q), -1, *k.shape[-2:])
        k = k.reshape(len(q), -1, *k.shape[-2:])
        if one.node.target is ATTENTION:
            k = k - k.mean(-2, keepdim=True)
        both = q.transpose(-1, -2) @ q, k.transpose(-1, -2) @ k
        both = both[0], both[1].repeat_interleave(heads // both[1].shape[1], 1)
        if not all(bool(each.sum().isfinite()) for each in both):
            raise CalibrationError(NOT_FINITE.format(one.node.name, number))
        added = [each.sum(0) for each in both]
        sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
        if many < EXAMPLES:
            listed.append((both[0][: EXAMPLES - many], both[1][: EXAMPLES - many]))
            many += len(both[0])
    return [distributed.summed(each) for each in sums], listed


def _lost(listed: Sequence[tuple[Tensor, Tensor]], heads: list[int], gone: Tensor) -> float:
    """Return `Σ|Q G Kᵀ|²` over the examples, for what is gone, `G`."""
    return sum(float(((gone.T @ q[:, heads] @ gone) * k[:, heads]).sum()) for q, k in listed)


# ---- what is written -----------------------------------------------------------------------------


def _mix(
    original: fx.GraphModule,
    smaller: fx.GraphModule,
    pairs: dict[fx.Node, Pair],
    one: Operand,
    matrices: Tensor,
) -> None:
    """Write the mixed columns of a contraction down, and let its pair expect them."""
    unique: dict[tuple[int, ...], int] = {}
    for head, columns in enumerate(one.columns.tolist()):
        if bool(one.stays[head].any()) and bool(matrices[head].any()):
            unique.setdefault(tuple(columns), head)
    heads = list(unique.values())
    places = torch.stack([one.columns[head][one.stays[head]] for head in heads])
    mix = Mix(one.flow.dims, one.columns[heads], matrices[heads], places)
    ours, source = one.ours.node, one.flow.source
    pairs[ours] = replace(pairs[ours], mixes=(*pairs[ours].mixes, mix))
    axes = {str(n.target): pair.kept for n, pair in pairs.items() if n.op == "get_attr"}
    _write(original, smaller, source.weight, source.places[0], mix, axes)
    if source.bias is not None and source.shift is not None:
        _write(original, smaller, source.bias, source.shift, mix, axes)


def _write(
    original: fx.GraphModule,
    smaller: fx.GraphModule,
    entries: Entries,
    places: Tensor,
    mix: Mix,
    axes: Mapping[str, tuple[Tensor | None, ...]],
) -> None:
    """Mix a weight of the original, `places` `[K, N]`, and write what is kept of it."""
    whole = attribute(original, entries.name).detach()
    flat, marked = whole.reshape(-1).clone(), torch.zeros(whole.numel(), dtype=torch.bool)
    numbered = Mix((1,), mix.columns, mix.matrices, mix.places)
    flat[places] = numbered(flat[places])
    marked[places.cpu()[:, mix.places.flatten()]] = True
    new, where = flat.reshape(whole.shape), marked.reshape(whole.shape).to(whole.device)
    for dim, index in enumerate(axes.get(entries.name, ())):
        if index is not None:
            new, where = (t.index_select(dim, index.to(t.device)) for t in (new, where))
    own = tensors_of(smaller)[entries.name]
    with torch.no_grad():
        own.data.copy_(torch.where(where, new, own))
