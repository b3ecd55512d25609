"""Reductions and other operators that take statistics along an axis."""

from __future__ import annotations

from typing import Any

import torch

from fxprune.guards import Ids, true
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten

# a zero adds nothing to these, so that dropping it is exact
NEUTRAL_ZERO = [
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.linalg_vector_norm.default,
    aten.norm.Scalar,
    aten.norm.ScalarOpt_dim,
    aten.any.default,
    aten.any.dim,
    aten.count_nonzero.dim_IntList,
]
STATISTICS = [
    aten.mean.default,
    aten.mean.dim,
    aten.amax.default,
    aten.amin.default,
    aten.aminmax.default,
    aten.max.default,
    aten.max.dim,
    aten.min.default,
    aten.min.dim,
    aten.prod.default,
    aten.prod.dim_int,
    aten.all.default,
    aten.all.dim,
    aten.var.correction,
    aten.var.dim,
    aten.var_mean.correction,
    aten.std.correction,
    aten.std.dim,
    aten.logsumexp.default,
]
KEEP_ZERO = {"sum", "mean", "amax", "amin", "max", "min", "linalg_vector_norm", "norm", "prod"}


def _dims(site: Site, rank: int) -> set[int]:
    given = site.args.get("dim")
    if given is None or given == []:
        return set(range(rank))
    return {int(d) % max(1, rank) for d in (given if isinstance(given, (list, tuple)) else [given])}


@couples(*NEUTRAL_ZERO, *STATISTICS)
def reduce(site: Site) -> Any:
    """Reduce some axes; their removal is exact where a zero is neutral and they are zero."""
    x = site.tensor("self")
    gone = _dims(site, len(x.dims))
    exact = site.node.target in NEUTRAL_ZERO
    for d in gone:
        if not (exact and x.zero[d]):
            site.approximate(x.dims[d], f"{site.node.target} takes statistics over this axis")
    keep = bool(site.args.get("keepdim", False))
    name = str(site.node.target._schema.name).split("::")[-1]
    dims: list[Ids] = []
    zeros: list[bool] = []
    for d, g in enumerate(x.dims):
        if d not in gone or keep:
            dims.append(true(1) if d in gone else g)
            zeros.append(d not in gone and name in KEEP_ZERO and x.zero[d])
    result = TensorGuard(tuple(dims), tuple(zeros))
    value = site.node.meta["val"]
    if not isinstance(value, (tuple, list)):
        return result
    if site.node.target in (aten.max.dim, aten.min.dim):
        for d in gone:
            site.pin(x.dims[d], "the result holds indices into this axis")
    return tuple(result for _ in value)


@couples(
    aten.softmax.int,
    aten._softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
    aten._safe_softmax.default,
)
def softmax(site: Site) -> TensorGuard:
    """Normalise along one axis; its removal is approximate. The axis before the last two: heads."""
    x = site.tensor("self")
    dim = int(site.args["dim"]) % max(1, len(x.dims))
    site.approximate(x.dims[dim], f"{site.node.target} takes statistics over this axis")
    if len(x.dims) >= 3 and dim == len(x.dims) - 1:
        site.role(x.dims[-3], "head")
    return TensorGuard(x.dims, (False,) * len(x.dims))


@couples(aten.cumsum.default)
def cumsum(site: Site) -> TensorGuard:
    """Sum along an axis: a zero adds nothing, and its own place leaves with it."""
    x = site.tensor("self")
    dim = int(site.args["dim"]) % max(1, len(x.dims))
    if not x.zero[dim]:
        site.approximate(x.dims[dim], "cumsum adds what is dropped to what follows")
    zeros = tuple(zero and d != dim for d, zero in enumerate(x.zero))
    return TensorGuard(x.dims, zeros)


@couples(aten.argmax.default, aten.argmin.default, aten.topk.default, aten.sort.default)
def order(site: Site) -> Any:
    """Pin the axis that is ranked: the result holds indices into it."""
    x = site.tensor("self")
    given = site.args.get("dim")
    ranked = set(range(len(x.dims))) if given is None else {int(given) % max(1, len(x.dims))}
    for d in ranked:
        site.pin(x.dims[d], "the result holds indices into this axis")
    value = site.node.meta["val"]
    several = isinstance(value, (tuple, list))
    first = value[0] if several else value
    dims: list[Ids] = []
    rest = iter([g for d, g in enumerate(x.dims) if d not in ranked])
    for d in range(first.ndim):
        kept_rank = first.ndim == len(x.dims)
        dims.append(true(int(first.shape[d])) if kept_rank and d in ranked else _next(x, d, rest, kept_rank))
    result = TensorGuard(tuple(dims), (False,) * len(dims))
    return tuple(result for _ in value) if several else result


def _next(x: TensorGuard, d: int, rest: Any, kept_rank: bool) -> Ids:
    return x.dims[d] if kept_rank else next(rest)


@couples(aten.tril.default, aten.triu.default)
def triangle(site: Site) -> TensorGuard:
    """Keep the last two axes, whose positions are compared."""
    x = site.tensor("self")
    for g in x.dims[-2:]:
        site.pin(g, "positions along this axis are compared")
    return x
