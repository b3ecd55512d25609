"""Carry the state of an optimizer over to the smaller module that takes a module's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fxprune.capture import unwrapped
from fxprune.errors import CallbackError
from fxprune.surgery import aliases, cut_of

Kept = Mapping[str, tuple[torch.Tensor, ...]]


def carry(
    optimizer: torch.optim.Optimizer, old: nn.Module, new: nn.Module, kept: Kept | None
) -> None:
    """Let the optimizer hold the parameters of `new` in place of those of `old`, by their names.

    State of a parameter's own shape, such as momentum, is cut to the `kept` indices; other state,
    such as a step count, is kept. Parameters that `new` no longer has are dropped. Raises
    CallbackError where the optimizer holds a parameter that `old` has not.
    """
    with unwrapped(old) as plain:
        names = aliases(plain)
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
    cuts = [(d, k.to(value.device)) for d, k in enumerate(axes) if len(k) != shape[d]]
    return cut_of(value, cuts) if cuts else value.clone()
