"""A graph as plain data that pickles: operators by name, nodes by place."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_aggregate


@dataclass(frozen=True)
class At:
    """Stand for the node at a place of the graph."""

    place: int


@dataclass(frozen=True)
class Operator:
    """Stand for an operator, which does not pickle, by its name."""

    space: str
    name: str
    overload: str = ""

    def found(self) -> Any:
        space = getattr(torch.ops, self.space)
        if not hasattr(space, self.name):
            importlib.import_module(self.space)  # torchvision::nms comes with torchvision
        packet = getattr(space, self.name)
        return getattr(packet, self.overload) if self.overload else packet


def _recorded(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        space, _, name = target._schema.name.partition("::")
        return Operator(space, name, target._overloadname)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return Operator("higher_order", target.name())
    return target


def records(graph: fx.Graph) -> dict[str, Any]:
    """Return a graph as data that pickles: operators by name, nodes by place."""
    place = {node: At(k) for k, node in enumerate(graph.nodes)}

    def read(one: Any) -> Any:
        return place[one] if isinstance(one, fx.Node) else one

    def encoded(value: Any) -> Any:
        return map_aggregate(value, read)

    nodes = [
        (
            *(node.op, node.name, _recorded(node.target)),
            *(encoded(node.args), encoded(node.kwargs), dict(node.meta)),
        )
        for node in graph.nodes
    ]
    info = graph._codegen.pytree_info if isinstance(graph._codegen, _PyTreeCodeGen) else None
    return {"nodes": nodes, "form": tuple(info) if info else None}


def graph_of(data: Mapping[str, Any]) -> fx.Graph:
    """Return the graph that `records` wrote down."""
    graph, made = fx.Graph(), list[fx.Node]()

    def read(one: Any) -> Any:
        return made[one.place] if isinstance(one, At) else one

    def decoded(value: Any) -> Any:
        return map_aggregate(value, read)

    for op, name, target, args, kwargs, meta in data["nodes"]:
        found = target.found() if isinstance(target, Operator) else target
        node = graph.create_node(op, found, decoded(args), decoded(kwargs), name)
        node.meta = dict(meta)
        made.append(node)
    form = data["form"]
    graph._codegen = _PyTreeCodeGen(_PyTreeInfo(*form)) if form else CodeGen()
    return graph
