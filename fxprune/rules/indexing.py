"""Look-ups by tensors of indices: what they address stays, the shape of the indices passes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids, true
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.selection import take
from fxprune.rules.site import Edit, Site, TensorGuard, shape_of, symbolic

aten = torch.ops.aten


def constant_of(arg: Any) -> torch.Tensor | None:
    """Return the value of a node that reads a constant one-dimensional index tensor."""
    if not isinstance(arg, fx.Node) or arg.op != "get_attr":
        return None
    owner: Any = arg.graph.owning_module
    for part in str(arg.target).split("."):
        owner = getattr(owner, part)
    usable = isinstance(owner, torch.Tensor) and owner.dtype == torch.int64 and owner.ndim == 1
    return owner if usable and not owner.is_meta else None


@couples(aten.embedding.default)
def embedding(site: Site) -> TensorGuard:
    """Couple `v d, ... -> ... d`: the rows are addressed by data and stay."""
    weight, indices = site.tensor("weight"), site.tensor("indices")
    site.pin(weight.dims[0], "the indices address these rows")
    site.role(weight.dims[1], "channel")
    dims = (*indices.dims, weight.dims[1])
    return TensorGuard(dims, (*(False for _ in indices.dims), weight.zero[1]))


@couples(aten.index_select.default)
def index_select(site: Site) -> TensorGuard:
    """Take rows by number: known ones move with the axis, others pin it."""
    x, dim = site.tensor("self"), int(site.args["dim"])
    return _gathered(site, x, dim % max(1, len(x.dims)), site.args["index"])


def _gathered(site: Site, x: TensorGuard, dim: int, index: Any) -> TensorGuard:
    dims, zeros = list(x.dims), list(x.zero)
    rows = constant_of(index)
    if rows is not None:
        dims[dim] = x.dims[dim][rows.numpy()]
        site.pin_all([site.of(index)], "the indices are rewritten, not shortened")
    else:
        site.pin(x.dims[dim], "the indices address this axis")
        of = site.of(index)
        dims[dim], zeros[dim] = (of.dims[0] if of and of.dims else true(1)), False
    return TensorGuard(tuple(dims), tuple(zeros))


@rewrites(aten.index_select.default)
def reindex(edit: Edit) -> None:
    """Take the kept rows among those that are kept."""
    rows = constant_of(edit.source.args[2])
    dim = int(edit.args["dim"]) % len(edit.value("self").dims)
    if rows is not None and not edit.mask("self", dim).all():
        take(edit, "self", dim, rows.numpy())


def _single(indices: list[Any]) -> int | None:
    places = [d for d, index in enumerate(indices) if index is not None]
    return places[0] if len(places) == 1 else None


@couples(aten.index.Tensor)
def index(site: Site) -> TensorGuard:
    """Take elements by tensors of indices; the axes not indexed pass on."""
    x, indices = site.tensor("self"), list(site.args["indices"])
    only = _single(indices)
    if only is not None and constant_of(indices[only]) is not None:
        return _gathered(site, x, only, indices[only])
    places = [d for d, one in enumerate(indices) if one is not None]
    values = [value for d in places if (value := site.of(indices[d])) is not None]
    consumed = 0
    for d in places:
        meta = indices[d].meta["val"]
        wide = meta.ndim if meta.dtype == torch.bool else 1
        for at in range(d, d + wide):
            site.pin(x.dims[at], "the indices address this axis")
        consumed += wide
    out = site.out()
    sizes = shape_of(out)
    inner = len(sizes) - (len(x.dims) - consumed)
    middle = _broadcast(site, values, sizes, inner, places)
    rest = [(x.dims[d], x.zero[d]) for d in range(len(x.dims)) if d not in _covered(site, places)]
    adjacent = places == list(range(places[0], places[-1] + 1))
    at = places[0] if adjacent else 0
    joined = [*rest[:at], *((g, False) for g in middle), *rest[at:]]
    dims = [true(n) if fix else g for (g, _), n, fix in zip(joined, sizes, symbolic(out), strict=True)]
    return TensorGuard(tuple(dims), tuple(zero for _, zero in joined))


def _covered(site: Site, places: list[int]) -> set[int]:
    covered: set[int] = set()
    for d in places:
        meta = site.args["indices"][d].meta["val"]
        covered |= set(range(d, d + (meta.ndim if meta.dtype == torch.bool else 1)))
    return covered


def _broadcast(
    site: Site, values: list[TensorGuard], sizes: tuple[int, ...], inner: int, places: list[int]
) -> list[Ids]:
    """Return the guards of the axes that the index tensors, broadcast together, put in."""
    at = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    dims: list[Ids] = []
    for back in range(-inner, 0):
        size = sizes[at + inner + back]
        meet = [v.dims[back] for v in values if len(v.dims) >= -back and len(v.dims[back]) == size]
        g = meet[0] if meet and size != 1 else true(size)
        for other in meet[1:]:
            g = site.unify(g, other)
        dims.append(g)
    return dims


@rewrites(aten.index.Tensor)
def reindex_tensor(edit: Edit) -> None:
    """Take the kept rows among those that are kept, where one constant index says which."""
    indices = list(edit.source.args[1])  # type: ignore[arg-type]
    only = _single(indices)
    rows = constant_of(indices[only]) if only is not None else None
    if only is not None and rows is not None and not edit.mask("self", only).all():
        take(edit, "self", only, rows.numpy())


@couples(aten.gather.default)
def gather(site: Site) -> TensorGuard:
    """Take elements along one axis; the others are the index tensor's."""
    x, index_, dim = site.tensor("self"), site.tensor("index"), int(site.args["dim"])
    dim %= max(1, len(x.dims))
    dims = list(index_.dims)
    for d, g in enumerate(x.dims):
        if d == dim or len(g) != len(dims[d]):
            site.pin(g, "the indices address this axis")
        else:
            dims[d] = site.unify(dims[d], g)
    return TensorGuard(tuple(dims), (False,) * len(dims))
