"""Operators on spatial axes, which keep their sizes; every axis before them passes through."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from fxprune.guards import Ids, outer, true
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard, hint, shape_of

aten = torch.ops.aten

# operator -> number of trailing spatial axes
POOLS: dict[Any, int] = {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.max_pool1d_with_indices.default: 1,
    aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d_with_indices.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
    aten._adaptive_avg_pool2d.default: 2,
    aten._adaptive_avg_pool3d.default: 3,
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
    aten.upsample_nearest1d.vec: 1,
    aten.upsample_nearest2d.vec: 2,
    aten.upsample_nearest3d.vec: 3,
    aten.upsample_nearest1d.default: 1,
    aten.upsample_nearest2d.default: 2,
    aten.upsample_nearest3d.default: 3,
    aten._upsample_nearest_exact1d.vec: 1,
    aten._upsample_nearest_exact2d.vec: 2,
    aten._upsample_nearest_exact3d.vec: 3,
    aten.upsample_linear1d.vec: 1,
    aten.upsample_linear1d.default: 1,
    aten.upsample_bilinear2d.vec: 2,
    aten.upsample_bilinear2d.default: 2,
    aten.upsample_trilinear3d.vec: 3,
    aten.upsample_trilinear3d.default: 3,
    aten.upsample_bicubic2d.vec: 2,
    aten.upsample_bicubic2d.default: 2,
    aten._upsample_bilinear2d_aa.vec: 2,
    aten._upsample_bicubic2d_aa.vec: 2,
    aten._upsample_nearest_exact1d.default: 1,
    aten._upsample_nearest_exact2d.default: 2,
    aten._upsample_nearest_exact3d.default: 3,
    aten._upsample_bilinear2d_aa.default: 2,
    aten._upsample_bicubic2d_aa.default: 2,
    aten.reflection_pad1d.default: 1,
    aten.reflection_pad2d.default: 2,
    aten.reflection_pad3d.default: 3,
    aten.replication_pad1d.default: 1,
    aten.replication_pad2d.default: 2,
    aten.replication_pad3d.default: 3,
}


@couples(*POOLS)
def pool(site: Site) -> Any:
    """Pass the leading axes through; what is zero everywhere is zero after."""
    name = "input" if "input" in site.args else "self"
    value = site.node.meta["val"]
    n = POOLS[site.operator]
    pooled = _over(site, site.tensor(name), n, value if torch.is_tensor(value) else value[0])
    if not isinstance(value, (tuple, list)):
        return pooled
    return pooled, TensorGuard(pooled.dims, (False,) * len(pooled.dims))  # the second: positions


def _over(site: Site, x: TensorGuard, n: int, out: torch.Tensor) -> TensorGuard:
    for g in x.dims[-n:]:
        site.pin(g, "a spatial axis keeps its size")
    spatial = tuple(true(size) for size in shape_of(out)[-n:])
    return TensorGuard((*x.dims[:-n], *spatial), (*x.zero[:-n], *(False,) * n))


@couples(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def grid_sampler(site: Site) -> TensorGuard:
    """Sample `n c *` on a grid, which is pinned."""
    x, grid = site.tensor("input"), site.tensor("grid")
    site.pin_all([grid], "a sampling grid keeps its size")
    x = x.with_(0, site.unify(x.dims[0], grid.dims[0]))
    return _over(site, x, len(x.dims) - 2, site.out())


@couples(aten.max_unpool2d.default, aten.max_unpool3d.default)
def unpool(site: Site) -> TensorGuard:
    """Put values back where a pooling took them from."""
    n = 2 if site.operator is aten.max_unpool2d.default else 3
    x = site.unify_all([site.tensor("self"), site.tensor("indices")])
    return _over(site, TensorGuard(x.dims, site.tensor("self").zero), n, site.out())


@couples(aten.im2col.default)
def im2col(site: Site) -> TensorGuard:
    """Turn `n c h w` into `n (c k) l`, k the kernel positions."""
    x = site.tensor("self")
    kernel = prod(int(k) for k in site.args["kernel_size"])
    for g in x.dims[-2:]:
        site.pin(g, "a spatial axis keeps its size")
    columns = outer([x.dims[-3], true(kernel)])
    places = true(hint(site.out().shape[-1]))
    return TensorGuard((*x.dims[:-3], columns, places), (*x.zero[:-2], False))


@couples(aten.col2im.default)
def col2im(site: Site) -> TensorGuard:
    """Turn `n (c k) l` into `n c h w`."""
    x = site.tensor("self")
    kernel = prod(int(k) for k in site.args["kernel_size"])
    site.pin(x.dims[-1], "a spatial axis keeps its size")
    g = x.dims[-2]
    channel, inner = site.split(g, [len(g) // kernel, kernel])
    site.pin(inner, "a kernel axis keeps its size")
    spatial = tuple(true(size) for size in shape_of(site.out())[-2:])
    channel = site.split(channel, [len(channel)])[0]
    return TensorGuard((*x.dims[:-2], channel, *spatial), (*x.zero[:-1], False, False))


@couples(aten.unfold.default)
def unfold(site: Site) -> TensorGuard:
    """Slide a window along one axis, which is pinned; the window is a new last axis."""
    x = site.tensor("self")
    if not x.dims:
        return site.fixed()
    dim = x.axis(site.args["dimension"])
    site.pin(x.dims[dim], "a window slides along this axis")
    sizes = shape_of(site.out())
    dims: list[Ids] = [true(sizes[d]) if d == dim else g for d, g in enumerate(x.dims)]
    zeros = [zero and d != dim for d, zero in enumerate(x.zero)]
    return TensorGuard((*dims, true(sizes[-1])), (*zeros, False))
