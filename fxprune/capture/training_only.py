"""Modules that hand their input on, such as `DropPath` and `QuantStub`: keep them in the graph.

In evaluation mode they return their input, and a trace shows nothing of them; what they are there
for happens in training, or when another tool puts something in their place. While a model is
captured, a marker operator stands where such a module was called, so that it can be restored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from fxprune.capture.marker import handed_on

DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu"}


class _Apart(TorchFunctionMode):
    """Hand an alias to dropouts, which in evaluation return the very tensor they are given.

    The trace would take every later use of that tensor for a use of the dropped one.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in DROPOUTS and args and torch.is_tensor(args[0]):
            args = (torch.ops.aten.alias.default(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(model: nn.Module) -> Iterator[set[str]]:
    """Put markers while the model runs in evaluation mode; yield the modules that read `training`.

    A module gets a marker when it owns no tensors and no children, and returns the very tensor that
    is all it was given.
    """
    names = {id(module): name for name, module in model.named_modules()}
    readers: set[str] = set()

    running: list[bool] = []

    def read(module: nn.Module) -> bool:
        if running and id(module) in names:  # the exporter reads it too, before and after
            readers.add(names[id(module)])
        return bool(module.__dict__["training"])

    def write(module: nn.Module, mode: bool) -> None:
        module.__dict__["training"] = mode

    def mark(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if len(args) == 1 and not kwargs and output is args[0] and isinstance(output, torch.Tensor):
            return handed_on(output, names[id(module)])
        return output

    bare = [m for m in model.modules() if m is not model and not any(True for _ in _owned(m))]
    handles = [module.register_forward_hook(mark, with_kwargs=True) for module in bare]
    handles.append(model.register_forward_pre_hook(lambda *_: running.append(True)))
    handles.append(model.register_forward_hook(lambda *_: running.clear()))
    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        with _Apart():
            yield readers
    finally:
        del nn.Module.training
        for handle in handles:
            handle.remove()


def _owned(module: nn.Module) -> Iterator[object]:
    yield from module.children()
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def attach(graph: fx.Graph, model: nn.Module) -> None:
    """Give every marker a copy of its module, in `meta["module"]`.

    A module that shows in the trace by itself, as a dropout does, needs no marker.
    """
    copies: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is torch.ops.fxprune.handed_on.default:
            path = str(node.args[1])
            given = node.args[0]
            stack = list((given.meta.get("nn_module_stack") or {}).values())
            if stack and stack[-1][0] == path:
                node.replace_all_uses_with(given)
                graph.erase_node(node)
                continue
            if path not in copies:
                with suppress(Exception):  # what a module holds may refuse to be copied
                    copies[path] = copy.deepcopy(model.get_submodule(path))
            node.meta["module"] = copies.get(path)
