"""Turn what the exporter returns into a plain module whose graph reads its tensors by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from fxprune.capture.regions import inline_regions
from fxprune.graphs import attribute, emptied, set_tensor


def unlifted(exported: ExportedProgram) -> fx.GraphModule:
    """Return an exported program as a module that shares its tensors, regions inlined."""
    module = exported.module(check_guards=False)
    _share(exported, module)
    inline_regions(module)
    module.graph.eliminate_dead_code(is_impure_node=effect)
    return _plain(module)


def effect(node: fx.Node) -> bool:
    """Tell the nodes that are kept without being used: inputs, the output, writes, tensors read."""
    if node.op in ("placeholder", "output"):
        return True
    target = node.target
    writes = isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
    return node.op == "call_function" and writes


def _share(exported: ExportedProgram, module: torch.nn.Module) -> None:
    """Give tensors that the model shares under several names one identity again."""
    first: dict[int, Any] = {}
    for name, tensor in exported.state_dict.items():
        owner_path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_path) if owner_path else module
        kept = first.setdefault(id(tensor), getattr(owner, leaf, tensor))
        if isinstance(kept, torch.nn.Parameter):
            owner.register_parameter(leaf, kept)
        elif leaf in owner._buffers:
            owner._buffers[leaf] = kept


def _plain(module: fx.GraphModule) -> fx.GraphModule:
    """Return the graph in a module class of its own, without the exporter's hooks and guards."""
    plain = emptied(module)
    persistent = set(module.state_dict())
    named = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    for node in module.graph.nodes:
        if node.op == "get_attr":
            named.setdefault(str(node.target), attribute(module, str(node.target)))
    for name, tensor in named.items():
        set_tensor(plain, name, tensor, persistent=name in persistent)
    plain.recompile()
    return plain
