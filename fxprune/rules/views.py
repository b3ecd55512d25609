"""Reshaping: merged axes take the product of guards, split axes invent factor variables."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from fxprune.guards import Ids, outer, true
from fxprune.rules.edit import Edit
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.row_shuffles import gather_shuffled, shuffled
from fxprune.rules.site import Site, TensorGuard, shape_of, unbounded

aten = torch.ops.aten

SIZED = {
    aten.view.default: "size",
    aten.view_copy.default: "size",
    aten.reshape.default: "shape",
    aten._unsafe_view.default: "size",
    aten._reshape_copy.default: "size",
    aten.unflatten.int: "sizes",
}
UNSIZED = [
    aten.flatten.using_ints,
    aten.ravel.default,
    aten.unsqueeze.default,
    aten.unsqueeze_.default,
    aten.atleast_1d.default,
    aten.atleast_2d.default,
    aten.atleast_3d.default,
]
SQUEEZES = [
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze_.default,
    aten.squeeze_.dim,
    aten.squeeze_.dims,
]


@couples(*SIZED, *UNSIZED, *SQUEEZES)
def view(site: Site) -> TensorGuard:
    """Regroup the axes row-major: the smallest runs of equal product merge, then split."""
    moved = shuffled(site) if site.coupling.loose else None
    return moved or regroup(site, site.tensor("self"), site.out())


@rewrites(aten.flatten.using_ints)
def gather_flattened(edit: Edit) -> None:
    """Gather what a shuffle moves that ends here."""
    gather_shuffled(edit)


@couples(aten.view_as.default, aten.reshape_as.default)
def view_as(site: Site) -> TensorGuard:
    """Regroup the axes into those of the other tensor."""
    x = regroup(site, site.tensor("self"), site.out())
    joined = site.unify_all([x, site.tensor("other")])
    return TensorGuard(joined.dims, x.zero)


def regroup(site: Site, x: TensorGuard, out: torch.Tensor) -> TensorGuard:
    """Return the guards of `x` viewed with the shape of `out`."""
    new = shape_of(out)
    viewed = factored(site, x, new, unbounded(out))
    if viewed is None:
        old = [len(g) for g in x.dims]
        site.pin_all([x], f"a view from {old} to {list(new)} has no fixed factors")
        return site.fixed(out)
    return viewed


def factored(
    site: Site, x: TensorGuard, new: Sequence[int], fixed: Sequence[bool] | None = None
) -> TensorGuard | None:
    """Return the guards of `x` viewed with sizes `new`, or None where there are no factors."""
    runs = groups([len(g) for g in x.dims], new)
    if runs is None:
        return None
    fixed = fixed if fixed is not None else [False] * len(new)
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
    """Write the kept sizes; one symbolic size becomes -1, several keep their expressions.

    A view becomes a reshape where nothing writes through it: its tensor may have another layout.
    """
    if gather_shuffled(edit):
        return
    name = SIZED[edit.operator]
    start = edit.value("self").axis(edit.args["dim"]) if "dim" in edit.args else 0  # unflatten
    sizes = kept_sizes(edit, list(edit.args[name]), start)
    edit.set(name, sizes)
    if edit.operator is aten.view.default and not edit.written:
        edit.node.target = aten.reshape.default


def kept_sizes(edit: Edit, given: Sequence[int | fx.Node], start: int = 0) -> list[int | fx.Node]:
    """Return the size argument of the shrunk node, `given` being that of the original."""
    before = [len(g) for g in edit.result().dims][start:]
    after = edit.sizes()[start:]
    sizes: list[int | fx.Node] = []
    alone = sum(isinstance(size, fx.Node) for size in given) == 1 and -1 not in given
    for size, old, new in zip(given, before, after, strict=False):
        if not isinstance(size, fx.Node):
            sizes.append(-1 if size == -1 else new)
        elif alone:
            sizes.append(-1)
        else:
            sizes.append(_scaled(edit, size, new, old))
    return sizes


def resized(edit: Edit, given: Sequence[int | fx.Node]) -> list[int | fx.Node]:
    """Return the sizes of the shrunk result, those that the graph computes scaled."""
    axes = zip(given, edit.result().dims, edit.sizes(), strict=True)
    return [
        _scaled(edit, size, new, len(g)) if isinstance(size, fx.Node) else new
        for size, g, new in axes
    ]


def _scaled(edit: Edit, size: fx.Node, new: int, old: int) -> fx.Node:
    """Return `size · new // old`, computed before the node where that is another size."""
    if old == new:
        return size
    graph = edit.node.graph
    with graph.inserting_before(edit.node):
        grown = graph.call_function(operator.mul, (size, new))
        scaled = graph.call_function(operator.floordiv, (grown, old))
    value = size.meta.get("val")
    if value is not None:
        grown.meta["val"], scaled.meta["val"] = value * new, value * new // old
    return scaled


@rewrites(*SQUEEZES)
def keep_squeezed(edit: Edit) -> None:
    """Name the squeezed axes: one that was shrunk to a single index is kept."""
    before = [len(g) for g in edit.value("self").dims]
    if edit.operator in (aten.squeeze.default, aten.squeeze_.default):
        dims = [d for d, size in enumerate(before) if size == 1]
    else:
        given = edit.args["dim"]
        named = given if isinstance(given, (list, tuple)) else [given]
        dims = [int(d) for d in named if before[int(d)] == 1]
    writes = edit.operator._schema.is_mutable
    edit.node.target = aten.squeeze_.dims if writes else aten.squeeze.dims
    edit.node.args, edit.node.kwargs = (edit.args["self"], dims), {}


@couples(aten.view_as_complex.default)
def view_as_complex(site: Site) -> TensorGuard:
    """Take the pairs of the last axis for complex numbers."""
    x = site.tensor("self")
    site.pin(x.dims[-1], "real and imaginary parts")
    return x.without([len(x.dims) - 1])


@couples(aten.view_as_real.default)
def view_as_real(site: Site) -> TensorGuard:
    """Take complex numbers for pairs along a new last axis."""
    x = site.tensor("self")
    return TensorGuard((*x.dims, true(2)), (*x.zero, False))
