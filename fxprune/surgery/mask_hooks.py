"""The hooks of a masked module: masks are put on before a forward, and off where none follows.

To keep them out of compiled graphs loads the compiler of torch, half of what torch itself takes:
this file is imported when a mask is attached, or a module that has one is unpickled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxprune.surgery.masked_parameters import hide, hold, pairs, settle


def before(module: nn.Module, args: Any) -> None:
    """Put the masks on before a forward."""
    if torch.compiler.is_exporting():
        return
    if torch.compiler.is_compiling() and not module._fxprune_dense:
        with torch.no_grad():  # a part of the compiled graph: it zeroes at every call
            for _, parameter, mask in pairs(module):
                parameter.masked_fill_(~mask, 0)
        return
    _mask(module)


def after(module: nn.Module, args: Any, result: Any) -> None:
    """Put dense weights back at once where no backward pass will follow."""
    if module._fxprune_dense and not torch.is_grad_enabled():
        _unmask(module)


def saved(module: nn.Module, *args: Any) -> None:
    """Zero what an optimizer has moved since the last forward, before the state dict is read."""
    if not module._fxprune_dense:
        hold(module)


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="masks that let gradients through are put on between two graphs"
)
def _mask(module: nn.Module) -> None:
    if _followed():
        return
    if module._fxprune_dense:
        hide(module)
    else:
        hold(module)


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="masks that let gradients through are taken off between two graphs"
)
def _unmask(module: nn.Module) -> None:
    if not _followed():
        settle(module)


def _followed() -> bool:
    """Tell whether the forward is only traced, not run: then values must not be changed."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode  # private: may be missing

    return _get_current_dispatch_mode() is not None
