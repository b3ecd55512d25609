"""Carry an optimizer from one module to the smaller one that takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fxprune.errors import CallbackError
from fxprune.shrinking import aliases

Kept = Mapping[str, tuple[torch.Tensor, ...]]


def carry(
    optimizer: torch.optim.Optimizer, old: nn.Module, new: nn.Module, kept: Kept | None
) -> None:
    """Let the optimizer hold the parameters of `new` in place of those of `old`, by their names.

    State of a parameter's own shape, such as momentum, is cut to the `kept` indices; other state,
    such as a step count, goes on. Parameters that `new` no longer has leave. Raises CallbackError
    where the optimizer holds a parameter that `old` has not.
    """
    names = aliases(old)
    fresh = dict(new.named_parameters(remove_duplicate=False))
    held = [one for group in optimizer.param_groups for one in group["params"]]
    if any(id(one) not in names for one in held):
        raise CallbackError(
            "optimizer: it holds a parameter that the model has not; make it of model.parameters()"
        )
    for group in optimizer.param_groups:
        group["params"] = [
            _moved(optimizer, one, fresh[name], kept, name)
            for one in group["params"]
            if (name := next((n for n in names[id(one)] if n in fresh), None)) is not None
        ]
    known = {id(one) for group in optimizer.param_groups for one in group["params"]}
    for one in [one for one in optimizer.state if id(one) not in known]:
        del optimizer.state[one]


def _moved(
    optimizer: torch.optim.Optimizer,
    old: torch.Tensor,
    new: nn.Parameter,
    kept: Kept | None,
    name: str,
) -> nn.Parameter:
    if old in optimizer.state and old is not new:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {
            key: _cut(value, old.shape, (kept or {}).get(name, ())) for key, value in state.items()
        }
    return new


def _cut(value: Any, shape: torch.Size, axes: tuple[torch.Tensor, ...]) -> Any:
    if not isinstance(value, torch.Tensor) or value.shape != shape:
        return value
    for dim, index in enumerate(axes):
        if len(index) != value.shape[dim]:
            value = value.index_select(dim, index.to(value.device))
    return value.clone()
