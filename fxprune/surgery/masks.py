"""Masks that live on a module: what they drop is zero in every forward and gets no gradient.

The mask of `a.weight` is the buffer `a.weight_mask`. Two ways to hold it:

- held: the weights are zero, and remain so whatever an optimizer does, since every forward zeroes
  them first and their gradients are masked;
- straight through: the weights are dense and the mask is put on for the forward and the backward
  pass only, so that a gradient reaches masked weights too, which may come back (Sanh et al. 2020,
  arXiv:2005.07683, after Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from fxprune.surgery.masked_parameters import (
    forget,
    hold,
    masked,
    masks_of,
    register,
    restore,
    settle,
)

__all__ = ["Masks", "attach", "detach", "hold", "masked", "masks_of", "restore", "settle"]


@dataclass(frozen=True)
class Masks:
    """Hold the masks that weights have already, by name, bool `[shape of the parameter]`.

    With `straight_through` they are put on for each forward only, and the weights are dense.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    straight_through: bool = False


def attach(module: nn.Module, masks: Mapping[str, torch.Tensor], dense: bool = False) -> None:
    """Put masks, bool `[shape of the parameter]` by its name, on a module; `dense` keeps weights.

    Masks that the module has already are replaced.
    """
    detach(module)
    register(module, masks, dense)
    if masks:
        from fxprune.surgery import mask_hooks as hooks  # late: they load the compiler of torch

        module.register_forward_pre_hook(hooks.before, prepend=True)
        module.register_forward_hook(hooks.after)
        module.register_state_dict_pre_hook(hooks.saved)
        if not dense:
            hold(module)


def detach(module: nn.Module) -> None:
    """Take all masks off a module; what they made zero remains zero."""
    had = masked(module)
    forget(module)
    if not had:
        return
    from fxprune.surgery import mask_hooks as hooks  # late, and there already

    ours = (hooks.before, hooks.after, hooks.saved)
    kinds = (module._forward_pre_hooks, module._forward_hooks, module._state_dict_pre_hooks)
    for listed in kinds:
        for key in [key for key, hook in listed.items() if hook in ours]:
            del listed[key]
