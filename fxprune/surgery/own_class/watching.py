"""Watch a model compute: which operators it calls, with which numbers, and whose numbers those are.

The operators are those of a capture: above autograd, undecomposed. Around them the functions are
watched that called them, whose arguments are still Python's, and remember where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _compiling_state_context
from torch.export._trace import _ignore_backend_decomps
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.capture.modes import evaluated
from fxprune.capture.untouched import Held
from fxprune.contexts import quiet
from fxprune.graphs import parameters_of
from fxprune.surgery.own_class.traced import Traced, numbers


@dataclass(frozen=True, eq=False)
class OperatorCall:
    """Hold an operator's arguments by name, and the integers of the function that called it."""

    operator: Any
    arguments: dict[str, Any]
    given: tuple[int, ...]
    shape: tuple[int, ...] | None


@dataclass
class _Watch:
    given: tuple[int, ...] = ()
    calls: list[OperatorCall] = field(default_factory=list)

    def take(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if isinstance(func, torch._ops.OpOverload):
            names, defaults = parameters_of(func)
            bound = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
            kept = {name: _without_data(value) for name, value in bound.items()}
            shape = tuple(map(int, out.shape)) if isinstance(out, torch.Tensor) else None
            self.calls.append(OperatorCall(func, kept, self.given, shape))
        return out


def _without_data(value: Any) -> Any:
    return [
        "tensor" if isinstance(one, torch.Tensor) else one
        for one in (numbers(value) if isinstance(value, (tuple, list)) else [value])
    ]


class _Functions(TorchFunctionMode):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, kwargs = self._watch.given, kwargs or {}
        leaves = numbers((args, kwargs))
        self._watch.given = tuple(
            one for one in leaves if isinstance(one, int) and not isinstance(one, bool)
        )
        try:
            return func(*args, **kwargs)
        finally:
            self._watch.given = before


class _Operators(ProxyTorchDispatchMode):
    """Hand every operator to a watch before autograd or a decomposition sees it."""

    def __init__(self, watch: _Watch) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.enter_stack = []
        self._watch = watch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._watch.take(func, args, kwargs or {})


def watched(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[OperatorCall], Exception | None]:
    """Run a model once and return its calls, up to where it raised what is returned beside them."""
    watch, held = _Watch(), Held(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    given, named = pytree.tree_map_only(torch.Tensor, torch.clone, (args, dict(kwargs)))
    try:
        with ExitStack() as stack:
            for context in (evaluated(model), quiet(), torch.enable_grad()):
                stack.enter_context(context)
            for context in (_compiling_state_context(), _ignore_backend_decomps()):
                stack.enter_context(context)
            stack.enter_context(enable_python_dispatcher())
            stack.enter_context(_Functions(watch))
            stack.enter_context(_Operators(watch))
            torch.func.functional_call(model, buffers, given, named)
    except Exception as error:  # sizes that do not fit raise whatever their operator raises
        return watch.calls, error
    finally:
        held.put_back()
    return watch.calls, None


__all__ = ["OperatorCall", "Traced", "watched"]
