"""Moving rows along an axis, and putting new ones around it: flip, roll, pad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fxprune.guards import concat, true
from fxprune.rules.edit import Edit
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.selection import Rows, place_of
from fxprune.rules.site import Site, TensorGuard, hint, symbolic

aten = torch.ops.aten


def _flipped(args: dict[str, Any], sizes: Sequence[int]) -> dict[int, Rows]:
    return {int(d) % len(sizes): np.arange(sizes[int(d)])[::-1] for d in args["dims"]}


def _rolled(args: dict[str, Any], sizes: Sequence[int]) -> dict[int, Rows]:
    rows: dict[int, Rows] = {}
    for d, shift in zip(args["dims"], args["shifts"], strict=True):
        dim = int(d) % len(sizes)
        rows[dim] = np.roll(rows.get(dim, np.arange(sizes[dim])), int(shift))
    return rows


MOVES: dict[Any, Callable[[dict[str, Any], Sequence[int]], dict[int, Rows]]] = {
    aten.flip.default: _flipped,
    aten.roll.default: _rolled,
    aten.fliplr.default: lambda _, sizes: _flipped({"dims": [1]}, sizes),
    aten.flipud.default: lambda _, sizes: _flipped({"dims": [0]}, sizes),
}


@couples(*MOVES)
def move(site: Site) -> TensorGuard:
    """Permute the rows of an axis."""
    x = site.tensor("self")
    if site.operator is aten.roll.default and not site.args["dims"]:
        site.pin_all([x], "roll over the flattened tensor")
        return x
    if not x.dims:
        return x
    for dim, rows in MOVES[site.operator](site.args, [len(g) for g in x.dims]).items():
        if symbolic(site.out())[dim]:
            site.pin(x.dims[dim], "a symbolic size is moved")
        else:
            x = x.with_(dim, x.dims[dim][rows])
    return x


@rewrites(aten.roll.default)
def gather_rolled(edit: Edit) -> None:
    """Gather the kept rows of a rolled axis that shrinks; the others roll as before."""
    x = edit.value("self")
    rows = _rolled(edit.args, [len(g) for g in x.dims]) if edit.args["dims"] else {}
    shrunk = [dim for dim in rows if not edit.mask("self", dim).all()]
    if not shrunk:
        return
    graph, source = edit.node.graph, edit.args["self"]
    pairs = zip(edit.args["shifts"], edit.args["dims"], strict=True)
    rest = [(shift, dim) for shift, dim in pairs if x.axis(dim) not in shrunk]
    with graph.inserting_before(edit.node):
        if rest:
            shifts, dims = ([pair[k] for pair in rest] for k in (0, 1))
            source = graph.call_function(aten.roll.default, (source, shifts, dims))
        for dim in shrunk[:-1]:
            index = edit.constant(place_of(edit.mask("self", dim), rows[dim]), f"rows{dim}")
            source = graph.call_function(aten.index_select.default, (source, dim, index))
    last = shrunk[-1]
    index = edit.constant(place_of(edit.mask("self", last), rows[last]), f"rows{last}")
    edit.node.target = aten.index_select.default
    edit.node.args, edit.node.kwargs = (source, last, index), {}


@couples(aten.pad.default, aten.constant_pad_nd.default)
def pad(site: Site) -> TensorGuard:
    """Put new rows, of variables that no parameter owns, around an axis; negative pads crop."""
    x, pads = site.tensor("self"), list(site.args["pad"])
    mode = site.args.get("mode") or "constant"
    zero = (site.args.get("value") or 0) == 0
    for k in range(len(pads) // 2):
        d = len(x.dims) - 1 - k
        low, high = pads[2 * k], pads[2 * k + 1]
        if isinstance(low, int) and isinstance(high, int) and low == high == 0:
            continue
        if mode == "constant" and not zero:
            x = TensorGuard(x.dims, (False,) * len(x.dims))
        plain = isinstance(low, int) and isinstance(high, int) and not symbolic(site.out())[d]
        if mode != "constant" or not plain or not x.dims[d].shape[1]:
            site.pin(x.dims[d], f"padding in mode {mode!r} keeps this axis")
            x = x.with_(d, true(hint(site.out().shape[d])), False)
            continue
        fresh = site.coupling.guards.fresh
        new = [fresh(n) if n > 0 else true(0) for n in (low, high)]
        rows = x.dims[d][max(0, -low) : len(x.dims[d]) + min(0, high)]
        x = x.with_(d, concat([new[0], rows, new[1]]), x.zero[d] and zero)
    return x


@rewrites(aten.pad.default, aten.constant_pad_nd.default)
def resize_pad(edit: Edit) -> None:
    """Count the kept rows that are put on, or cut off, at either side."""
    x, out, pads = edit.value("self"), edit.result(), list(edit.args["pad"])
    for k in range(len(pads) // 2):
        d = len(x.dims) - 1 - k
        low, high = pads[2 * k], pads[2 * k + 1]
        if not out.dims[d].shape[1] or not (isinstance(low, int) and isinstance(high, int)):
            continue
        old, new = edit.kept(x.dims[d]), edit.kept(out.dims[d])
        for side, n in enumerate((low, high)):
            rows, m = (new, n) if n > 0 else (old, -n)
            end = rows[:m] if side == 0 else rows[len(rows) - m :]
            pads[2 * k + side] = int(end.sum()) if n > 0 else -int(end.sum())
    edit.set("pad", pads)
