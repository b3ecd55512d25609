"""Fake quantization: entries are rounded to a grid, one for all of them or one a channel."""

from __future__ import annotations

import torch
from torch import fx

from fxprune.graphs import arguments, attribute
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten

QUANTIZERS = [
    aten.fake_quantize_per_tensor_affine.default,
    aten.fake_quantize_per_tensor_affine.tensor_qparams,
    aten.fake_quantize_per_channel_affine.default,
    aten.fake_quantize_per_tensor_affine_cachemask.default,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default,
    aten.fake_quantize_per_channel_affine_cachemask.default,
    aten._fake_quantize_learnable_per_tensor_affine.default,
    aten._fake_quantize_learnable_per_channel_affine.default,
]
OBSERVERS = [
    aten.fused_moving_avg_obs_fake_quant.default,
    aten._fused_moving_avg_obs_fq_helper.default,
    aten._fused_moving_avg_obs_fq_helper_functional.default,
]
GRID = ("running_min", "running_max", "scale", "zero_point")  # one number, or one a channel


@couples(*QUANTIZERS, *OBSERVERS)
def quantize(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Couple the channels with the numbers of their grids; zero is on every grid."""
    x = site.tensor("self")
    grids = {name: grid for name in GRID if (grid := site.optional(name)) is not None}
    channel = _channel(site, x)
    dims = list(x.dims)
    for grid in grids.values() if channel >= 0 else ():
        if len(grid.dims) == 1 and len(grid.dims[0]) == len(dims[channel]):
            dims[channel] = site.unify(dims[channel], grid.dims[0])
            if grid.zero[0]:  # a parameter: zeroed with the unit
                site.approximate(dims[channel], "a grid whose scale is zero has no points")
    if observes(site.node):
        for dim, g in enumerate(dims):
            if dim != channel:
                site.approximate(g, f"{site.operator} takes the range of what it sees")
    return _results(site, TensorGuard(tuple(dims), x.zero), grids)


def _channel(site: Site, x: TensorGuard) -> int:
    """Return the axis of which each index has a grid of its own, or -1."""
    if "axis" in site.args:
        return x.axis(site.args["axis"])
    return x.axis(site.args["ch_axis"]) if site.args.get("per_row_fake_quant") else -1


def _results(
    site: Site, rounded: TensorGuard, grids: dict[str, TensorGuard]
) -> TensorGuard | tuple[TensorGuard, ...]:
    made = site.node.meta["val"]
    if isinstance(made, torch.Tensor):
        return rounded
    inside = TensorGuard(rounded.dims, (False,) * len(rounded.dims))  # whether within the range
    return (rounded, inside, *(grids[name] for name in GRID[: len(made) - 2]))


def observes(node: fx.Node) -> bool:
    """Tell a quantizer that adapts its grid to what it sees, as the model is now."""
    if node.target not in OBSERVERS:
        return False
    switch = arguments(node)["observer_on"]
    owner = node.graph.owning_module
    if not isinstance(switch, fx.Node) or switch.op != "get_attr" or owner is None:
        return True
    value = attribute(owner, str(switch.target))
    return not isinstance(value, torch.Tensor) or value.is_meta or bool(value.any())
