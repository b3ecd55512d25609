"""Reductions and other operators that take statistics along an axis."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids, true
from fxprune.rules.choosing import placed
from fxprune.rules.pointwise import name_of
from fxprune.rules.products import SOFTMAX, name_scores
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten

# a zero adds nothing to these, so that dropping it is exact
NEUTRAL_ZERO = [
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.nansum.default,
    aten.linalg_vector_norm.default,
    aten.norm.Scalar,
    aten.norm.ScalarOpt_dim,
    aten.norm.ScalarOpt_dtype,
    aten.norm.ScalarOpt_dim_dtype,
    aten.any.default,
    aten.any.dim,
    aten.any.dims,
    aten.count_nonzero.default,
    aten.count_nonzero.dim_IntList,
]
STATISTICS = [
    aten.mean.default,
    aten.mean.dim,
    aten.nanmean.default,
    aten.amax.default,
    aten.amin.default,
    aten.aminmax.default,
    aten.max.default,
    aten.min.default,
    aten.prod.default,
    aten.prod.dim_int,
    aten.all.default,
    aten.all.dim,
    aten.all.dims,
    aten.var.default,
    aten.var.correction,
    aten.var.dim,
    aten.var_mean.default,
    aten.var_mean.correction,
    aten.var_mean.dim,
    aten.std.default,
    aten.std.correction,
    aten.std.dim,
    aten.std_mean.default,
    aten.std_mean.correction,
    aten.std_mean.dim,
    aten.logsumexp.default,
    aten.median.default,
    aten.nanmedian.default,
]
# the second result holds indices into the axis
PLACED = [
    aten.max.dim,
    aten.min.dim,
    aten.median.dim,
    aten.nanmedian.dim,
    aten.mode.default,
    aten.kthvalue.default,
]
BEST = {aten.max.dim, aten.min.dim}
ZERO_OF_ZEROS = """
sum nansum mean nanmean amax amin aminmax max min median linalg_vector_norm norm prod any all
count_nonzero var std var_mean std_mean nanmedian mode kthvalue
"""
KEEP_ZERO = frozenset(ZERO_OF_ZEROS.split())


def axes_of(site: Site, rank: int, given: Any) -> set[int]:
    """Return the numbers of the axes an operator reduces: all where it names none."""
    if given is None or given == [] or rank == 0:
        return set(range(rank))
    return {int(d) % max(1, rank) for d in (given if isinstance(given, (list, tuple)) else [given])}


def _neutral(site: Site) -> bool:
    order = site.args.get("ord", site.args.get("p"))
    return site.operator in NEUTRAL_ZERO and (order is None or order >= 0)


@couples(*NEUTRAL_ZERO, *STATISTICS, *PLACED)
def reduce(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Reduce some axes; their removal is exact where a zero is neutral and they are zero."""
    x = site.tensor("self")
    gone = axes_of(site, len(x.dims), site.args.get("dim"))
    exact = _neutral(site)
    ranks = site.operator in BEST and reads(site.node, 1)
    for d in gone if not ranks else ():
        if not (exact and x.zero[d]):
            site.approximate(x.dims[d], f"{site.operator} takes statistics over this axis")
    keeps = name_of(site.operator) in KEEP_ZERO and (exact or site.operator not in NEUTRAL_ZERO)
    dims: list[Ids] = []
    zeros: list[bool] = []
    for d, g in enumerate(x.dims):
        if d not in gone or site.args.get("keepdim"):
            dims.append(true(1) if d in gone else g)
            zeros.append(d not in gone and keeps and x.zero[d])
    result = TensorGuard(tuple(dims), tuple(zeros))
    value = site.node.meta["val"]
    if not isinstance(value, (tuple, list)):
        return result
    places = TensorGuard(result.dims, (False,) * len(result.dims))
    if site.operator not in PLACED:
        return tuple(result for _ in value)
    if reads(site.node, 1) and site.operator in BEST and x.dims:
        return placed(site, x, min(gone), "min" in str(site.operator))
    if reads(site.node, 1) or site.operator is aten.kthvalue.default:
        for d in gone:
            site.pin(x.dims[d], "the result holds indices into this axis")
    return result, places


def reads(node: fx.Node, index: int) -> bool:
    """Tell whether anything uses the `index`-th result of a node."""
    return any(
        user.target is not operator.getitem or (user.args[1] == index and user.users)
        for user in node.users
    )


@couples(*sorted(SOFTMAX, key=str))
def softmax(site: Site) -> TensorGuard:
    """Normalise along one axis; its removal is approximate. The axis before the last two: heads."""
    x = site.tensor("self")
    dim = x.axis(site.args["dim"])
    for g in x.dims[dim : dim + 1]:
        site.approximate(g, f"{site.operator} takes statistics over this axis", weighed=True)
        site.rank("self", dim, 1, chosen=False)
    if len(x.dims) >= 3 and dim == len(x.dims) - 1:
        site.role(x.dims[-3], "head")
    name_scores(site, site.args["self"])
    return TensorGuard(x.dims, (False,) * len(x.dims))


@couples(aten.cumsum.default, aten.cumprod.default, aten.logcumsumexp.default)
def cumulate(site: Site) -> TensorGuard:
    """Sum along an axis: a zero adds nothing, and its own place is removed with it."""
    x = site.tensor("self")
    dim = x.axis(site.args["dim"])
    for g in x.dims[dim : dim + 1]:
        if site.operator is not aten.cumsum.default or not x.zero[dim]:
            site.approximate(g, f"{site.operator} adds what is dropped to what follows")
    keeps = site.operator is not aten.logcumsumexp.default
    zeros = tuple(zero and keeps and d != dim for d, zero in enumerate(x.zero))
    return TensorGuard(x.dims, zeros)


@couples(aten.tril.default, aten.triu.default, aten.tril_.default, aten.triu_.default)
def triangle(site: Site) -> TensorGuard:
    """Keep the last two axes, whose positions are compared."""
    x = site.tensor("self")
    for g in x.dims[-2:]:
        site.pin(g, "positions along this axis are compared")
    return x
