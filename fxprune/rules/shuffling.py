"""Pixel and channel shuffles: a view, a permutation and a view in one operator."""

from __future__ import annotations

import numpy as np
import torch

from fxprune.guards import outer
from fxprune.rules.edit import Edit
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.selection import Rows, take
from fxprune.rules.site import Site, TensorGuard
from fxprune.rules.views import factored, regroup

aten = torch.ops.aten


def _shuffled(site: Site, x: TensorGuard, sizes: list[int], order: list[int]) -> TensorGuard:
    """View `x` with `sizes`, permute by `order`, view as the result."""
    viewed = factored(site, x, sizes)
    if viewed is None:
        site.pin_all([x], "a shuffle of an empty tensor")
        return site.fixed()
    return regroup(site, viewed.moved(order), site.out())


def _image(site: Site, factor: str) -> tuple[TensorGuard, int, tuple[list[int], int, int, int]]:
    """Return the operand, its factor and its sizes; the last two are spatial and pinned."""
    x, r = site.tensor("self"), int(site.args[factor])
    for g in x.dims[-2:]:
        site.pin(g, "a spatial axis keeps its size")
    *lead, c, h, w = (len(g) for g in x.dims)
    return x, r, (lead, c, h, w)


@couples(aten.pixel_shuffle.default)
def pixel_shuffle(site: Site) -> TensorGuard:
    """Turn `(c r s) h w` into `c (h r) (w s)`; the factors r and s are pinned."""
    x, r, (lead, c, h, w) = _image(site, "upscale_factor")
    n = len(lead)
    factor = site.split(x.dims[-3], [c // (r * r), r * r])[1]
    site.pin(factor, "the factor of a pixel shuffle keeps its size")
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return _shuffled(site, x, [*lead, c // (r * r), r, r, h, w], order)


@couples(aten.pixel_unshuffle.default)
def pixel_unshuffle(site: Site) -> TensorGuard:
    """Turn `c (h r) (w s)` into `(c r s) h w`."""
    x, r, (lead, c, h, w) = _image(site, "downscale_factor")
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return _shuffled(site, x, [*lead, c, h // r, r, w // r, r], order)


@couples(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(site: Site) -> TensorGuard:
    """Turn `n (g c) *` into `n (c g) *`."""
    x, n = site.tensor("self"), int(site.args["groups"])
    if site.coupling.loose:
        return x.with_(1, x.dims[1][_rows(n, len(x.dims[1]))])
    group, channel = site.split(x.dims[1], [n, len(x.dims[1]) // n])
    site.role(group, "group")
    return x.with_(1, outer([channel, group]))


@rewrites(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def regroup_channels(edit: Edit) -> None:
    """Count the groups of which anything is kept; gather rows of which each keeps others."""
    groups, mask = int(edit.args["groups"]), edit.mask("self", 1)
    rows = mask.reshape(groups, -1)
    if not np.array_equal(rows, np.outer(rows.any(axis=1), rows.any(axis=0))):
        return take(edit, "self", 1, _rows(groups, len(mask)))
    edit.set("groups", int(rows.any(axis=1).sum()))


def _rows(groups: int, size: int) -> Rows:
    """Return the channels in the order that a shuffle of so many groups puts them in."""
    return np.arange(size).reshape(groups, -1).T.ravel()
