"""Writing into a tensor: scatters, index_put and the like; slices, selected indices, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids
from fxprune.rules.edit import Edit
from fxprune.rules.indexing import ADDRESSED, addressed, along
from fxprune.rules.pointwise import is_pointwise
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.repeating import EXPANDS
from fxprune.rules.selection import hold_steps, numbered, reindex_select, rows_of, set_bounds
from fxprune.rules.site import Site, TensorGuard, shape_of, symbolic, tensor_meta

aten = torch.ops.aten


def _unzeroed(x: TensorGuard) -> TensorGuard:
    return TensorGuard(x.dims, (False,) * len(x.dims))


@couples(aten.slice_scatter.default)
def slice_scatter(site: Site) -> TensorGuard:
    """Replace a range of rows."""
    x, source = site.tensor("self"), site.tensor("src")
    dim = x.axis(site.args["dim"])
    rows = rows_of(site.args, len(x.dims[dim]))
    joined = site.unify_all([x, source], skip=[dim])
    fits = rows is not None and len(rows) == len(source.dims[dim])
    if rows is None or not fits or symbolic(site.out())[dim]:
        site.pin_all([x.moved([dim]), source.moved([dim])], "the rows written to have fixed places")
        return joined
    hold_steps(site, x.dims[dim], rows, int(site.args["step"]))
    site.unify(x.dims[dim][rows], source.dims[dim])
    return joined


@rewrites(aten.slice_scatter.default)
def resize_slice_scatter(edit: Edit) -> None:
    """Count the kept rows up to either bound."""
    dim = edit.value("self").axis(edit.args["dim"])
    mask = edit.mask("self", dim)
    rows = rows_of(edit.args, len(mask))
    if rows is None or mask.all():
        return
    set_bounds(edit, mask, rows)


@couples(aten.select_scatter.default)
def select_scatter(site: Site) -> TensorGuard:
    """Replace one index of an axis; that index is pinned."""
    x, source, index = site.tensor("self"), site.tensor("src"), site.args["index"]
    dim = x.axis(site.args["dim"])
    site.pin(numbered(site, x, dim, index), "this index is written by its number")
    around = [d for d in range(len(x.dims)) if d != dim]
    joined = site.unify_all([x.moved(around), source])
    dims, zeros = list(joined.dims), list(joined.zero)
    dims.insert(dim, x.dims[dim])
    zeros.insert(dim, x.zero[dim])
    return TensorGuard(tuple(dims), tuple(zeros))


rewrites(aten.select_scatter.default)(reindex_select)


@couples(aten.index_put.default, aten.index_put_.default, aten._unsafe_index_put.default)
def index_put(site: Site) -> TensorGuard:
    """Write values at places that tensors of indices address; those axes are pinned."""
    x, indices, values = site.tensor("self"), site.args["indices"], site.tensor("values")
    with torch.no_grad():
        out = site.node.args[0].meta["val"]  # type: ignore[union-attr]
        metas: list[Any] = [one if one is None else one.meta["val"] for one in indices]
        if any(meta is not None and meta.dtype == torch.bool for meta in metas):
            marked = metas[0].ndim if len(metas) == 1 else len(x.dims)
            site.pin_all([x.moved(range(marked)), *map(site.of, indices)], ADDRESSED)
            _laid_over(site, values, x.dims[marked:])
            return _unzeroed(x)
        shape = aten.index.Tensor(out, metas)
    site.pin_all(map(site.of, indices), ADDRESSED)
    taken = addressed(site, x, indices, shape)
    for back in range(-1, -len(values.dims) - 1, -1):
        if len(values.dims[back]) != 1:
            site.unify(values.dims[back], taken.dims[back])
    return _unzeroed(x)


def _laid_over(site: Site, values: TensorGuard, rest: Sequence[Ids]) -> None:
    """Couple values with the axes behind those that a mask marks; what counts the marks stays."""
    for back, g in enumerate(reversed(values.dims)):
        if back >= len(rest):
            site.pin(g, ADDRESSED)
        elif len(g) != 1:
            site.unify(g, rest[-1 - back])


@couples(aten.masked_scatter.default, aten.masked_scatter_.default)
def masked_scatter(site: Site) -> TensorGuard:
    """Write elements in turn where a mask says: rows, if it is alike along the last axis."""
    x, mask, source = site.tensor("self"), site.tensor("mask"), site.tensor("source")
    text, rank = "a mask picks as many elements as it marks", len(x.dims)
    rows = all((rank, mask.dims, source.dims)) and len(source.dims[-1]) == len(x.dims[-1])
    if shape_of(site.out()) != tuple(map(len, x.dims)) or not (rows and alike(site.args["mask"])):
        site.pin_all([x, mask, source], text)
        return site.fixed()
    for value in (x, mask, source):
        site.pin_all([value.moved(range(len(value.dims) - 1))], text)
    g = site.unify(x.dims[-1], source.dims[-1])
    if len(mask.dims[-1]) != 1:
        g = site.unify(g, mask.dims[-1])
    zero = x.zero[-1] and source.zero[-1]
    return _unzeroed(x).with_(rank - 1, g, zero)


def alike(arg: Any) -> bool:
    """Tell whether a tensor surely has one value along its last axis: it was expanded along it."""
    value = tensor_meta(arg) if isinstance(arg, fx.Node) else None
    if value is None:
        return False
    if not value.ndim or value.shape[-1] == 1:
        return True
    if arg.target in (*EXPANDS, aten.expand_as.default):
        return alike(arg.args[0])
    return is_pointwise(arg.target) and all(map(alike, arg.all_input_nodes))


SCATTERS = [
    aten.scatter.src,
    aten.scatter.value,
    aten.scatter.reduce,
    aten.scatter.value_reduce,
    aten.scatter_.src,
    aten.scatter_.value,
    aten.scatter_.reduce,
    aten.scatter_.value_reduce,
    aten.scatter_add.default,
    aten.scatter_add_.default,
    aten.scatter_reduce.two,
    aten.scatter_reduce_.two,
]


@couples(*SCATTERS)
def scatter(site: Site) -> TensorGuard:
    """Write elements along one axis, which is pinned."""
    x, index = site.tensor("self"), site.tensor("index")
    source = site.optional("src")
    dim = x.axis(site.args["dim"])
    written = [index] if source is None else [index, source]
    along(site, x, written, dim, site.args["index"])
    site.pin_all([one.moved([dim] if one.dims else []) for one in written], ADDRESSED)
    zeros = [False] * len(x.dims)
    if x.dims and site.args["index"] in site.followed:  # what is never chosen stays as it was
        zeros[dim] = zeros_alone(site.args["self"], site.node)
    return TensorGuard(x.dims, tuple(zeros))


ZEROS = {aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default}


def zeros_alone(arg: Any, writer: fx.Node) -> bool:
    """Tell whether a tensor is of zeros when a node first writes to it: nothing read it before."""
    if not isinstance(arg, fx.Node) or next(iter(arg.users)) is not writer:
        return False
    return arg.target in ZEROS


ROWS = [
    aten.index_add.default,
    aten.index_add_.default,
    aten.index_copy.default,
    aten.index_copy_.default,
    aten.index_reduce.default,
    aten.index_fill.int_Scalar,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Scalar,
    aten.index_fill_.int_Tensor,
]


@couples(*ROWS)
def write_rows(site: Site) -> TensorGuard:
    """Write whole rows of an axis, which is pinned."""
    x, index, source = site.tensor("self"), site.tensor("index"), site.optional("source")
    dim = x.axis(site.args["dim"])
    site.pin_all([x.moved([dim] if x.dims else []), index], ADDRESSED)
    if source is None:
        return _unzeroed(x)
    if len(source.dims) != len(x.dims):
        site.pin_all([x, source, index], "a single row is written")
        return _unzeroed(x)
    site.pin_all([source.moved([dim] if source.dims else []), index], ADDRESSED)
    return _unzeroed(site.unify_all([x, source], skip=[dim]))
