"""Making an axis longer by repeating it: expand, repeat, tile, repeat_interleave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids, outer, true
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Edit, Site, TensorGuard, shape_of, symbolic

aten = torch.ops.aten
EXPANDS = [aten.expand.default, aten.expand_copy.default, aten.broadcast_to.default]


def grown(site: Site, x: TensorGuard, out: torch.Tensor) -> TensorGuard:
    """Return the guards of `x` expanded to the shape of `out`.

    An axis of size 1 becomes one of new variables that no parameter owns.
    """
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


@couples(*EXPANDS)
def expand(site: Site) -> TensorGuard:
    """Let an axis of size 1 become a new axis."""
    return grown(site, site.tensor("self"), site.out())


@rewrites(*EXPANDS)
def resize_expand(edit: Edit) -> None:
    """Write the kept sizes; a symbolic size keeps its expression."""
    given = list(edit.args["size"])
    sizes = [
        old if isinstance(old, fx.Node) or old == -1 else new
        for old, new in zip(given, edit.sizes(), strict=True)
    ]
    edit.set("size", sizes)


@couples(aten.expand_as.default)
def expand_as(site: Site) -> TensorGuard:
    """Expand to the axes of the other tensor."""
    return _matched(site, site.tensor("self"), [site.tensor("other")], site.out())


def _matched(
    site: Site, x: TensorGuard, others: Sequence[TensorGuard], out: torch.Tensor
) -> TensorGuard:
    shown = grown(site, x, out)
    for other in others:
        for back in range(-1, -len(other.dims) - 1, -1):
            if len(other.dims[back]) != 1:
                d = len(shown.dims) + back
                shown = shown.with_(d, site.unify(shown.dims[d], other.dims[back]))
    return shown


@couples(aten.broadcast_tensors.default)
def broadcast_tensors(site: Site) -> tuple[TensorGuard, ...]:
    """Expand all tensors to their common shape."""
    values = site.many("tensors")
    shown = [
        _matched(site, x, values, out) for x, out in zip(values, site.node.meta["val"], strict=True)
    ]
    return tuple(shown)


@couples(aten.repeat.default, aten.tile.default)
def repeat(site: Site) -> TensorGuard:
    """Tile the rows: the copies are a new outer factor of the axis."""
    x, out = site.tensor("self"), site.out()
    sizes, fixed = shape_of(out), symbolic(out)
    lead = len(sizes) - len(x.dims)
    dims: list[Ids] = []
    zeros: list[bool] = []
    for d, size in enumerate(sizes):
        old = x.dims[d - lead] if d >= lead else true(1)
        copies = size // len(old) if len(old) else 1
        if fixed[d]:
            site.pin(old, "a size depends on the input")
        dims.append(true(size) if fixed[d] else outer([site.fresh(copies), old]))
        zeros.append(copies == 1 and d >= lead and x.zero[d - lead])
    return TensorGuard(tuple(dims), tuple(zeros))


@rewrites(aten.repeat.default, aten.tile.default)
def resize_repeat(edit: Edit) -> None:
    """Repeat as often as there are copies kept."""
    name = "repeats" if "repeats" in edit.args else "dims"
    given, x, result = list(edit.args[name]), edit.value("self"), edit.result()
    for k, count in enumerate(given):
        back = k - len(given)
        old = edit.count(x.dims[back]) if len(x.dims) >= -back else 1
        if isinstance(count, int) and old:
            given[k] = edit.count(result.dims[back]) // old
    edit.set(name, given)


@couples(aten.repeat_interleave.self_int)
def repeat_interleave(site: Site) -> TensorGuard:
    """Repeat each row in place: the copies are a new inner factor of the axis."""
    x, count = site.tensor("self"), site.args["repeats"]
    if site.args["dim"] is None:
        site.pin_all([x], "repeat_interleave over the flattened tensor")
        return site.fixed()
    dim = x.axis(site.args["dim"])
    if isinstance(count, fx.Node) or symbolic(site.out())[dim]:
        site.pin(x.dims[dim], "a size depends on the input")
        return x.with_(dim, true(shape_of(site.out())[dim]), False)
    copies = site.fresh(int(count))
    return x.with_(dim, outer([x.dims[dim], copies]), x.zero[dim] and count == 1)


@rewrites(aten.repeat_interleave.self_int)
def resize_repeat_interleave(edit: Edit) -> None:
    """Repeat as often as there are copies kept."""
    count: Any = edit.args["repeats"]
    if edit.args["dim"] is None or isinstance(count, fx.Node):
        return
    dim = edit.value("self").axis(edit.args["dim"])
    old = edit.count(edit.value("self").dims[dim])
    edit.set("repeats", edit.count(edit.result().dims[dim]) // old if old else count)
