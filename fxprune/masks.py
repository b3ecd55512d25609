"""Masks that live on a module: what they drop is zero in every forward and gets no gradient.

The mask of `a.weight` is the buffer `a.weight_mask`. Two ways to hold it:

- held: the weights are zero, and stay so whatever an optimizer does, since every forward zeroes
  them first and their gradients are masked;
- straight through: the weights stay dense and the mask is put on for the forward and the backward
  pass only, so that a gradient reaches what is masked too, and it may come back (Sanh et al. 2020,
  arXiv:2005.07683, after Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

SUFFIX = "_mask"
# dense values of the parameters that are masked for a pass just now, and who is put back after it
_DENSE: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()
_FOLLOWED: MutableMapping[torch.Tensor, bool] = WeakTensorKeyDictionary()
# the masks that hooks on parameters multiply gradients with: hooks are neither copied nor pickled
_HOOKED: MutableMapping[torch.Tensor, list[torch.Tensor]] = WeakTensorKeyDictionary()


def attach(module: nn.Module, masks: Mapping[str, torch.Tensor], dense: bool = False) -> None:
    """Put masks, bool `[shape of the parameter]` by its name, on a module; `dense` keeps weights.

    Masks that the module has already are replaced.
    """
    detach(module)
    for name, mask in masks.items():
        owner, leaf = _owner(module, name)
        device = owner.get_parameter(leaf).device
        owner.register_buffer(leaf + SUFFIX, mask.to(device))
    vars(module).update(_fxprune_masks=tuple(masks), _fxprune_dense=dense)
    if masks:
        module.register_forward_pre_hook(_before, prepend=True)
        module.register_forward_hook(_after)
        module.register_state_dict_pre_hook(_saved)
        if not dense:
            hold(module)


def detach(module: nn.Module) -> None:
    """Take all masks off a module; what they made zero stays zero."""
    for name in masked(module):
        owner, leaf = _owner(module, name)
        if (parameter := owner.get_parameter(leaf)) in _HOOKED:
            _HOOKED[parameter].clear()
        if leaf + SUFFIX in owner._buffers:
            del owner._buffers[leaf + SUFFIX]
    vars(module)["_fxprune_masks"] = ()
    kinds = (module._forward_pre_hooks, module._forward_hooks, module._state_dict_pre_hooks)
    for hooks in kinds:
        for key in [key for key, hook in hooks.items() if hook in (_before, _after, _saved)]:
            del hooks[key]


def masked(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that have a mask."""
    return tuple(getattr(module, "_fxprune_masks", ()))


def masks_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the masks on a module by the names of their parameters."""
    return {name: mask for name, _, mask in _pairs(module)}


def hold(module: nn.Module) -> None:
    """Make zero what is masked, from now on for good, and mask the gradients."""
    vars(module)["_fxprune_dense"] = False
    for _, parameter, mask in _pairs(module):
        _zero(parameter, mask)
        if parameter.requires_grad and parameter not in _HOOKED:
            parameter.register_hook(_masking(held := [mask]))
            _HOOKED[parameter] = held
        elif parameter.requires_grad:
            _HOOKED[parameter][:] = [mask]


def _pairs(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
    for name in masked(module):
        owner, leaf = _owner(module, name)
        mask = owner._buffers.get(leaf + SUFFIX)
        if mask is not None:
            yield name, owner.get_parameter(leaf), mask


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


def _followed() -> bool:
    """Tell whether the forward is only followed, not run: then values are not to be changed."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode  # private: may be missing

    return _get_current_dispatch_mode() is not None


def _before(module: nn.Module, args: Any) -> None:
    if torch.compiler.is_exporting():
        return
    if torch.compiler.is_compiling() and not module._fxprune_dense:
        with torch.no_grad():  # a part of the compiled graph: it zeroes at every call
            for _, parameter, mask in _pairs(module):
                parameter.masked_fill_(~mask, 0)
        return
    _mask(module)


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="masks that let gradients through are put on between two graphs"
)
def _mask(module: nn.Module) -> None:
    if _followed():
        return
    if not module._fxprune_dense:
        hold(module)
        return
    for _, parameter, mask in _pairs(module):
        restore(parameter)
        _DENSE[parameter] = parameter.data.clone()
        _zero(parameter, mask)
        if parameter.requires_grad and parameter not in _FOLLOWED:
            parameter.register_post_accumulate_grad_hook(restore)
            _FOLLOWED[parameter] = True


def _after(module: nn.Module, args: Any, result: Any) -> None:
    """Put dense weights back at once where no backward pass will follow."""
    if module._fxprune_dense and not torch.is_grad_enabled():
        _unmask(module)


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="masks that let gradients through are taken off between two graphs"
)
def _unmask(module: nn.Module) -> None:
    if not _followed():
        settle(module)


def _saved(module: nn.Module, *args: Any) -> None:
    """Zero what an optimizer has moved since the last forward, before the state dict is read."""
    if not module._fxprune_dense:
        hold(module)


def settle(module: nn.Module) -> None:
    """Put back dense weights that a forward pass without a backward pass left masked."""
    for _, parameter, _ in _pairs(module):
        restore(parameter)


def restore(parameter: torch.Tensor) -> None:
    """Put back the dense values of a parameter, if a forward pass has masked them."""
    dense = _DENSE.pop(parameter, None)
    if dense is not None:
        parameter.data.copy_(dense)
