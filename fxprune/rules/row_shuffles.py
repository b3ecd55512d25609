"""Views and permutations that together only move the rows of one axis: channel shuffles.

Whatever rows leave, those that stay can be gathered in their new order: no product is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import fx

from fxprune.graphs import arguments
from fxprune.guards import true
from fxprune.rules.edit import Edit
from fxprune.rules.selection import place_of
from fxprune.rules.site import Shuffle, Site, TensorGuard, shape_of, tensor_meta

aten = torch.ops.aten

VIEWS = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
}
COPIES = {aten.clone.default, aten.contiguous.default}


def shuffled(site: Site) -> TensorGuard | None:
    """Return the guards of a view that begins or ends a shuffle, None where it does neither.

    In between the rows have no guards of their own: what is there is taken away if any leave.
    """
    known = site.coupling.shuffled.get(site.node)
    if known is not None:
        source = site.of(known.first.args[0])
        return source and source.with_(known.dim, source.dims[known.dim][known.rows])
    found = _shuffle(site.node)
    if found is None:
        return None
    last, shuffle, parts = found
    site.coupling.shuffled[last] = shuffle
    x, d = site.tensor("self"), shuffle.dim
    dims = (*x.dims[:d], *map(true, parts), *x.dims[d + 1 :])
    return TensorGuard(dims, (*x.zero[:d], *(False for _ in parts), *x.zero[d + 1 :]))


def _shuffle(view: fx.Node) -> tuple[fx.Node, Shuffle, tuple[int, ...]] | None:
    """Return the last node of the shuffle that a view begins, and what it splits an axis in."""
    source, move = view.args[0], _only_user(view)
    last = _only_user(move)
    while last is not None and last.target in COPIES:
        last = _only_user(last)
    if move is None or last is None or last.target not in VIEWS:
        return None
    before, split, after = (_sizes(node) for node in (source, view, last))
    order = _order(move, len(split))
    differ = [d for d, (a, b) in enumerate(zip(before, split, strict=False)) if a != b]
    if before != after or order is None or not differ:
        return None
    d, end = differ[0], differ[0] + len(split) - len(before) + 1
    parts, rest = split[d:end], (*range(d), *range(end, len(split)))
    if split[end:] != before[d + 1 :] or prod(parts) != before[d]:
        return None
    if any(order[place] != place for place in rest):
        return None
    rows = np.arange(before[d]).reshape(parts).transpose([order[k] - d for k in range(d, end)])
    return last, Shuffle(view, d, rows.ravel()), parts


def _only_user(node: fx.Node | None) -> fx.Node | None:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _sizes(node: object) -> tuple[int, ...]:
    value = tensor_meta(node) if isinstance(node, fx.Node) else None
    return shape_of(value) if value is not None else ()


def _order(move: fx.Node, rank: int) -> Sequence[int] | None:
    """Return which axis each axis of a permutation is."""
    args = arguments(move)
    if move.target is aten.permute.default:
        return [int(d) % rank for d in args["dims"]]
    if move.target is not aten.transpose.int:
        return None
    order = list(range(rank))
    a, b = int(args["dim0"]) % rank, int(args["dim1"]) % rank
    order[a], order[b] = order[b], order[a]
    return order


def gather_shuffled(edit: Edit) -> bool:
    """Gather what is kept in its new order, and erase the views; tell whether that was needed."""
    shuffle = edit.shuffle
    if shuffle is None:
        return False
    mask = edit.kept(edit.guards(shuffle.first.args[0]).dims[shuffle.dim])
    if mask.all():
        return False
    between: list[fx.Node] = []
    while not between or between[-1].name != shuffle.first.name:
        source = (between[-1] if between else edit.node).args[0]
        assert isinstance(source, fx.Node)
        between.append(source)
    index = edit.constant(place_of(mask, shuffle.rows), "rows")
    edit.node.target = aten.index_select.default
    edit.node.args, edit.node.kwargs = (between[-1].args[0], shuffle.dim, index), {}
    for node in between:
        edit.node.graph.erase_node(node)
    return True
