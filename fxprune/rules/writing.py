"""Writing into a tensor: scatters, index_put and the like; slices and selected indices."""

from __future__ import annotations

from typing import Any

import torch

from fxprune.rules.indexing import ADDRESSED, addressed, along
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.selection import reindex_select, rows_of
from fxprune.rules.site import Edit, Site, TensorGuard, symbolic

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
    plain = rows is not None and site.args["step"] == 1 and len(rows) == len(source.dims[dim])
    if rows is None or not plain or symbolic(site.out())[dim]:
        site.pin_all([x.moved([dim]), source.moved([dim])], "the rows written to have fixed places")
        return joined
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
    start = int(rows[0]) if len(rows) else 0
    edit.set("start", int(mask[:start].sum()))
    edit.set("end", int(mask[: start + len(rows)].sum()))


@couples(aten.select_scatter.default)
def select_scatter(site: Site) -> TensorGuard:
    """Replace one index of an axis; that index stays."""
    x, source, index = site.tensor("self"), site.tensor("src"), site.args["index"]
    dim = x.axis(site.args["dim"])
    chosen = x.dims[dim][[int(index)]] if isinstance(index, int) else x.dims[dim]
    site.pin(chosen, "this index is written by its number")
    around = [d for d in range(len(x.dims)) if d != dim]
    joined = site.unify_all([x.moved(around), source])
    dims, zeros = list(joined.dims), list(joined.zero)
    dims.insert(dim, x.dims[dim])
    zeros.insert(dim, x.zero[dim])
    return TensorGuard(tuple(dims), tuple(zeros))


rewrites(aten.select_scatter.default)(reindex_select)


@couples(aten.index_put.default, aten.index_put_.default)
def index_put(site: Site) -> TensorGuard:
    """Write values at places that tensors of indices address; those axes stay."""
    x, indices, values = site.tensor("self"), site.args["indices"], site.tensor("values")
    with torch.no_grad():
        out = site.node.args[0].meta["val"]  # type: ignore[union-attr]
        metas: list[Any] = [one if one is None else one.meta["val"] for one in indices]
        if any(meta is not None and meta.dtype == torch.bool for meta in metas):
            single = len(metas) == 1 and all(len(g) == 1 for g in values.dims)
            whole = metas[0].ndim if single else len(x.dims)
            site.pin_all([x.moved(range(whole)), values, *map(site.of, indices)], ADDRESSED)
            return _unzeroed(x)
        shape = aten.index.Tensor(out, metas)
    site.pin_all(map(site.of, indices), ADDRESSED)
    taken = addressed(site, x, indices, shape)
    for back in range(-1, -len(values.dims) - 1, -1):
        if len(values.dims[back]) != 1:
            site.unify(values.dims[back], taken.dims[back])
    return _unzeroed(x)


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
    """Write elements along one axis, which stays."""
    x, index = site.tensor("self"), site.tensor("index")
    source = site.optional("src")
    dim = x.axis(site.args["dim"])
    written = [index] if source is None else [index, source]
    along(site, x, written, dim)
    site.pin_all([one.moved([dim] if one.dims else []) for one in written], ADDRESSED)
    return _unzeroed(x)


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
    """Write whole rows of an axis, which stays."""
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
