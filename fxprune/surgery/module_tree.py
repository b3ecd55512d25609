"""Set leaf modules and tensors out under their dotted paths, in containers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fxprune.graphs import attribute
from fxprune.surgery.module_matching import State


def tree_of(state: State, leaves: Mapping[str, nn.Module]) -> nn.Module:
    """Return the leaf modules and all tensors under their paths, in containers."""
    root = nn.Module()
    known = {state.identity(path): leaf for path, leaf in leaves.items() if state.owned.get(path)}
    for path in state.ordered:  # the order of the parameters is the optimizer's
        twin = leaves.get(path) or known.get(state.identity(path))
        if twin is not None:
            _mount(root, path, twin)
        else:
            _owner(root, path)
    for name, tensor in state.tensors.items():
        _hold(root, name, tensor, name in state.persistent)
    for path, leaf in leaves.items():
        _mount(root, path, leaf)
    for node in state.module.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in state.tensors:
            owner, _, last = str(node.target).rpartition(".")
            setattr(_owner(root, owner), last, attribute(state.module, str(node.target)))
    for leaf in leaves.values():
        if isinstance(leaf, nn.RNNBase):
            leaf._init_flat_weights()
    return _ordered(root)


def _owner(root: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, with plain containers made on the way."""
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _mount(root: nn.Module, path: str, leaf: nn.Module) -> None:
    owner, _, last = path.rpartition(".")
    if (held := _owner(root, owner)._modules.get(last)) is not leaf:
        _owner(root, owner)._modules[last] = leaf
        leaf._modules.update(held._modules if held is not None else {})


def _hold(root: nn.Module, name: str, tensor: torch.Tensor, persistent: bool) -> None:
    path, _, last = name.rpartition(".")
    owner = _owner(root, path)
    if isinstance(tensor, nn.Parameter):
        owner._buffers.pop(last, None)
        owner.register_parameter(last, tensor)
    else:
        owner._parameters.pop(last, None)
        owner.register_buffer(last, tensor, persistent=persistent)


def _ordered(module: nn.Module) -> nn.Module:
    """Return a container with numbered children in order, a list where none is missing."""
    for name, child in list(module._modules.items()):
        if type(child) is nn.Module:
            module._modules[name] = _ordered(child)
    names = list(module._modules)
    if not names or not all(name.isdecimal() for name in names):
        return module
    children = [(name, module._modules[name]) for name in sorted(names, key=int)]
    listed = names and sorted(map(int, names)) == list(range(len(names)))
    ordered = nn.ModuleList() if listed else nn.Module()
    vars(ordered).update({k: v for k, v in vars(module).items() if k != "_modules"})
    ordered._modules.update(children)
    return ordered
