"""Moving axes: permute, transpose and their kin; diagonals."""

from __future__ import annotations

import torch

from fxprune.guards import true
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard, shape_of

aten = torch.ops.aten


@couples(aten.permute.default, aten.permute_copy.default)
def permute(site: Site) -> TensorGuard:
    """Move the axes."""
    x = site.tensor("self")
    return x.moved([x.axis(d) for d in site.args["dims"]])


@couples(
    aten.transpose.int,
    aten.transpose_.default,
    aten.transpose_copy.int,
    aten.swapaxes.default,
    aten.swapaxes_.default,
    aten.swapdims.default,
    aten.swapdims_.default,
)
def transpose(site: Site) -> TensorGuard:
    """Swap two axes."""
    x = site.tensor("self")
    order = list(range(len(x.dims)))
    a, b = (x.axis(d) for d in list(site.args.values())[1:3])
    if order:
        order[a], order[b] = order[b], order[a]
    return x.moved(order)


@couples(
    aten.t.default,
    aten.t_.default,
    aten.t_copy.default,
    aten.numpy_T.default,
    aten.mT.default,
    aten.mH.default,
    aten.matrix_H.default,
    aten.adjoint.default,
)
def turn(site: Site) -> TensorGuard:
    """Swap the last two axes (`numpy_T`: reverse them all)."""
    x = site.tensor("self")
    order = list(range(len(x.dims)))
    if site.node.target is aten.numpy_T.default:
        order.reverse()
    elif len(order) > 1:
        order[-2:] = order[:-3:-1]
    return x.moved(order)


@couples(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist)
def movedim(site: Site) -> TensorGuard:
    """Move some axes to new places, the others staying in order."""
    x = site.tensor("self")
    source, place = (
        [x.axis(d) for d in (arg if isinstance(arg, (list, tuple)) else [arg])]
        for arg in (site.args["source"], site.args["destination"])
    )
    rest = iter(d for d in range(len(x.dims)) if d not in source)
    to = dict(zip(place, source, strict=True))
    return x.moved([to[d] if d in to else next(rest) for d in range(len(x.dims))])


@couples(aten.diagonal.default)
def diagonal(site: Site) -> TensorGuard:
    """Take a diagonal of two axes, which are pinned; it becomes the last axis."""
    x = site.tensor("self")
    pair = [x.axis(site.args["dim1"]), x.axis(site.args["dim2"])]
    for d in pair:
        site.pin(x.dims[d], "a diagonal compares positions along this axis")
    rest = x.without(pair)
    return TensorGuard((*rest.dims, true(shape_of(site.out())[-1])), (*rest.zero, False))
