"""Normalisations. Those that take statistics over an axis make its removal approximate."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fxprune.guards import Ids, outer, true
from fxprune.rules.edit import Edit
from fxprune.rules.pattern import PatternRule
from fxprune.rules.registry import Rule, couples, register, rewrites
from fxprune.rules.site import Site, TensorGuard, shape_of

aten = torch.ops.aten

# operators that normalise each channel by itself -> the names of their operands
PER_CHANNEL = {
    aten.batch_norm.default: "running_mean running_var",
    aten.instance_norm.default: "running_mean running_var",
    aten.native_batch_norm.default: "running_mean running_var",
    aten._native_batch_norm_legit.default: "running_mean running_var",
    aten._native_batch_norm_legit.no_stats: "",
    aten._native_batch_norm_legit_no_training.default: "running_mean running_var",
}


def _per_channel(statistics: str) -> Callable[[Site], TensorGuard | tuple[TensorGuard, ...]]:
    operands = ("input", "weight", "bias", *statistics.split())
    text = "n c ..." + ", c?" * (len(operands) - 1) + " -> n c ..."
    pattern = PatternRule(text, operands, roles={"c": "channel"}, affine=True)

    def couple(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
        x = site.tensor("input")
        if site.args.get("training", site.args.get("use_input_stats")) or not statistics:
            for g in (x.dims[0], *x.dims[2:]):
                site.approximate(g, f"{site.operator} takes statistics over this axis")
        out = site.node.meta["val"]
        if isinstance(out, torch.Tensor):
            return pattern.couple(site)
        normal = pattern.couple(site, out[0])
        return normal, *(_saved(normal.dims[1], one) for one in out[1:])

    return couple


def _saved(channel: Ids, value: torch.Tensor) -> TensorGuard:
    """Return the guards of a saved statistic: one a channel, or none."""
    sizes = shape_of(value)
    dims = (channel if sizes == (len(channel),) else true(n) for n in sizes)
    return TensorGuard(tuple(dims), (False,) * len(sizes))


for _operator, _statistics in PER_CHANNEL.items():
    register([_operator], Rule(_per_channel(_statistics)))


LAYER = [aten.layer_norm.default, aten.native_layer_norm.default]
RMS = [aten.rms_norm.default, aten._fused_rms_norm.default]


@couples(*LAYER, *RMS)
def layer_norm(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Couple the normalised axes with weight and bias; their statistics change with their size."""
    x = site.tensor("input")
    n, centred = len(site.args["normalized_shape"]), site.operator in LAYER
    weight, shift = site.optional("weight"), site.optional("bias")
    affine = [value for value in (weight, shift) if value is not None]
    dims = list(x.dims)
    for d in range(-n, 0):
        for value in affine:
            dims[d] = site.unify(dims[d], value.dims[d])
        site.approximate(dims[d], f"{site.operator} takes statistics over this axis")
        site.role(dims[d], "channel")
    zeros = [zero and shift is None for zero in x.zero]
    for d in range(-n, 0):
        bare = not centred and x.zero[d]
        scaled = weight is not None and weight.zero[d]
        zeros[d] = (bare or scaled) and (shift is None or shift.zero[d])
    result = TensorGuard(tuple(dims), tuple(zeros))
    if isinstance(site.node.meta["val"], torch.Tensor):
        return result
    lead = (*dims[:-n], *(true(1),) * n)
    saved = TensorGuard(lead, (False,) * len(lead))
    return result, *(saved for _ in site.node.meta["val"][1:])


@rewrites(*LAYER, *RMS)
def shrink_layer_norm(edit: Edit) -> None:
    """Set `normalized_shape` to the kept sizes."""
    n = len(edit.args["normalized_shape"])
    edit.set("normalized_shape", [edit.count(g) for g in edit.value("input").dims[-n:]])


def _grouped(site: Site, groups: int) -> tuple[TensorGuard, Ids]:
    """Return the guards of a group-normalised tensor, and of its groups."""
    x = site.tensor("input")
    affine = [value for name in ("weight", "bias") if (value := site.optional(name)) is not None]
    g = x.dims[1]
    for value in affine:
        g = site.unify(g, value.dims[0])
    group, channel = site.split(g, [groups, len(g) // groups])
    site.approximate(channel, f"{site.operator} takes statistics over this axis")
    site.role(channel, "channel")
    site.role(group, "group" if len(channel) > 1 else "channel")
    for spatial in x.dims[2:]:
        site.pin(spatial, "a spatial axis keeps its size")
    weight, bias = site.optional("weight"), site.optional("bias")
    zero = x.zero[1] if weight is None else weight.zero[0]
    zero = zero and (bias is None or bias.zero[0])
    rest = (False,) * (len(x.dims) - 2)
    dims = (x.dims[0], outer([group, channel]), *x.dims[2:])
    return TensorGuard(dims, (False, zero, *rest)), group


@couples(aten.group_norm.default)
def group_norm(site: Site) -> TensorGuard:
    """Couple `n (g c) *`: removing groups is exact, channels within a group approximate."""
    return _grouped(site, int(site.args["num_groups"]))[0]


@couples(aten.native_group_norm.default)
def native_group_norm(site: Site) -> tuple[TensorGuard, ...]:
    """Couple as above; mean and deviation of each group come too."""
    result, group = _grouped(site, int(site.args["group"]))
    saved = TensorGuard((result.dims[0], group), (False, False))
    return result, saved, saved


@rewrites(aten.group_norm.default, aten.native_group_norm.default)
def shrink_group_norm(edit: Edit) -> None:
    """Set the number of groups to those of which anything is kept, and of channels likewise."""
    name = "num_groups" if "num_groups" in edit.args else "group"
    mask = edit.mask("input", 1)
    edit.set(name, int(mask.reshape(int(edit.args[name]), -1).any(axis=1).sum()))
    if "C" in edit.args:
        edit.set("C", int(mask.sum()))
        if isinstance(edit.args["N"], int):
            edit.set("N", edit.count(edit.value("input").dims[0]))


@couples(aten._weight_norm.default)
def weight_norm(site: Site) -> TensorGuard:
    """Scale each slice of `v` along one axis to the length that `g` says; one of zeros has none."""
    v, g = site.tensor("v"), site.tensor("g")
    dim = int(site.args["dim"])
    if dim == -1 or len(g.dims) != len(v.dims):
        return v
    dim %= len(v.dims)
    return v.with_(dim, site.unify(v.dims[dim], g.dims[dim]), False)
