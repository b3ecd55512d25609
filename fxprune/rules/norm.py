"""Normalisations. Those that take statistics over an axis make its removal approximate."""

from __future__ import annotations

import torch

from fxprune.guards import outer, true
from fxprune.rules.pattern import rule
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Edit, Site, TensorGuard

aten = torch.ops.aten

rule(
    aten.batch_norm.default,
    "n c *, c?, c?, c?, c? -> n c *",
    affine=True,
    roles={"c": "channel"},
)
rule(
    aten.instance_norm.default,
    "n c *, c?, c?, c?, c? -> n c *",
    affine=True,
    roles={"c": "channel"},
)


@couples(aten.layer_norm.default, aten.rms_norm.default, aten._fused_rms_norm.default)
def layer_norm(site: Site) -> TensorGuard:
    """Couple the normalised axes with weight and bias; their statistics change with their size."""
    x = site.tensor("input")
    dims = list(x.dims)
    n = len(site.args["normalized_shape"])
    zeros = list(x.zero[:-n]) + [False] * n
    affine = [value for name in ("weight", "bias") if (value := site.optional(name)) is not None]
    for d in range(-n, 0):
        for value in affine:
            dims[d] = site.unify(dims[d], value.dims[d])
        site.approximate(dims[d], f"{site.node.target} takes statistics over this axis")
        site.role(dims[d], "channel")
        zeros[d] = bool(affine) and all(value.zero[d] for value in affine)
    shift = site.optional("bias")
    zeros[:-n] = [zero and shift is None for zero in zeros[:-n]]
    return TensorGuard(tuple(dims), tuple(zeros))


@rewrites(aten.layer_norm.default, aten.rms_norm.default, aten._fused_rms_norm.default)
def shrink_layer_norm(edit: Edit) -> None:
    """Set `normalized_shape` to the kept sizes."""
    n = len(edit.args["normalized_shape"])
    edit.set("normalized_shape", [edit.count(g) for g in edit.value("input").dims[-n:]])


@couples(aten.group_norm.default)
def group_norm(site: Site) -> TensorGuard:
    """Couple `n (g c) *`: whole groups leave exactly, channels within a group approximately."""
    x = site.tensor("input")
    groups = int(site.args["num_groups"])
    g = x.dims[1]
    affine = [value for name in ("weight", "bias") if (value := site.optional(name)) is not None]
    for value in affine:
        g = site.unify(g, value.dims[0])
    group, channel = site.split(g, [groups, len(g) // groups])
    site.approximate(channel, f"{site.node.target} takes statistics over this axis")
    site.role(channel, "channel")
    site.role(group, "group" if len(channel) > 1 else "channel")
    for spatial in x.dims[2:]:
        site.pin(spatial, "a spatial axis keeps its size")
    zero = all(value.zero[0] for value in affine) if affine else x.zero[1]
    rest = (False,) * (len(x.dims) - 2)
    return TensorGuard((x.dims[0], outer([group, channel]), *x.dims[2:]), (False, zero, *rest))


@rewrites(aten.group_norm.default)
def shrink_group_norm(edit: Edit) -> None:
    """Set `num_groups` to the groups of which anything is kept."""
    groups = edit.mask("input", 1).reshape(int(edit.args["num_groups"]), -1)
    edit.set("num_groups", int(groups.any(axis=1).sum()))
