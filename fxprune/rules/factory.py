"""Tensors made in the graph: a constant fill can have any size, a sequence any of its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.guards import Ids, true
from fxprune.rules.edit import Edit
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Site, TensorGuard, shape_of, symbolic, unbounded
from fxprune.rules.views import resized

aten = torch.ops.aten

SIZED: dict[Any, float | None] = {  # operator -> what fills it (None: its `fill_value`)
    aten.zeros.default: 0,
    aten.ones.default: 1,
    aten.full.default: None,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.new_full.default: None,
    aten.empty.memory_format: 1,
    aten.new_empty.default: 1,
}
LIKE = [
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
]
SEQUENCES = [
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.linspace.default,
    aten.logspace.default,
]
WHOLE = [
    aten.eye.default,
    aten.eye.m,
    aten.scalar_tensor.default,
]


@couples(*SIZED)
def filled(site: Site) -> TensorGuard:
    """Let every axis but those of a symbol be one of variables that no parameter owns."""
    out = site.out()
    fill = SIZED[site.operator]
    value = site.args.get("fill_value") if fill is None else fill
    dims: list[Ids] = [
        true(size) if fix else site.fresh(size)
        for size, fix in zip(shape_of(out), unbounded(out), strict=True)
    ]
    return TensorGuard(tuple(dims), (value == 0,) * len(dims))


@rewrites(*SIZED)
def resize_filled(edit: Edit) -> None:
    """Write the kept sizes."""
    edit.set("size", resized(edit, edit.args["size"]))


@couples(*LIKE)
def like(site: Site) -> TensorGuard:
    """Take the axes of the operand."""
    x = site.tensor("self")
    fill = 0 if site.operator is aten.zeros_like.default else site.args.get("fill_value")
    zero = not isinstance(fill, fx.Node) and fill == 0
    return TensorGuard(x.dims, (zero,) * len(x.dims))


@couples(*SEQUENCES)
def sequence(site: Site) -> TensorGuard:
    """Let the values of a sequence be of variables that no parameter owns."""
    out = site.out()
    (size,), (fix,) = shape_of(out), symbolic(out)
    return TensorGuard((true(size) if fix else site.fresh(size),), (False,))


@rewrites(*SEQUENCES)
def gather_sequence(edit: Edit) -> None:
    """Make the whole sequence, and take the values that are kept: each keeps its own."""
    graph, node = edit.node.graph, edit.node
    rows = torch.from_numpy(np.flatnonzero(edit.kept(edit.result().dims[0])))
    with graph.inserting_before(node):
        whole = graph.call_function(edit.operator, node.args, node.kwargs)
    whole.meta = dict(node.meta)
    node.target = aten.index_select.default
    node.args, node.kwargs = (whole, 0, edit.constant(rows, "rows")), {}


@couples(*WHOLE)
def whole(site: Site) -> TensorGuard:
    """Keep every index: each has a value of its own."""
    return site.fixed()
