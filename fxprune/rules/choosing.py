"""Operators that take the best of an axis, and operators that read which these are.

The indices that `topk` and its kin return are numbers of an axis: of the experts that a router
chooses, of the words of a codebook. Removing an index of such an axis equals a score of minus
infinity, so that it never wins. What counts, looks up or marks by these numbers has an axis that is
that one; what computes with them in another way reads the numbers of before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxprune.graphs import arguments
from fxprune.guards import Ids, true
from fxprune.rules.edit import Edit
from fxprune.rules.pointwise import is_pointwise, name_of
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Site, TensorGuard, hint, shape_of

aten = torch.ops.aten


@couples(aten.topk.default)
def topk(site: Site) -> tuple[TensorGuard, ...]:
    """Take the best of an axis: the indices number it, and as many as are taken are kept."""
    x, k = site.tensor("self"), site.args["k"]
    if not x.dims:
        return tuple(site.fixed(one) for one in site.node.meta["val"])
    dim = x.axis(site.args["dim"])
    if not isinstance(k, int):
        site.pin(x.dims[dim], "the graph computes how many are taken")
        k = 1
    taken = x.with_(dim, true(shape_of(site.node.meta["val"][0])[dim]))
    k += hidden(site, site.args["self"], dim)
    site.rank("self", dim, k, smallest=not site.args["largest"])
    return _placed(taken.dims, x.dims[dim])


def _placed(dims: tuple[Ids, ...], numbers: Ids) -> tuple[TensorGuard, ...]:
    """Return the guards of values that were taken of an axis, and of their places in it."""
    zeros = (False,) * len(dims)
    return TensorGuard(dims, zeros), TensorGuard(dims, zeros, numbers)


@couples(aten.argmax.default, aten.argmin.default)
def best(site: Site) -> TensorGuard:
    """Name the best of an axis; of all elements, they are pinned."""
    x, dim = site.tensor("self"), site.args.get("dim")
    if dim is None or not x.dims:
        site.pin_all([x], "the result ranks all elements")
        return site.fixed()
    return placed(site, x, x.axis(dim), "min" in str(site.operator))[1]


def placed(site: Site, x: TensorGuard, dim: int, smallest: bool) -> tuple[TensorGuard, ...]:
    """Return the guards of the best of an axis, and of its place."""
    site.rank("self", dim, 1 + hidden(site, site.args["self"], dim), smallest=smallest)
    keeps = site.args.get("keepdim")
    left = x.with_(dim, true(1)) if keeps else x.without([dim])
    return _placed(left.dims, x.dims[dim])


def hidden(site: Site, arg: Any, dim: int) -> int:
    """Return how many indices of an axis have been overwritten: earlier winners, to be left out."""
    count = 0
    while isinstance(arg, fx.Node) and arg.op == "call_function":
        if is_scatter(arg.target):
            given = arguments(arg)
            index, value = given["index"].meta["val"], site.of(given["index"])
            numbered = value is not None and value.numbers is not None
            if numbered and int(given["dim"]) % max(1, index.ndim) == dim:
                count += hint(index.shape[dim])
        elif not is_pointwise(arg.target):
            break
        arg = arg.args[0] if arg.args else None
    return count


def is_scatter(target: Any) -> bool:
    """Tell whether an operator writes elements along an axis at places that indices say."""
    return isinstance(target, torch._ops.OpOverload) and name_of(target).startswith("scatter")


@couples(aten.one_hot.default)
def one_hot(site: Site) -> TensorGuard:
    """Add an axis of classes: that which the values number, and else one that is pinned."""
    x, size = site.tensor("self"), shape_of(site.out())[-1]
    numbers = site.numbers(site.args["self"], size)
    known = numbers is not None and site.args.get("num_classes") == size
    g = numbers if known and numbers is not None else true(size)
    return TensorGuard((*x.dims, g), (*(False for _ in x.dims), known))


@rewrites(aten.one_hot.default)
def resize_one_hot(edit: Edit) -> None:
    """Count the kept classes."""
    g = edit.result().dims[-1]
    if g.shape[1]:
        edit.set("num_classes", edit.count(g))


@couples(aten.histc.default)
def histogram(site: Site) -> TensorGuard:
    """Count values in bins: how often each index is named, where there is a bin for each."""
    bins = site.args["bins"]
    bounds = (site.args["min"], site.args["max"])
    numbers = site.numbers(site.args["self"], bins) if bounds in _bounds(bins) else None
    site.pin_all([site.tensor("self")], "it is counted how often values occur")
    g = numbers if numbers is not None else true(bins)
    return TensorGuard((g,), (numbers is not None,))


def _bounds(bins: Any) -> tuple[tuple[Any, Any], ...]:
    """Return the bounds of a histogram that has a bin for each of so many numbers."""
    return ((0, bins - 1), (0, bins))


@rewrites(aten.histc.default)
def resize_histogram(edit: Edit) -> None:
    """Have a bin for each index that is kept."""
    g, bins = edit.result().dims[0], edit.args["bins"]
    if g.shape[1]:
        kept = edit.count(g)
        edit.set("bins", kept)
        edit.set("max", edit.args["max"] - bins + kept)
