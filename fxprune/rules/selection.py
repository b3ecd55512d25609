"""Joining and taking rows along an axis: cat, stack, split, unbind, select, slice, narrow."""

from __future__ import annotations

import sys
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.guards import Ids, Mask, concat, true
from fxprune.rules.edit import Edit
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Site, TensorGuard, shape_of, symbolic

aten = torch.ops.aten
Rows: TypeAlias = NDArray[np.int64]


@couples(
    aten.cat.default,
    aten.concat.default,
    aten.concatenate.default,
    aten.hstack.default,
    aten.vstack.default,
)
def cat(site: Site) -> TensorGuard:
    """Lay the rows one after another (vectors: `hstack` joins, `vstack` stacks them)."""
    values = [v for v in site.many("tensors") if len(v.dims) != 1 or len(v.dims[0])]
    out = site.out()
    if len(values[0].dims) != out.ndim:  # hstack and vstack of scalars or vectors
        rest = out.ndim - len(values[0].dims)
        values = [TensorGuard((true(1),) * rest + v.dims, (False,) * rest + v.zero) for v in values]
    name = str(site.node.target)
    dim = 0 if "vstack" in name else (min(1, out.ndim - 1) if "hstack" in name else -1)
    dim = values[0].axis(site.args.get("dim", dim))
    rows = concat([value.dims[dim] for value in values])
    if symbolic(out)[dim]:
        site.pin(rows, "a symbolic size is concatenated")
        rows = true(len(rows))
    return site.unify_all(values, skip=[dim]).with_(dim, rows)


@couples(aten.stack.default)
def stack(site: Site) -> TensorGuard:
    """Couple the tensors axis by axis; the new axis is pinned."""
    values = site.many("tensors")
    joined = site.unify_all(values)
    dim = int(site.args["dim"]) % (len(joined.dims) + 1)
    dims, zeros = list(joined.dims), list(joined.zero)
    dims.insert(dim, true(len(values)))
    zeros.insert(dim, False)
    return TensorGuard(tuple(dims), tuple(zeros))


SPLITS = [
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.split_with_sizes_copy.default,
    aten.chunk.default,
    aten.unsafe_chunk.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
    aten.hsplit.int,
    aten.hsplit.array,
    aten.vsplit.int,
    aten.vsplit.array,
    aten.dsplit.int,
    aten.dsplit.array,
]


def _split_axis(operator: Any, args: dict[str, Any], x: TensorGuard) -> int:
    letter = str(operator).removeprefix("aten.")[0]
    implied = {"h": min(1, len(x.dims) - 1), "v": 0, "d": 2}
    return x.axis(args["dim"]) if "dim" in args else implied[letter]


@couples(*SPLITS)
def split(site: Site) -> tuple[TensorGuard, ...]:
    """Hand each piece its rows."""
    x = site.tensor("self")
    dim = _split_axis(site.operator, site.args, x)
    pieces = site.node.meta["val"]
    sizes = [shape_of(piece)[dim] for piece in pieces]
    if sum(sizes) != len(x.dims[dim]) or any(symbolic(piece)[dim] for piece in pieces):
        site.pin(x.dims[dim], "the pieces depend on a symbolic size")
        return tuple(x.with_(dim, true(size), False) for size in sizes)
    ends = list(accumulate(sizes))
    return tuple(
        x.with_(dim, x.dims[dim][end - size : end]) for size, end in zip(sizes, ends, strict=True)
    )


@rewrites(*SPLITS)
def resize_split(edit: Edit) -> None:
    """Split by the kept size of each piece, where the axis loses anything."""
    dim = _split_axis(edit.operator, edit.args, edit.value("self"))
    if edit.mask("self", dim).all():
        return
    pieces = edit.source.meta["val"]
    sizes = [edit.count(edit.result(k).dims[dim]) for k in range(len(pieces))]
    if edit.operator is not aten.split_with_sizes_copy.default:
        edit.node.target = aten.split_with_sizes.default
    edit.node.args = (edit.args["self"], sizes, dim)
    edit.node.kwargs = {}


@couples(aten.unbind.int)
def unbind(site: Site) -> tuple[TensorGuard, ...]:
    """Hand out the slices of an axis, which is therefore pinned."""
    x = site.tensor("self")
    dim = x.axis(site.args["dim"])
    site.pin(x.dims[dim], "every slice of this axis is used by itself")
    rest = x.without([dim])
    return tuple(rest for _ in site.node.meta["val"])


@couples(aten.select.int)
def select(site: Site) -> TensorGuard:
    """Take one index of an axis; that index is pinned."""
    x, index = site.tensor("self"), site.args["index"]
    dim = x.axis(site.args["dim"])
    site.pin(numbered(site, x, dim, index), "this index is selected by its number")
    return x.without([dim])


def numbered(site: Site, x: TensorGuard, dim: int, index: Any) -> Ids:
    """Return the row of `self` that an index names: all rows where the graph computes which."""
    known = isinstance(index, int) and site.sized("self", dim)
    return x.dims[dim][[index]] if known else x.dims[dim]


@rewrites(aten.select.int)
def reindex_select(edit: Edit) -> None:
    """Count the kept indices before the selected one."""
    index = edit.args["index"]
    if isinstance(index, int):
        mask = edit.mask("self", edit.value("self").axis(edit.args["dim"]))
        if not mask.all():  # of an axis that loses nothing, -1 is the last at any length
            edit.set("index", int(mask[: index % len(mask)].sum()))


def rows_of(args: dict[str, Any], size: int) -> Rows | None:
    """Return the rows between `start` and `end`, or None where a bound is symbolic."""
    start, end, step = (args.get(k) for k in ("start", "end", "step"))
    if any(isinstance(bound, fx.Node) for bound in (start, end, step)):
        return None
    return np.arange(size)[slice(start, end, step)]


def everything(args: dict[str, Any]) -> bool:
    """Tell whether a slice takes all rows, of an axis of any size."""
    start, end, step = (args.get(k) for k in ("start", "end", "step"))
    return start in (None, 0) and end in (None, sys.maxsize) and step in (None, 1)


@couples(aten.slice.Tensor)
def slice_(site: Site) -> TensorGuard:
    """Take a range of rows."""
    x = site.tensor("self")
    if everything(site.args):
        return x
    dim = x.axis(site.args["dim"])
    rows = rows_of(site.args, len(x.dims[dim]))
    size = shape_of(site.out())[dim]
    if rows is None or symbolic(site.out())[dim] or len(rows) != size:
        site.pin(x.dims[dim], "the slice depends on a symbolic size")
        return x.with_(dim, true(size), False)
    if site.written:
        hold_steps(site, x.dims[dim], rows, int(site.args["step"]))
    return x.with_(dim, x.dims[dim][rows])


def hold_steps(site: Site, g: Ids, rows: Rows, step: int) -> None:
    """Let whole steps of an axis leave, so that every `step`-th of what is kept is what it was.

    What is written in place through a view cannot be gathered: that would be a copy.
    """
    if step == 1:
        return
    text = "every so many rows of this axis are written in place"
    if len(rows) * step == len(g):
        site.pin(site.split(g, [len(rows), step])[1], text)
    else:
        site.pin(g, text)


@rewrites(aten.slice.Tensor)
def resize_slice(edit: Edit) -> None:
    """Count the kept rows up to either bound; a step over a shrunk axis becomes a gather.

    Where it is written through, whole steps have left, and it stays a slice.
    """
    dim = edit.value("self").axis(edit.args["dim"])
    mask = edit.mask("self", dim)
    rows = rows_of(edit.args, len(mask))
    if mask.all() or rows is None or everything(edit.args):
        return
    if edit.args["step"] != 1 and not edit.written:
        return take(edit, "self", dim, rows)
    set_bounds(edit, mask, rows)


def set_bounds(edit: Edit, mask: Mask, rows: Rows) -> None:
    """Count the kept rows up to either bound of `rows`: with a step, up to the end of its last."""
    start, step = int(rows[0]) if len(rows) else 0, int(edit.args["step"])
    edit.set("start", int(mask[:start].sum()) if step == 1 else start)
    edit.set("end", int(mask[: start + step * len(rows)].sum()))


def take(edit: Edit, name: str, dim: int, rows: Rows) -> None:
    """Turn the node into `index_select` of the kept `rows`, counted among what is kept."""
    index = edit.constant(place_of(edit.mask(name, dim), rows), "rows")
    edit.node.target = aten.index_select.default
    edit.node.args = (edit.args[name], dim, index)
    edit.node.kwargs = {}


def place_of(mask: Mask, rows: Rows) -> torch.Tensor:
    """Return where the kept ones among `rows` are, counted among what is kept."""
    place = np.cumsum(mask) - 1
    return torch.from_numpy(place[rows[mask[rows]]].copy())


@couples(aten.narrow.default)
def narrow(site: Site) -> TensorGuard:
    """Take a range of rows."""
    x = site.tensor("self")
    dim, start, length = x.axis(site.args["dim"]), site.args["start"], site.args["length"]
    plain = isinstance(start, int) and isinstance(length, int) and site.sized("self", dim)
    if not plain or symbolic(site.out())[dim]:
        site.pin(x.dims[dim], "the slice depends on a symbolic size")
        return x.with_(dim, true(shape_of(site.out())[dim]), False)
    first = start % max(1, len(x.dims[dim])) if start < 0 else start
    return x.with_(dim, x.dims[dim][first : first + length])


@rewrites(aten.narrow.default)
def resize_narrow(edit: Edit) -> None:
    """Count the kept rows before and within the range."""
    dim = edit.value("self").axis(edit.args["dim"])
    mask, start, length = edit.mask("self", dim), edit.args["start"], edit.args["length"]
    if isinstance(start, int) and isinstance(length, int) and not mask.all():
        first = start % max(1, len(mask)) if start < 0 else start
        edit.set("start", int(mask[:first].sum()))
        edit.set("length", int(mask[first : first + length].sum()))
