"""Call sites of a running model: which module calls, at which line."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from fxprune.graphs import tensors_of

Stack = dict[str, tuple[str, str]]  # module path -> (path, class), outermost first

TORCH = os.path.dirname(torch.__file__) + os.sep
LAYERS = os.path.join(TORCH + "nn", "modules") + os.sep


class Refused(Exception):
    """Say what a model does that is not recorded."""


def ordinary(model: nn.Module) -> None:
    """Raise Refused for modules and tensors that the exporter treats in ways of their own."""
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    if len(modules) != len(set(map(id, modules))):
        raise Refused("a module has several paths")
    if any(isinstance(one, (fx.GraphModule, torch.jit.ScriptModule)) for one in modules):
        raise Refused("a module is a graph or a script")
    for tensor in tensors_of(model).values():
        if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout != torch.strided:
            raise Refused("a tensor is of a kind of its own")


class CallSites:
    """Follow a model while it runs."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.stack: Stack = {}
        self._texts: dict[tuple[Any, int], str] = {}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep `stack` up to date while modules call each other."""
        call: Callable[..., Any] = nn.Module.__call__

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if path is None:
                return call(module, *args, **kwargs)
            above, kind = self.stack, type(module)
            self.stack = {**above, path: (path, f"{kind.__module__}.{kind.__qualname__}")}
            try:
                return call(module, *args, **kwargs)
            finally:
                self.stack = above

        nn.Module.__call__ = called  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    def lines(self) -> str:
        """Return the lines of the forwards that are running, outermost first, as tracebacks do."""
        found: list[str] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "forward" and _shown(code.co_filename):
                found.append(self._text(frame))
            frame = frame.f_back
        return "".join(reversed(found))

    def _text(self, frame: FrameType) -> str:
        code, line = frame.f_code, frame.f_lineno
        key = (code, line)
        if key not in self._texts:
            source = linecache.getline(code.co_filename, line).strip()
            place = f'File "{code.co_filename}", line {line}, in {code.co_name}'
            self._texts[key] = f"  {place}\n    {source}\n"
        return self._texts[key]


def _shown(filename: str) -> bool:
    return not filename.startswith(TORCH) or filename.startswith(LAYERS)
