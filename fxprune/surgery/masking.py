"""Zero the dropped units of a model instead of removing them: the oracle of every removal."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from fxprune.graphs import emptied, set_tensor, tensors_of
from fxprune.plan import Plan


def zeroed(
    module: torch.nn.Module, plan: Plan, spared: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Return copies of the parameters that lose indices, those indices zero; none of `spared`."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    made: dict[int, torch.Tensor] = {}
    changed: dict[str, torch.Tensor] = {}
    for name, axes in plan.kept.items():
        tensor, mask = parameters.get(name), plan.masks.get(name)
        if tensor is None or name in spared:
            continue
        if mask is None and all(len(k) == n for k, n in zip(axes, tensor.shape, strict=True)):
            continue
        if id(tensor) not in made:
            made[id(tensor)] = _zero(tensor, axes, mask)
        changed[name] = made[id(tensor)]
    return changed


def _zero(
    tensor: torch.Tensor, axes: tuple[torch.Tensor, ...], mask: torch.Tensor | None
) -> torch.Tensor:
    with torch.no_grad():
        copy = tensor.detach().clone()
        if mask is not None:
            places = torch.meshgrid(*(k.to(copy.device) for k in axes), indexing="ij")
            copy[places] *= mask.to(copy.device)
        for dim, kept in enumerate(axes):
            if len(kept) < copy.shape[dim]:
                gone = torch.ones(copy.shape[dim], dtype=torch.bool)
                gone[kept] = False
                copy.index_fill_(dim, gone.nonzero().flatten().to(copy.device), 0)
    return copy


def masked(module: fx.GraphModule, plan: Plan, spared: Collection[str] = ()) -> fx.GraphModule:
    """Return a module of the same sizes and its own tensors, the dropped units zero."""
    copy = owned(module)
    changed = zeroed(module, plan, spared)
    for name, parameter in copy.named_parameters(remove_duplicate=False):
        if name in changed:
            parameter.data.copy_(changed[name])
    return copy


def owned(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a captured module with its own tensors, what is shared still shared."""
    copy = emptied(module)
    persistent = set(module.state_dict())
    made: dict[int, torch.Tensor] = {}
    for name, tensor in tensors_of(module).items():
        if id(tensor) not in made:
            clone = tensor.detach().clone()
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = (
                torch.nn.Parameter(clone, tensor.requires_grad) if is_parameter else clone
            )
        set_tensor(copy, name, made[id(tensor)], persistent=name in persistent)
    copy.recompile()
    return copy
