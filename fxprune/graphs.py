"""Graphs of fx: their calls read by the schemas of operators, their tensors by dotted names."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

try:
    from torch.fx._lazy_graph_module import _LazyGraphModule as Deferred
except ImportError:  # private: without it code is generated at once
    Deferred = fx.GraphModule  # type: ignore[assignment,misc]


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names of its operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): arg for i, arg in enumerate(node.args)} | dict(node.kwargs)
    names, defaults = parameters_of(node.target)
    bound = dict(defaults)
    bound.update(zip(names, node.args, strict=False))
    bound.update(node.kwargs)
    return bound


@cache
def parameters_of(operator: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names that an operator's arguments by position have, and all defaults."""
    listed = operator._schema.arguments
    names = tuple(one.name for one in listed if not one.kwarg_only)
    return names, {
        one.name: one.default_value if one.has_default_value() else None for one in listed
    }


def alias_of(node: fx.Node) -> tuple[fx.Node | None, bool]:
    """Return the operand whose storage the result shares, and whether the call writes to it."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0], False
    for place, writes in aliased_by(node.target):
        value = node.args[place] if place < len(node.args) else None
        if isinstance(value, fx.Node):
            return value, writes
    return None, False


@cache
def aliased_by(target: Any) -> tuple[tuple[int, bool], ...]:
    """Return which arguments an operator's result may share storage with, and if it writes."""
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    pairs = enumerate(target._schema.arguments)
    return tuple((k, one.alias_info.is_write) for k, one in pairs if one.alias_info is not None)


def changed_later(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes that are read after something changed their storage in place."""
    return later_writes(graph)[0]


def written_later(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes whose storage something changes after them: where it is shared, it stays."""
    return later_writes(graph)[1]


def later_writes(graph: fx.Graph) -> tuple[frozenset[fx.Node], frozenset[fx.Node]]:
    """Return the nodes that are read after their storage changes, and all whose storage does.

    Several results of one operator are stored apart, unless they are views of what it reads.
    """
    root: dict[fx.Node, fx.Node] = {}
    apart: dict[tuple[fx.Node, Any], fx.Node] = {}
    families: dict[fx.Node, list[fx.Node]] = {}
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        source, writes = alias_of(node)
        if source is None:
            root[node] = node
            continue
        root[node] = owner = root.get(source, source)
        if node.target is operator.getitem and owner is source and source.op == "call_function":
            root[node] = owner = apart.setdefault((source, node.args[1]), node)
        family = families.setdefault(owner, [owner])
        if writes:
            for other in family:
                found.setdefault(other, []).append(node)
        if owner is not node:
            family.append(node)
    place = {node: k for k, node in enumerate(graph.nodes)} if found else {}
    first = {node: place[writers[0]] for node, writers in found.items()}
    changed = (node for node, at in first.items() if any(place[user] > at for user in node.users))
    return frozenset(changed), frozenset(found)


def attribute(module: torch.nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path, or None where there is none."""
    found: Any = module
    *owners, leaf = path.split(".")
    for part in owners:  # a module's own look-up of its children is slow
        inside = getattr(found, "_modules", {})
        found = inside[part] if part in inside else getattr(found, part, None)
    return getattr(found, leaf, None)


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer by name, a shared one under each of its names."""
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    _collect(module, "", parameters, buffers)
    return parameters | buffers


def tolerance(module: torch.nn.Module, rtol: float) -> float:
    """Return the relative difference to allow: `rtol`, wider where a tensor has few digits.

    So has what a graph rounds to a grid: a last bit before it may make a step of the grid.
    """
    floats = {t.dtype for t in tensors_of(module).values() if t.is_floating_point()}
    steps = [torch.finfo(dtype).eps for dtype in floats]
    for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
        given = arguments(node) if node.op == "call_function" else {}
        if "quant_min" in given and "quant_max" in given:
            steps.append(1.0 / max(1, given["quant_max"] - given["quant_min"]))
    return max(rtol, 8 * max(steps, default=0.0))


def _collect(
    module: torch.nn.Module,
    prefix: str,
    parameters: dict[str, torch.Tensor],
    buffers: dict[str, torch.Tensor],
) -> None:
    """Name what a module holds; torch's own walk keeps account of duplicates, which takes long."""
    parameters.update((prefix + n, p) for n, p in module._parameters.items() if p is not None)
    buffers.update((prefix + n, b) for n, b in module._buffers.items() if b is not None)
    for name, child in module._modules.items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", parameters, buffers)


def used(module: fx.GraphModule, read: set[str]) -> Mapping[str, torch.Tensor]:
    """Return the tensors that the graph reads, and the buffers that stand beside them."""
    owners = {name.rpartition(".")[0] for name in read}
    return {
        name: tensor
        for name, tensor in tensors_of(module).items()
        if name in read
        or (not isinstance(tensor, torch.nn.Parameter) and name.rpartition(".")[0] in owners)
    }


def source_line(node: fx.Node) -> str:
    """Return `file:line` of the user's innermost line that made a node, or an empty string."""
    inside = os.path.dirname(torch.__file__) + os.sep
    places = re.findall(r'File "(.+?)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    ours = [f"{path}:{line}" for path, line in places if not path.startswith(inside)]
    return ours[-1] if ours else ""


def set_tensor(root: torch.nn.Module, path: str, value: Any, persistent: bool = True) -> None:
    """Set a tensor at a dotted path, making plain containers on the way."""
    *owners, leaf = path.split(".")
    at = root
    for part in owners:
        if part not in at._modules:
            at.add_module(part, torch.nn.Module())
        at = at._modules[part]  # type: ignore[assignment]
    if isinstance(value, torch.nn.Parameter):
        at.register_parameter(leaf, value)
    elif isinstance(value, torch.Tensor):
        at.register_buffer(leaf, value, persistent=persistent)
    else:
        setattr(at, leaf, value)


def free_name(path: str, taken: set[str]) -> str:
    """Return a path like `path` that is not taken yet, and take it."""
    while path in taken:
        path += "_"
    taken.add(path)
    return path


def emptied(module: fx.GraphModule) -> fx.GraphModule:
    """Return a module with a copy of the graph and none of the tensors, yet to be recompiled."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        values[node] = twin_of(node, graph, values.__getitem__)
        values[node].meta = dict(node.meta)
    graph._codegen = module.graph._codegen
    return vacant(graph)


def twin_of(node: fx.Node, graph: fx.Graph, twin: Callable[[fx.Node], Any]) -> fx.Node:
    """Return a copy of a node at the end of another graph, without its metadata.

    `twin` may make the copies of what it reads. The arguments are put in afterwards: a node is not
    made with them before torch has looked through them all.
    """
    args, kwargs = fx.map_arg(node.args, twin), fx.map_arg(node.kwargs, twin)
    new = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
    new.args = args
    if kwargs:
        new.kwargs = kwargs
    return new


def vacant(graph: fx.Graph) -> fx.GraphModule:
    """Return a module of a graph and none of its tensors: code is generated when it first runs."""
    bare = Deferred(torch.nn.Module(), fx.Graph(), class_name="Graph")
    bare._graph, graph.owning_module = graph, bare  # not compiled: the tensors are still to come
    return bare


def module_of(node: fx.Node) -> str:
    """Return the path of the innermost module whose forward made a node, or an empty string."""
    stack = node.meta.get("nn_module_stack") or {}
    return str([*stack.values()][-1][0]) if stack else ""
