"""Reshaping: merged axes take the product of guards, split axes invent factor variables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from fxprune.guards import Ids, outer, true
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Edit, Site, TensorGuard, shape_of, symbolic

aten = torch.ops.aten

SIZED = {
    aten.view.default: "size",
    aten.reshape.default: "shape",
    aten._unsafe_view.default: "size",
    aten._reshape_copy.default: "size",
    aten.unflatten.int: "sizes",
}
UNSIZED = [
    aten.flatten.using_ints,
    aten.ravel.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze_.dim,
    aten.unsqueeze.default,
    aten.unsqueeze_.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.atleast_1d.default,
    aten.atleast_2d.default,
    aten.atleast_3d.default,
]


@couples(*SIZED, *UNSIZED)
def view(site: Site) -> TensorGuard:
    """Regroup the axes row-major: the smallest runs of equal product merge, then split."""
    return regroup(site, site.tensor("self"), site.out())


def regroup(site: Site, x: TensorGuard, out: torch.Tensor) -> TensorGuard:
    """Return the guards of `x` viewed with the shape of `out`."""
    old, new = tuple(len(g) for g in x.dims), shape_of(out)
    fixed = symbolic(out)
    runs = groups(old, new)
    if runs is None:
        site.pin_all([x], f"a view from {list(old)} to {list(new)} has no fixed factors")
        return site.fixed(out)
    dims: list[Ids] = [true(size) for size in new]
    zeros = [False] * len(new)
    for olds, news in runs:
        merged = outer([x.dims[d] for d in olds])
        zero = all(x.zero[d] for d in olds if x.dims[d].shape[1])
        parts = site.split(merged, [new[d] for d in news], [fixed[d] for d in news])
        for d, part in zip(news, parts, strict=True):
            dims[d], zeros[d] = part, zero
    return TensorGuard(tuple(dims), tuple(zeros))


def groups(
    old: Sequence[int], new: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Pair the shortest runs of old and new axes that have the same product.

    >>> groups((2, 8, 49), (2, 2, 4, 49))
    [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    """
    if int(np.prod(old)) != int(np.prod(new)) or 0 in old:
        return None
    left = [d for d, size in enumerate(old) if size != 1]
    right = [d for d, size in enumerate(new) if size != 1]
    runs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    while left or right:
        olds, news = [left.pop(0)], [right.pop(0)]
        a, b = old[olds[0]], new[news[0]]
        while a != b:
            if a < b:
                olds.append(left.pop(0))
                a *= old[olds[-1]]
            else:
                news.append(right.pop(0))
                b *= new[news[-1]]
        runs.append((tuple(olds), tuple(news)))
    return runs


@rewrites(*SIZED)
def resize(edit: Edit) -> None:
    """Write the kept sizes; one symbolic size becomes -1, several keep their expressions."""
    name = SIZED[edit.node.target]
    given = list(edit.args[name])
    if "dim" in edit.args:  # unflatten
        start = int(edit.args["dim"]) % len(edit.value("self").dims)
    else:
        start = 0
    edit.set(name, kept_sizes(edit, given, start))


def kept_sizes(edit: Edit, given: Sequence[int | fx.Node], start: int = 0) -> list[int | fx.Node]:
    """Return the size argument of the shrunk node, `given` being that of the original."""
    before = [len(g) for g in edit.result().dims][start:]
    after = edit.sizes()[start:]
    sizes: list[int | fx.Node] = []
    nodes = [size for size in given if isinstance(size, fx.Node)]
    alone = len(nodes) == 1 and -1 not in given
    for size, old, new in zip(given, before, after, strict=False):
        if not isinstance(size, fx.Node):
            sizes.append(-1 if size == -1 else new)
        elif alone:
            sizes.append(-1)
        elif old == new:
            sizes.append(size)
        else:
            with edit.node.graph.inserting_before(edit.node):
                graph = edit.node.graph
                scaled = graph.call_function(torch.ops.aten.mul.int, (size, new))
                sizes.append(graph.call_function(torch.ops.aten.floordiv.int, (scaled, old)))
    return sizes


@couples(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expand(site: Site) -> TensorGuard:
    """Let an axis of size 1 become a new axis of variables that no parameter owns."""
    x, out = site.tensor("self"), site.out()
    sizes, fixed = shape_of(out), symbolic(out)
    lead = len(sizes) - len(x.dims)
    dims: list[Ids] = []
    zeros: list[bool] = []
    for d, size in enumerate(sizes):
        old = x.dims[d - lead] if d >= lead else true(1)
        grows = len(old) == 1 and size != 1
        dims.append((true(size) if fixed[d] else site.fresh(size)) if grows else old)
        zeros.append(not grows and d >= lead and x.zero[d - lead])
    return TensorGuard(tuple(dims), tuple(zeros))


@rewrites(aten.expand.default, aten.broadcast_to.default)
def resize_expand(edit: Edit) -> None:
    """Write the kept sizes; a symbolic size keeps its expression."""
    given = list(edit.args["size"])
    sizes = [
        old if isinstance(old, fx.Node) or old == -1 else new
        for old, new in zip(given, edit.sizes(), strict=True)
    ]
    edit.set("size", sizes)


@couples(aten.permute.default)
def permute(site: Site) -> TensorGuard:
    """Move the axes."""
    return _moved(site.tensor("self"), [int(d) for d in site.args["dims"]])


@couples(
    aten.transpose.int,
    aten.transpose_.default,
    aten.swapaxes.default,
    aten.swapdims.default,
)
def transpose(site: Site) -> TensorGuard:
    """Swap two axes."""
    x = site.tensor("self")
    order = list(range(len(x.dims)))
    a, b = (int(d) for d in list(site.args.values())[1:3])
    order[a], order[b] = order[b], order[a]
    return _moved(x, order)


@couples(aten.t.default, aten.numpy_T.default, aten.mT.default, aten.adjoint.default)
def turn(site: Site) -> TensorGuard:
    """Swap the last two axes (`numpy_T`: reverse them all)."""
    x = site.tensor("self")
    order = list(range(len(x.dims)))
    if site.node.target is aten.numpy_T.default:
        order.reverse()
    elif len(order) > 1:
        order[-2:] = order[:-3:-1]
    return _moved(x, order)


@couples(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist)
def movedim(site: Site) -> TensorGuard:
    """Move some axes to new places, the others staying in order."""
    x = site.tensor("self")
    source, place = (
        [int(d) % len(x.dims) for d in (arg if isinstance(arg, (list, tuple)) else [arg])]
        for arg in (site.args["source"], site.args["destination"])
    )
    rest = iter(d for d in range(len(x.dims)) if d not in source)
    to = dict(zip(place, source, strict=True))
    return _moved(x, [to[d] if d in to else next(rest) for d in range(len(x.dims))])


def _moved(x: TensorGuard, order: Sequence[int]) -> TensorGuard:
    return TensorGuard(tuple(x.dims[d] for d in order), tuple(x.zero[d] for d in order))


def _blocks(site: Site, x: TensorGuard, sizes: list[int], order: list[int]) -> TensorGuard:
    """View `x` with `sizes`, permute by `order`, view as the result: (un)shuffles are this."""
    runs = groups([len(g) for g in x.dims], sizes) or []
    dims: list[Ids] = [true(size) for size in sizes]
    zeros = [False] * len(sizes)
    for olds, news in runs:
        merged = outer([x.dims[d] for d in olds])
        zero = all(x.zero[d] for d in olds)
        parts = site.split(merged, [sizes[d] for d in news])
        for d, part in zip(news, parts, strict=True):
            dims[d], zeros[d] = part, zero
    moved = _moved(TensorGuard(tuple(dims), tuple(zeros)), order)
    return regroup(site, moved, site.out())


@couples(aten.pixel_shuffle.default)
def pixel_shuffle(site: Site) -> TensorGuard:
    """Turn `(c r s) h w` into `c (h r) (w s)`; the factors r and s stay."""
    x, r = site.tensor("self"), int(site.args["upscale_factor"])
    *lead, c, h, w = (len(g) for g in x.dims)
    n = len(lead)
    for g in x.dims[-2:]:
        site.pin(g, "a spatial axis keeps its size")
    _keep_factor(site, x.dims[-3], [c // (r * r), r * r])
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return _blocks(site, x, [*lead, c // (r * r), r, r, h, w], order)


@couples(aten.pixel_unshuffle.default)
def pixel_unshuffle(site: Site) -> TensorGuard:
    """Turn `c (h r) (w s)` into `(c r s) h w`."""
    x, r = site.tensor("self"), int(site.args["downscale_factor"])
    *lead, c, h, w = (len(g) for g in x.dims)
    n = len(lead)
    for g in x.dims[-2:]:
        site.pin(g, "a spatial axis keeps its size")
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return _blocks(site, x, [*lead, c, h // r, r, w // r, r], order)


@couples(aten.channel_shuffle.default)
def channel_shuffle(site: Site) -> TensorGuard:
    """Turn `(g c) *` into `(c g) *`; the groups stay."""
    x, groups_ = site.tensor("self"), int(site.args["groups"])
    c = len(x.dims[1])
    group, channel = site.split(x.dims[1], [groups_, c // groups_])
    site.pin(group, "channel_shuffle keeps its groups")
    mixed = outer([site.split(channel, [c // groups_])[0], true(groups_)])
    return TensorGuard((x.dims[0], mixed, *x.dims[2:]), x.zero)


def _keep_factor(site: Site, g: Ids, sizes: list[int]) -> None:
    """Pin the inner factor of a split axis."""
    site.pin(site.split(g, sizes)[1], "the factor of a pixel shuffle keeps its size")
