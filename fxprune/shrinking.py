"""Shrink a graph: cut its tensors to what is kept, and rewrite the constants of its nodes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from fxprune.coupling import rule_for
from fxprune.guards import Mask
from fxprune.program import attribute, emptied, set_tensor, tensors_of, used
from fxprune.rules.kept import Kept
from fxprune.rules.site import Coupling, Edit, TensorGuard

ROWS = 1 << 16  # entries of the rows that are cut at a time: they fit into a cache


def kept_indices(
    module: fx.GraphModule, coupling: Coupling, alive: Mask
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return the kept indices of every axis of every tensor that the graph reads, by name."""
    kept = Kept(coupling.guards, alive)
    names = aliases(module)
    indices: dict[str, tuple[torch.Tensor, ...]] = {}
    for node in module.graph.nodes:
        value = coupling.values.get(node) if node.op == "get_attr" else None
        if not isinstance(value, TensorGuard) or str(node.target) in indices:
            continue
        axes = tuple(kept.indices(g) for g in value.dims)
        for name in names[id(attribute(module, str(node.target)))]:
            indices[name] = axes
    return indices


def aliases(module: torch.nn.Module) -> dict[int, list[str]]:
    """Return all names of every parameter and buffer, by the identity of the tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors_of(module).items():
        names.setdefault(id(tensor), []).append(name)
    return names


def shrink(
    module: fx.GraphModule,
    coupling: Coupling,
    alive: Mask,
    kept: Mapping[str, tuple[torch.Tensor, ...]] | None = None,
) -> fx.GraphModule:
    """Return a new module with its own, smaller tensors; the given one is left as it is.

    `kept` are the `kept_indices` of the same choice, where a plan holds them already.
    """
    kept = kept if kept is not None else kept_indices(module, coupling, alive)
    smaller = emptied(module)
    cut: dict[int, torch.Tensor] = {}
    persistent = set(module.state_dict(keep_vars=True))
    with torch.no_grad():
        for name, tensor in used(module, set(kept)).items():
            if id(tensor) not in cut:
                cut[id(tensor)] = _cut(tensor, kept.get(name))
            set_tensor(smaller, name, cut[id(tensor)], name in persistent)
    _rewrite(module, smaller, coupling, Kept(coupling.guards, alive))
    smaller.recompile()
    return smaller


def _cut(tensor: torch.Tensor, axes: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
    whole, shape = tensor.detach(), tensor.shape
    cuts = [(d, i.to(tensor.device)) for d, i in enumerate(axes or ()) if len(i) != shape[d]]
    smaller = _taken(whole, cuts) if cuts else whole.clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    return smaller


def _taken(tensor: torch.Tensor, cuts: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Take indices of some axes; of a large tensor some rows at a time, without a copy of all."""
    (dim, index), *rest = cuts
    if dim or len(rest) != 1 or tensor.numel() <= ROWS or tensor.device.type != "cpu":
        for dim, index in cuts:
            tensor = tensor.index_select(dim, index)
        return tensor
    ((other, inner),) = rest
    sizes = list(tensor.shape)
    sizes[0], sizes[other] = len(index), len(inner)
    smaller = tensor.new_empty(sizes)
    step = max(1, ROWS * len(tensor) // tensor.numel())
    for piece, rows in zip(smaller.split(step), index.split(step), strict=True):
        torch.index_select(tensor.index_select(0, rows), other, inner, out=piece)
    return smaller


def _rewrite(
    module: fx.GraphModule, smaller: fx.GraphModule, coupling: Coupling, kept: Kept
) -> None:
    """Let every rule rewrite its node's own constants."""
    for old, new in zip(list(module.graph.nodes), list(smaller.graph.nodes), strict=True):
        if old.op != "call_function":
            continue
        rule = rule_for(old.target)
        if rule is not None and rule.rewrite is not None:
            rule.rewrite(Edit(new, coupling.values, kept, old))
        elif str(old.target).startswith("aten._assert"):
            smaller.graph.erase_node(new)  # it asserts the old sizes
