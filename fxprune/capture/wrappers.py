"""Wrappers around models, compiled or parallel: what they wrap is captured, under its own names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxprune.capture.untouched import Held

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what `model` wraps, with every wrapper inside of it out of the way.

    Meanwhile nothing is compiled. Afterwards every wrapper is where it was.
    """
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    model = innermost(model)
    try:
        for owner in list(model.modules()):
            for name, child in list(owner._modules.items()):
                if child is not None and (inner := innermost(child)) is not child:
                    owner._modules[name] = inner
                    swapped.append((owner, name, child))
        with torch.compiler.set_stance("force_eager"):
            yield model
    finally:
        for owner, name, child in swapped:
            owner._modules[name] = child


def innermost(module: nn.Module) -> nn.Module:
    """Return the module inside all wrappers around it: itself where there is none."""
    while (inner := _wrapped(module)) is not None:
        module = inner
    return module


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper hands its calls to, or nothing where a module is no wrapper.

    A wrapper holds nothing but the module: as `_orig_mod`, or as `module` where its forward takes
    anything and hands it on.
    """
    held = module._modules
    if isinstance(module, torch.jit.ScriptModule) or _hooked(module):
        return None
    if len(held) != 1 or module._parameters or module._buffers:
        return None
    inner = held.get("_orig_mod") or held.get("module")
    if inner is None or "_orig_mod" in held or isinstance(module, PARALLEL):
        return inner
    return inner if _delegates(module) else None


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _delegates(wrapper: nn.Module) -> bool:
    """Tell whether a wrapper hands on what it is given, and returns what it gets, the very objects.

    A forward that names its arguments is written for one model: its path belongs to the model.
    """
    kinds = [one.kind for one in inspect.signature(wrapper.forward).parameters.values()]
    if kinds != [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]:
        return False
    inner, probe, given, named = wrapper._modules["module"], _Probe(), object(), object()
    wrapper._modules["module"] = probe
    held = Held(wrapper)
    try:
        result = wrapper.forward(given, named=named)
        return result is probe.result and probe.calls == [((given,), {"named": named})]
    except Exception:  # it does something with what it is given
        return False
    finally:
        held.put_back()
        wrapper._modules["module"] = inner


class _Probe(nn.Module):
    """Stand in for a wrapped module, and note how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.result = object()

    def forward(self, *args: Any, **kwargs: Any) -> object:
        self.calls.append((args, kwargs))
        return self.result
