"""Distances and similarities between vectors."""

from __future__ import annotations

from math import prod

import torch

from fxprune.guards import Ids
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten


@couples(aten.cdist.default, macs=lambda shape, _: prod(shape("->")) * shape("x1")[-1])
def cdist(site: Site) -> TensorGuard:
    """Couple `... n d, ... m d -> ... n m`: where both are zero they do not differ."""
    a, b = site.tensor("x1"), site.tensor("x2")
    width = site.unify(a.dims[-1], b.dims[-1])
    if not (a.zero[-1] and b.zero[-1]):
        site.approximate(width, "distances sum over this axis, and it is not zero there")
    lead: list[Ids] = []
    for back in range(-max(len(a.dims), len(b.dims)), -2):
        meet = [v.dims[back] for v in (a, b) if len(v.dims) >= -back]
        wide = [g for g in meet if len(g) != 1] or meet[:1]
        lead.append(site.unify(wide[0], wide[-1]) if len(wide) > 1 else wide[0])
    dims = (*lead, a.dims[-2], b.dims[-2])
    return TensorGuard(dims, (False,) * len(dims))


@couples(aten.cosine_similarity.default, aten.pairwise_distance.default)
def similarity(site: Site) -> TensorGuard:
    """Compare vectors along one axis; `pairwise_distance` adds a little to each difference."""
    a, b = site.tensor("x1"), site.tensor("x2")
    sizes = [[len(g) for g in v.dims] for v in (a, b)]
    if sizes[0] != sizes[1]:
        site.pin_all([a, b], "vectors that broadcast are compared")
        return site.fixed()
    joined = site.unify_all([a, b])
    dim = joined.axis(site.args.get("dim", -1))
    cosine = site.operator is aten.cosine_similarity.default
    if joined.dims and not (cosine and a.zero[dim] and b.zero[dim]):
        site.approximate(joined.dims[dim], f"{site.operator} sums over this axis, not zero there")
    kept = (
        joined.with_(dim, site.fixed().dims[-1])
        if site.args.get("keepdim")
        else joined.without([dim])
    )
    return TensorGuard(kept.dims, tuple(cosine and zero for zero in kept.zero))
