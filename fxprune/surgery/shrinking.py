"""Shrink a graph: cut its tensors to what is kept, and rewrite the constants of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from fxprune.errors import PassError, root_cause
from fxprune.graphs import attribute, emptied, set_tensor, tensors_of, used
from fxprune.guards import Mask
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.rules.edit import Edit
from fxprune.rules.numbering import recall
from fxprune.rules.registry import Rewrite
from fxprune.surgery.kept_weights import Twins, keep_weights
from fxprune.targets import rule_for

ROWS = 1 << 16  # entries of the rows that are cut at a time: they fit into a cache
LONGEST = 200  # characters of what a rule raised


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
    """Return a new module with its own, smaller tensors; the given one is not changed.

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
    twins = dict(zip(module.graph.nodes, smaller.graph.nodes, strict=True))
    _rewrite(twins, coupling, Kept(coupling.guards, alive))
    keep_weights(module, smaller, twins, coupling, alive)
    smaller.recompile()
    return smaller


def _cut(tensor: torch.Tensor, axes: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
    whole, shape = tensor.detach(), tensor.shape
    cuts = [(d, i.to(tensor.device)) for d, i in enumerate(axes or ()) if len(i) != shape[d]]
    smaller = cut_of(whole, cuts) if cuts else whole.clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    return smaller


def cut_of(tensor: torch.Tensor, cuts: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Return a tensor cut to some indices of some axes, laid out in memory in the same order."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda d: (-strides[d], -tensor.shape[d]))
    places = {dim: place for place, dim in enumerate(order)}
    moved = sorted(((places[dim], index) for dim, index in cuts), key=lambda cut: cut[0])
    return _taken(tensor.permute(order), moved).permute([places[d] for d in range(tensor.ndim)])


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


def _rewrite(twins: Twins, coupling: Coupling, kept: Kept) -> None:
    """Let every rule rewrite its node's own constants."""
    for old, new in twins.items():
        if old.op != "call_function":
            continue
        recall(old, new, coupling, kept, twins)
        rule = rule_for(old.target)
        if rule is not None and rule.rewrite is not None:
            _rewritten(rule.rewrite, Edit(new, coupling, kept, old))
        elif str(old.target).startswith("aten._assert"):
            new.graph.erase_node(new)  # it asserts the old sizes


def _rewritten(rewrite: Rewrite, edit: Edit) -> None:
    """Rewrite a node that reads or makes anything smaller; one that does not stays as it is."""
    if not edit.loses():
        return
    try:
        rewrite(edit)
    except Exception as error:  # whatever it raises, it is the rule's fault, not the caller's
        raise PassError(
            f"{edit.source.name}: the rule of {edit.source.target} cannot rewrite it: "
            f"{root_cause(error, LONGEST)}; exclude what it touches, or mend the rule in "
            "fxprune/rules/"
        ) from error
