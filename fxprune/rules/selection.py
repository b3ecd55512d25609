"""Taking, joining and moving rows along an axis: cat, split, slice, select, index, pad, roll."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.guards import Ids, concat, outer, true
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Edit, Site, TensorGuard, hint, shape_of, symbolic

aten = torch.ops.aten


def _axis(value: TensorGuard, dim: Any) -> int:
    return int(dim) % max(1, len(value.dims))


def _with(x: TensorGuard, dim: int, g: Ids, zero: bool | None = None) -> TensorGuard:
    dims, zeros = list(x.dims), list(x.zero)
    dims[dim] = g
    zeros[dim] = zeros[dim] if zero is None else zero
    return TensorGuard(tuple(dims), tuple(zeros))


def _aligned(site: Site, values: Sequence[TensorGuard], skip: int) -> TensorGuard:
    """Unify every axis of several tensors but `skip`."""
    first = values[0]
    dims = list(first.dims)
    for value in values[1:]:
        for d, g in enumerate(value.dims):
            if d != skip:
                dims[d] = site.unify(dims[d], g)
    zeros = tuple(all(v.zero[d] for v in values) for d in range(len(dims)))
    return TensorGuard(tuple(dims), zeros)


@couples(aten.cat.default, aten.concat.default, aten.concatenate.default)
def cat(site: Site) -> TensorGuard:
    """Lay the rows one after another."""
    values = [v for v in site.many("tensors") if len(v.dims) > 1 or len(v.dims[0])]
    dim = _axis(values[0], site.args["dim"])
    rows = concat([value.dims[dim] for value in values])
    if symbolic(site.out())[dim]:
        site.pin(rows, "a symbolic size is concatenated")
        rows = true(len(rows))
    return _with(_aligned(site, values, dim), dim, rows)


@couples(aten.stack.default)
def stack(site: Site) -> TensorGuard:
    """Couple the tensors axis by axis; the new axis stays."""
    values = site.many("tensors")
    joined = _aligned(site, values, -1)
    dim = int(site.args["dim"]) % (len(joined.dims) + 1)
    dims, zeros = list(joined.dims), list(joined.zero)
    dims.insert(dim, true(len(values)))
    zeros.insert(dim, False)
    return TensorGuard(tuple(dims), tuple(zeros))


SPLITS = [
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unsafe_chunk.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
]


@couples(*SPLITS)
def split(site: Site) -> tuple[TensorGuard, ...]:
    """Hand each piece its rows."""
    x = site.tensor("self")
    dim = _axis(x, site.args["dim"])
    sizes = [shape_of(piece)[dim] for piece in site.node.meta["val"]]
    if sum(sizes) != len(x.dims[dim]):
        site.pin(x.dims[dim], "the pieces depend on a symbolic size")
        return tuple(site.fixed(piece) for piece in site.node.meta["val"])
    ends = list(accumulate(sizes))
    return tuple(
        _with(x, dim, x.dims[dim][end - size : end]) for size, end in zip(sizes, ends, strict=True)
    )


@rewrites(*SPLITS)
def resize_split(edit: Edit) -> None:
    """Split by the kept size of each piece, where anything of the axis goes."""
    dim = _axis(edit.value("self"), edit.args["dim"])
    if edit.mask("self", dim).all():
        return
    pieces = edit.source.meta["val"]
    sizes = [edit.count(edit.result(k).dims[dim]) for k in range(len(pieces))]
    edit.node.target = aten.split_with_sizes.default
    edit.node.args = (edit.args["self"], sizes, dim)
    edit.node.kwargs = {}


@couples(aten.unbind.int)
def unbind(site: Site) -> tuple[TensorGuard, ...]:
    """Hand out the slices of an axis, which therefore stays."""
    x = site.tensor("self")
    dim = _axis(x, site.args["dim"])
    site.pin(x.dims[dim], "every slice of this axis is used by itself")
    rest = _without(x, [dim])
    return tuple(rest for _ in site.node.meta["val"])


def _without(x: TensorGuard, gone: Sequence[int]) -> TensorGuard:
    stay = [d for d in range(len(x.dims)) if d not in gone]
    return TensorGuard(tuple(x.dims[d] for d in stay), tuple(x.zero[d] for d in stay))


@couples(aten.select.int)
def select(site: Site) -> TensorGuard:
    """Take one index of an axis; that index stays."""
    x = site.tensor("self")
    dim = _axis(x, site.args["dim"])
    index = site.args["index"]
    chosen = x.dims[dim][[int(index)]] if isinstance(index, int) else x.dims[dim]
    site.pin(chosen, "this index is selected by its number")
    return _without(x, [dim])


@rewrites(aten.select.int)
def reindex_select(edit: Edit) -> None:
    """Count the kept indices before the selected one."""
    dim, index = _axis(edit.value("self"), edit.args["dim"]), edit.args["index"]
    if isinstance(index, int):
        mask = edit.mask("self", dim)
        edit.set("index", int(mask[: index % len(mask)].sum()))


def _rows(args: dict[str, Any], size: int) -> np.ndarray[Any, Any] | None:
    start, end, step = (args.get(k) for k in ("start", "end", "step"))
    if any(isinstance(bound, fx.Node) for bound in (start, end)):
        return None
    return np.arange(size)[slice(start, end, step)]


@couples(aten.slice.Tensor)
def slice_(site: Site) -> TensorGuard:
    """Take a range of rows."""
    x = site.tensor("self")
    dim = _axis(x, site.args["dim"])
    rows = _rows(site.args, len(x.dims[dim]))
    if rows is None or symbolic(site.out())[dim] or len(rows) != shape_of(site.out())[dim]:
        site.pin(x.dims[dim], "the slice depends on a symbolic size")
        return _with(x, dim, true(shape_of(site.out())[dim]), False)
    return _with(x, dim, x.dims[dim][rows])


@rewrites(aten.slice.Tensor)
def resize_slice(edit: Edit) -> None:
    """Count the kept rows up to either bound; a step over a shrunk axis becomes a gather."""
    dim = _axis(edit.value("self"), edit.args["dim"])
    mask = edit.mask("self", dim)
    rows = _rows(edit.args, len(mask))
    if mask.all() or rows is None:
        return
    if edit.args.get("step") not in (None, 1):
        return take(edit, "self", dim, rows)
    start = int(rows[0]) if len(rows) else 0
    edit.set("start", int(mask[:start].sum()))
    edit.set("end", int(mask[: start + len(rows)].sum()))


def take(edit: Edit, name: str, dim: int, rows: np.ndarray[Any, Any]) -> None:
    """Turn the node into `index_select` of the kept `rows`, counted among what is kept."""
    mask = edit.mask(name, dim)
    place = np.cumsum(mask) - 1
    index = edit.constant(torch.from_numpy(place[rows[mask[rows]]].copy()), "rows")
    edit.node.target = aten.index_select.default
    edit.node.args = (edit.args[name], dim, index)
    edit.node.kwargs = {}


@couples(aten.narrow.default)
def narrow(site: Site) -> TensorGuard:
    """Take a range of rows."""
    x = site.tensor("self")
    dim, start, length = _axis(x, site.args["dim"]), site.args["start"], site.args["length"]
    if isinstance(start, fx.Node) or isinstance(length, fx.Node):
        site.pin(x.dims[dim], "the slice depends on a symbolic size")
        return _with(x, dim, true(shape_of(site.out())[dim]), False)
    return _with(x, dim, x.dims[dim][start : start + length])


@rewrites(aten.narrow.default)
def resize_narrow(edit: Edit) -> None:
    """Count the kept rows before and within the range."""
    dim = _axis(edit.value("self"), edit.args["dim"])
    mask, start, length = edit.mask("self", dim), edit.args["start"], edit.args["length"]
    if isinstance(start, int) and isinstance(length, int):
        edit.set("start", int(mask[:start].sum()))
        edit.set("length", int(mask[start : start + length].sum()))


def _flip_rows(args: dict[str, Any], sizes: Sequence[int]) -> dict[int, np.ndarray[Any, Any]]:
    return {int(d) % len(sizes): np.arange(sizes[int(d)])[::-1] for d in args["dims"]}


def _roll_rows(args: dict[str, Any], sizes: Sequence[int]) -> dict[int, np.ndarray[Any, Any]]:
    dims = args["dims"] or range(len(sizes))
    return {
        int(d) % len(sizes): np.roll(np.arange(sizes[int(d)]), int(shift))
        for d, shift in zip(dims, args["shifts"], strict=True)
    }


MOVES = {aten.flip.default: _flip_rows, aten.roll.default: _roll_rows}


@couples(*MOVES)
def move(site: Site) -> TensorGuard:
    """Permute the rows of an axis."""
    x = site.tensor("self")
    if site.node.target is aten.roll.default and not site.args["dims"]:
        site.pin_all([x], "roll over the flattened tensor")
        return x
    for dim, rows in MOVES[site.node.target](site.args, [len(g) for g in x.dims]).items():
        x = _with(x, dim, x.dims[dim][rows])
    return x


@rewrites(*MOVES)
def remove_moved(edit: Edit) -> None:
    """Gather the kept rows where a permuted axis shrinks (a flip stays a flip)."""
    x = edit.value("self")
    if edit.node.target is aten.flip.default:
        return
    moves = MOVES[edit.node.target](edit.args, [len(g) for g in x.dims])
    shrunk = [dim for dim in moves if not edit.mask("self", dim).all()]
    if not shrunk:
        return
    source = edit.args["self"]
    for dim in moves:
        mask = edit.mask("self", dim)
        place, rows = np.cumsum(mask) - 1, moves[dim]
        index = edit.constant(torch.from_numpy(place[rows[mask[rows]]].copy()), f"rows{dim}")
        if dim == list(moves)[-1]:
            edit.node.target = aten.index_select.default
            edit.node.args, edit.node.kwargs = (source, dim, index), {}
            return
        with edit.node.graph.inserting_before(edit.node):
            source = edit.node.graph.call_function(
                aten.index_select.default, (source, dim, index)
            )


@couples(aten.repeat.default, aten.tile.default)
def repeat(site: Site) -> TensorGuard:
    """Tile the rows; an axis of size 1 becomes a new axis of variables."""
    x, out = site.tensor("self"), site.out()
    sizes, fixed = shape_of(out), symbolic(out)
    lead = len(sizes) - len(x.dims)
    dims: list[Ids] = []
    for d, size in enumerate(sizes):
        old = x.dims[d - lead] if d >= lead else true(1)
        if fixed[d]:
            site.pin(old, "a size depends on the input")
            dims.append(true(size))
        else:
            grown = site.fresh(size) if len(old) == 1 else outer([true(size // len(old)), old])
            dims.append(grown)
    zeros = tuple(d >= lead and x.zero[d - lead] for d in range(len(sizes)))
    return TensorGuard(tuple(dims), zeros)


@rewrites(aten.repeat.default, aten.tile.default)
def resize_repeat(edit: Edit) -> None:
    """Repeat an axis of size 1 as often as is kept of the new axis."""
    name = "repeats" if "repeats" in edit.args else "dims"
    given, x = list(edit.args[name]), edit.value("self")
    lead = len(edit.result().dims) - len(x.dims)
    short = len(edit.result().dims) - len(given)
    for k, count in enumerate(given):
        d = k + short
        old = len(x.dims[d - lead]) if d >= lead else 1
        if old == 1 and isinstance(count, int):
            given[k] = edit.sizes()[d]
    edit.set(name, given)


@couples(aten.repeat_interleave.self_int)
def repeat_interleave(site: Site) -> TensorGuard:
    """Repeat each row in place."""
    x = site.tensor("self")
    if site.args["dim"] is None:
        site.pin_all([x], "repeat_interleave over the flattened tensor")
        return site.fixed()
    dim, count = _axis(x, site.args["dim"]), site.args["repeats"]
    if isinstance(count, fx.Node):
        site.pin(x.dims[dim], "a size depends on the input")
        return _with(x, dim, true(shape_of(site.out())[dim]), False)
    return _with(x, dim, outer([x.dims[dim], true(int(count))]))


@couples(aten.pad.default, aten.constant_pad_nd.default)
def pad(site: Site) -> TensorGuard:
    """Put new rows, of variables that no parameter owns, around an axis."""
    x, pads = site.tensor("self"), list(site.args["pad"])
    mode = site.args.get("mode") or "constant"
    zero = (site.args.get("value") or 0) == 0
    for k in range(len(pads) // 2):
        d = len(x.dims) - 1 - k
        low, high = pads[2 * k], pads[2 * k + 1]
        if low == 0 and high == 0:
            continue
        plain = isinstance(low, int) and isinstance(high, int) and low >= 0 and high >= 0
        if mode != "constant" or not plain or not x.dims[d].shape[1]:
            site.pin(x.dims[d], f"padding in mode {mode!r} keeps this axis")
            x = _with(x, d, true(hint(site.out().shape[d])), False)
            continue
        new = [site.coupling.guards.fresh(int(n)) if n else true(0) for n in (low, high)]
        x = _with(x, d, concat([new[0], x.dims[d], new[1]]), x.zero[d] and zero)
    return x


@rewrites(aten.pad.default, aten.constant_pad_nd.default)
def resize_pad(edit: Edit) -> None:
    """Count the kept rows on either side."""
    x, out, pads = edit.value("self"), edit.result(), list(edit.args["pad"])
    for k in range(len(pads) // 2):
        d = len(x.dims) - 1 - k
        low, high = pads[2 * k], pads[2 * k + 1]
        if out.dims[d].shape[1] and isinstance(low, int) and isinstance(high, int):
            mask = edit.kept(out.dims[d])
            pads[2 * k] = int(mask[:low].sum())
            pads[2 * k + 1] = int(mask[len(mask) - high :].sum()) if high else 0
    edit.set("pad", pads)
