"""Operators that rank what lies along an axis: their results hold indices into it.

Of an axis of which the best are taken, the others may leave: what is removed is what never wins.
"""

from __future__ import annotations

from dataclasses import replace as changed

import torch

from fxprune.guards import true
from fxprune.rules.reduction import axes_of
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard, shape_of

aten = torch.ops.aten


@couples(
    aten.argsort.default,
    aten.argsort.stable,
    aten.cummax.default,
    aten.cummin.default,
)
def order(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Pin the axis that is ranked; the others pass on."""
    x = site.tensor("self")
    given = 0 if site.operator is aten.msort.default else site.args.get("dim")
    ranked = axes_of(site, len(x.dims), given)
    for d in ranked if x.dims else ():
        site.pin(x.dims[d], "the result ranks this axis")
    value = site.node.meta["val"]
    several = isinstance(value, (tuple, list))
    sizes = shape_of(value[0] if several else value)
    passed = x.without(ranked) if len(sizes) != len(x.dims) else x
    dims = tuple(
        true(size) if len(sizes) == len(x.dims) and d in ranked else passed.dims[d]
        for d, size in enumerate(sizes)
    )
    result = TensorGuard(dims, (False,) * len(dims))
    if not several:
        return result
    return tuple(result for _ in value)


@couples(aten.sort.default, aten.sort.stable, aten.msort.default)
def sort(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Pin the axis that is sorted; numbers of indices are in the same order as what is kept."""
    made, x = order(site), site.tensor("self")
    if isinstance(made, tuple) and x.numbers is not None:
        numbers = site.numbers(site.args["self"], len(x.numbers))
        return (changed(made[0], numbers=numbers), *made[1:])
    return made
