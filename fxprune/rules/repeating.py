"""Making an axis longer by repeating it: expand, repeat, tile, repeat_interleave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.guards import Ids, outer, true
from fxprune.rules.edit import Edit
from fxprune.rules.indexing import constant_of
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.selection import Rows, take
from fxprune.rules.site import Site, TensorGuard, shape_of, symbolic, unbounded
from fxprune.rules.views import resized

aten = torch.ops.aten
EXPANDS = [aten.expand.default, aten.expand_copy.default, aten.broadcast_to.default]


def grown(site: Site, x: TensorGuard, out: torch.Tensor) -> TensorGuard:
    """Return the guards of `x` expanded to the shape of `out`.

    An axis of size 1 becomes one of new variables that no parameter owns.
    """
    dims: list[Ids] = []
    zeros: list[bool] = []
    for size, fixed, old, zero in _aligned(x, out):
        grows = len(old) == 1 and size != 1
        dims.append((true(size) if fixed else site.fresh(size)) if grows else old)
        zeros.append(not grows and zero)
    return TensorGuard(tuple(dims), tuple(zeros))


def _aligned(x: TensorGuard, out: torch.Tensor) -> Iterator[tuple[int, bool, Ids, bool]]:
    """Yield for each axis of `out` its size, whether that is a symbol, and what `x` has there.

    That is a guard, and whether it is zero where dropped; the axes before those of `x` are of 1.
    """
    sizes, fixed = shape_of(out), unbounded(out)
    lead = len(sizes) - len(x.dims)
    for d, size in enumerate(sizes):
        old, zero = (x.dims[d - lead], x.zero[d - lead]) if d >= lead else (true(1), False)
        yield size, fixed[d], old, zero


@couples(*EXPANDS)
def expand(site: Site) -> TensorGuard:
    """Let an axis of size 1 become a new axis."""
    return grown(site, site.tensor("self"), site.out())


@rewrites(*EXPANDS)
def resize_expand(edit: Edit) -> None:
    """Write the kept sizes; one that is to stay what it was stays -1."""
    given = list(edit.args["size"])
    sizes = zip(given, resized(edit, given), strict=True)
    edit.set("size", [old if old == -1 else new for old, new in sizes])


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
    dims: list[Ids] = []
    zeros: list[bool] = []
    counts = list(site.args["repeats"] if "repeats" in site.args else site.args["dims"])
    counts = [1] * (site.out().ndim - len(counts)) + counts
    for count, (size, _, old, zero) in zip(
        counts, _aligned(site.tensor("self"), site.out()), strict=True
    ):
        copies = size // len(old) if len(old) else 1
        computed = isinstance(count, fx.Node)  # how many, the graph finds out
        dims.append(outer([true(copies) if computed else site.fresh(copies), old]))
        zeros.append((computed or copies == 1) and zero)
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


def _repeated(site: Site, x: TensorGuard) -> int | None:
    """Return the axis whose rows are repeated, or None where that is the tensor laid flat."""
    dim = site.args["dim"]
    return x.axis(dim) if dim is not None else (0 if len(x.dims) == 1 else None)


@couples(aten.repeat_interleave.self_int)
def repeat_interleave(site: Site) -> TensorGuard:
    """Repeat each row in place: the copies are a new inner factor of the axis."""
    x, count = site.tensor("self"), site.args["repeats"]
    if (dim := _repeated(site, x)) is None:
        site.pin_all([x], "repeat_interleave over the flattened tensor")
        return site.fixed()
    if isinstance(count, fx.Node) or unbounded(site.out())[dim]:
        site.pin(x.dims[dim], "a size depends on the input")
        return x.with_(dim, true(shape_of(site.out())[dim]), False)
    copies = site.fresh(int(count))
    return x.with_(dim, outer([x.dims[dim], copies]), x.zero[dim] and count == 1)


@rewrites(aten.repeat_interleave.self_int)
def resize_repeat_interleave(edit: Edit) -> None:
    """Repeat as often as there are copies kept."""
    count, x, result = edit.args["repeats"], edit.value("self"), edit.result()
    dim = 0 if edit.args["dim"] is None else x.axis(edit.args["dim"])
    if isinstance(count, fx.Node) or edit.kept(result.dims[dim]).all():
        return
    old = edit.count(x.dims[dim])
    edit.set("repeats", edit.count(result.dims[dim]) // old if old else count)
    edit.set("output_size", None)  # it is known from the rest


@couples(aten.repeat_interleave.self_Tensor)
def repeat_each(site: Site) -> TensorGuard:
    """Repeat each row as often as a tensor says: a constant one moves with the axis."""
    x, counts = site.tensor("self"), site.of(site.args["repeats"])
    if (dim := _repeated(site, x)) is None:
        site.pin_all([x, counts], "repeat_interleave over the flattened tensor")
        return site.fixed()
    site.pin_all([counts], "it says how often each row is repeated")
    rows, size = _copied(site.args["repeats"], len(x.dims[dim])), shape_of(site.out())[dim]
    if rows is not None and len(rows) == size and not symbolic(site.out())[dim]:
        return x.with_(dim, x.dims[dim][rows])
    site.pin(x.dims[dim], "a tensor says how often each row is repeated")
    return x.with_(dim, true(size), False)


@rewrites(aten.repeat_interleave.self_Tensor)
def gather_repeated(edit: Edit) -> None:
    """Take the kept rows of those that are repeated."""
    x = edit.value("self")
    dim = 0 if edit.args["dim"] is None else x.axis(edit.args["dim"])
    rows = _copied(edit.source.args[1], len(x.dims[dim]))
    if rows is not None and not edit.mask("self", dim).all():
        take(edit, "self", dim, rows)


def _copied(repeats: Any, size: int) -> Rows | None:
    """Return the rows that a constant tensor of counts makes of `size` rows."""
    counts = constant_of(repeats)
    if counts is None or len(counts) not in (1, size):
        return None
    return np.repeat(np.arange(size), np.broadcast_to(counts.numpy(), size))


@couples(aten.repeat_interleave.Tensor)
def repeated_places(site: Site) -> TensorGuard:
    """Say which row each copy is of: neither the rows nor the copies leave."""
    site.pin_all([site.tensor("repeats")], "it says how often each row is repeated")
    return site.fixed()
