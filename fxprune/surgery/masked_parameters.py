"""Parameters under masks: which there are, made zero for good, or for a pass and then put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

SUFFIX = "_mask"
# dense values of the parameters that are masked for a pass just now, and who is put back after it
_DENSE: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()
_FOLLOWED: MutableMapping[torch.Tensor, bool] = WeakTensorKeyDictionary()
# the masks that hooks on parameters multiply gradients with: hooks are neither copied nor pickled
_HOOKED: MutableMapping[torch.Tensor, list[torch.Tensor]] = WeakTensorKeyDictionary()


def register(module: nn.Module, masks: Mapping[str, torch.Tensor], dense: bool) -> None:
    """Give a module the buffers of its masks; `dense` keeps the weights that they hide."""
    for name, mask in masks.items():
        owner, leaf = _owner(module, name)
        device = owner.get_parameter(leaf).device
        owner.register_buffer(leaf + SUFFIX, mask.to(device))
    vars(module).update(_fxprune_masks=tuple(masks), _fxprune_dense=dense)


def forget(module: nn.Module) -> None:
    """Take the buffers of all masks off a module; what they made zero remains zero."""
    for name in masked(module):
        owner, leaf = _owner(module, name)
        if (parameter := owner.get_parameter(leaf)) in _HOOKED:
            _HOOKED[parameter].clear()
        if leaf + SUFFIX in owner._buffers:
            del owner._buffers[leaf + SUFFIX]
    vars(module)["_fxprune_masks"] = ()


def masked(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that have a mask."""
    return tuple(getattr(module, "_fxprune_masks", ()))


def masks_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the masks on a module by the names of their parameters."""
    return {name: mask for name, _, mask in pairs(module)}


def pairs(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
    """Yield the name, the parameter and the mask of each that has one."""
    for name in masked(module):
        owner, leaf = _owner(module, name)
        mask = owner._buffers.get(leaf + SUFFIX)
        if mask is not None:
            yield name, owner.get_parameter(leaf), mask


def hold(module: nn.Module) -> None:
    """Make zero what is masked, from now on for good, and mask the gradients."""
    vars(module)["_fxprune_dense"] = False
    for _, parameter, mask in pairs(module):
        _zero(parameter, mask)
        if parameter.requires_grad and parameter not in _HOOKED:
            parameter.register_hook(_masking(held := [mask]))
            _HOOKED[parameter] = held
        elif parameter.requires_grad:
            _HOOKED[parameter][:] = [mask]


def hide(module: nn.Module) -> None:
    """Make zero what is masked until the gradients of a pass are there, or `settle` is called."""
    for _, parameter, mask in pairs(module):
        restore(parameter)
        _DENSE[parameter] = parameter.data.clone()
        _zero(parameter, mask)
        if parameter.requires_grad and parameter not in _FOLLOWED:
            parameter.register_post_accumulate_grad_hook(restore)
            _FOLLOWED[parameter] = True


def settle(module: nn.Module) -> None:
    """Put back dense weights that a forward pass masked and no backward pass restored."""
    for _, parameter, _ in pairs(module):
        restore(parameter)


def restore(parameter: torch.Tensor) -> None:
    """Put back the dense values of a parameter, if a forward pass has masked them."""
    dense = _DENSE.pop(parameter, None)
    if dense is not None:
        parameter.data.copy_(dense)


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _zero(parameter: torch.Tensor, mask: torch.Tensor) -> None:
    # through `data`: a change of values that autograd is not told of, as an optimizer's step is
    parameter.data.masked_fill_(~mask, 0)


def _masking(held: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def masking(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * held[0] if held else gradient

    return masking
