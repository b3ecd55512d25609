"""Look-ups by tensors of indices: their shape passes on, the axes that they address stay.

Unless they number an axis that may shrink, such as that of experts: it is the same one then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids, true
from fxprune.rules.edit import Edit
from fxprune.rules.products import stacked
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.selection import take
from fxprune.rules.site import Site, TensorGuard, shape_of, unbounded

aten = torch.ops.aten

# what stands between a constant and its use without changing it
COPIES = {
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.detach.default,
    aten.detach_.default,
    aten.clone.default,
    aten.alias.default,
}
ADDRESSED = "the indices address this axis"


def constant_of(arg: Any) -> torch.Tensor | None:
    """Return the value of a node that reads a constant one-dimensional index tensor."""
    while isinstance(arg, fx.Node) and arg.target in COPIES:
        arg = arg.args[0]
    if not isinstance(arg, fx.Node) or arg.op != "get_attr":
        return None
    owner: Any = arg.graph.owning_module
    for part in str(arg.target).split("."):
        owner = getattr(owner, part)
    usable = isinstance(owner, torch.Tensor) and owner.dtype == torch.int64 and owner.ndim == 1
    return owner if usable and not owner.is_meta else None


@couples(aten.embedding.default)
def embedding(site: Site) -> TensorGuard:
    """Couple `v d, ... -> ... d`: the rows are addressed by data and pinned."""
    weight, indices = site.tensor("weight"), site.tensor("indices")
    site.address(weight.dims[0], site.args["indices"], "the indices address these rows")
    site.role(weight.dims[1], "channel")
    dims = (*indices.dims, weight.dims[1])
    return TensorGuard(dims, (*(False for _ in indices.dims), weight.zero[1]))


@couples(aten.embedding_bag.padding_idx, aten.embedding_bag.default)
def embedding_bag(site: Site) -> tuple[TensorGuard, ...]:
    """Couple `v d -> bags d`: rows and bags are pinned."""
    weight = site.tensor("weight")
    others = [site.optional(name) for name in ("indices", "offsets", "per_sample_weights")]
    site.pin_all(
        [TensorGuard(weight.dims[:1], (False,)), *others], "the indices address these rows"
    )
    site.role(weight.dims[1], "channel")
    bags = true(shape_of(site.node.meta["val"][0])[0])
    result = TensorGuard((bags, weight.dims[1]), (False, weight.zero[1]))
    return result, *(_beside(site, one, weight.dims[1]) for one in site.node.meta["val"][1:])


def _beside(site: Site, value: torch.Tensor, width: Ids) -> TensorGuard:
    fixed = site.fixed(value)
    wide = len(fixed.dims) == 2 and len(fixed.dims[1]) == len(width)
    return fixed.with_(1, width) if wide else fixed


@couples(aten.index_select.default)
def index_select(site: Site) -> TensorGuard:
    """Take rows by number: known ones move with the axis, others pin it."""
    x = site.tensor("self")
    return gathered(site, x, x.axis(site.args["dim"]), site.args["index"])


def gathered(site: Site, x: TensorGuard, dim: int, index: Any) -> TensorGuard:
    """Return the guards of the rows of `x` that a one-dimensional index takes."""
    rows, of = constant_of(index), site.of(index)
    if rows is not None and x.dims:
        site.pin_all([of], "the indices are rewritten, not shortened")
        return x.with_(dim, x.dims[dim][rows.numpy()])
    for g in x.dims[dim : dim + 1]:
        site.address(g, index, ADDRESSED)
    picked = of.dims[0] if of is not None and of.dims else true(1)
    return x.with_(dim, picked, False) if x.dims else x


@rewrites(aten.index_select.default)
def reindex(edit: Edit) -> None:
    """Take the kept rows among those that are kept."""
    rows, x = constant_of(edit.source.args[2]), edit.value("self")
    dim = x.axis(edit.args["dim"])
    if rows is not None and x.dims and not edit.mask("self", dim).all():
        take(edit, "self", dim, rows.numpy())


def _single(indices: Sequence[Any]) -> int | None:
    places = [d for d, index in enumerate(indices) if index is not None]
    return places[0] if len(places) == 1 else None


@couples(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(site: Site) -> TensorGuard:
    """Take elements by tensors of indices; the axes not indexed pass on."""
    x, indices = site.tensor("self"), list(site.args["indices"])
    only = _single(indices)
    if only is not None and constant_of(indices[only]) is not None:
        return gathered(site, x, only, indices[only])
    return addressed(site, x, indices, site.out())


def addressed(site: Site, x: TensorGuard, indices: Sequence[Any], out: torch.Tensor) -> TensorGuard:
    """Pin the axes of `x` that tensors of indices address; return the guards of what they take."""
    covered: list[int] = []
    d = 0
    for one in indices:
        wide = _width(one)
        if one is not None:
            covered += range(d, d + wide)
        d += wide
    single = _single(indices)
    for d in covered:
        if single is not None and len(covered) == 1:
            site.address(x.dims[d], indices[single], ADDRESSED)
            name_stack(site, x, d)
        else:
            site.pin(x.dims[d], ADDRESSED)
    sizes, rest = shape_of(out), x.without(covered)
    inner = len(sizes) - len(rest.dims)
    adjacent = bool(covered) and covered == list(range(covered[0], covered[-1] + 1))
    at = covered[0] if adjacent and _adjacent(indices) else 0
    middle = _broadcast(site, indices, sizes[at : at + inner])
    dims = [*rest.dims[:at], *middle, *rest.dims[at:]]
    for d, (size, fix) in enumerate(zip(sizes, unbounded(out), strict=True)):
        if fix or len(dims[d]) != size:
            site.pin(dims[d], "a size depends on the input")
            dims[d] = true(size)
    return TensorGuard(tuple(dims), (*rest.zero[:at], *(False for _ in middle), *rest.zero[at:]))


def name_stack(site: Site, x: TensorGuard, dim: int) -> None:
    """Call the first axis of a stack of matrices experts, where a choice takes some of them."""
    if dim == 0 and stacked(site.args.get("self")):
        site.role(x.dims[0], "expert")


def _width(one: Any) -> int:
    """Return how many axes an index consumes: a mask as many as it has."""
    meta = one.meta["val"] if isinstance(one, fx.Node) else None
    return meta.ndim if meta is not None and meta.dtype in (torch.bool, torch.uint8) else 1


def _adjacent(indices: Sequence[Any]) -> bool:
    places = [k for k, one in enumerate(indices) if one is not None]
    return places == list(range(places[0], places[-1] + 1))


def _broadcast(site: Site, indices: Sequence[Any], sizes: Sequence[int]) -> list[Ids]:
    """Return the guards of the axes that the index tensors, broadcast together, put in."""
    values = [value for one in indices if (value := site.of(one)) is not None]
    if any(_width(one) > 1 or _is_mask(one) for one in indices):
        site.pin_all(values, "a mask picks as many as it marks")
        return [true(size) for size in sizes]
    dims: list[Ids] = []
    for back in range(-len(sizes), 0):
        meet = [v.dims[back] for v in values if len(v.dims) >= -back and len(v.dims[back]) != 1]
        g = meet[0] if meet else true(sizes[back])
        for other in meet[1:]:
            g = site.unify(g, other)
        dims.append(g)
    return dims


def _is_mask(one: Any) -> bool:
    return isinstance(one, fx.Node) and one.meta["val"].dtype in (torch.bool, torch.uint8)


@rewrites(aten.index.Tensor, aten._unsafe_index.Tensor)
def reindex_tensor(edit: Edit) -> None:
    """Take the kept rows among those that are kept, where one constant index says which."""
    indices: list[Any] = list(edit.source.args[1])  # type: ignore[arg-type]
    only = _single(indices)
    rows = constant_of(indices[only]) if only is not None else None
    if only is not None and rows is not None and not edit.mask("self", only).all():
        take(edit, "self", only, rows.numpy())


@couples(aten.gather.default)
def gather(site: Site) -> TensorGuard:
    """Take elements along one axis; the others are the index tensor's."""
    x, picked = site.tensor("self"), site.tensor("index")
    dim = x.axis(site.args["dim"])
    return along(site, x, [picked], dim, site.args["index"])


def along(
    site: Site, x: TensorGuard, others: Sequence[TensorGuard], dim: int, index: Any
) -> TensorGuard:
    """Address axis `dim` of `x`; unify the others with those of the tensors beside it.

    Where those are shorter than `x`, a prefix of it is meant, and both are pinned.
    """
    first = others[0]
    for d, g in enumerate(x.dims):
        for other in others:
            if d != dim and len(g) == len(other.dims[d]) == len(first.dims[d]):
                g = site.unify(g, other.dims[d])
            elif d == dim:
                if len(other.dims[d]) == len(first.dims[d]):
                    site.unify(first.dims[d], other.dims[d])
                else:
                    site.pin_all([TensorGuard((other.dims[d], first.dims[d]), ())], ADDRESSED)
            else:
                site.pin_all([TensorGuard((g, other.dims[d], first.dims[d]), ())], ADDRESSED)
        if d == dim:
            site.address(g, index, ADDRESSED)
    return TensorGuard(first.dims, (False,) * len(first.dims))
