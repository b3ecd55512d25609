"""Operators and the tensors that flow between them, with the units that each tensor carries.

A picture and a graph of networkx are made of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.graphs import module_of, source_line
from fxprune.rules import TensorGuard
from fxprune.targets import Discovery
from fxprune.targets.chains import operator_of

KINDS = {"placeholder": "input", "get_attr": "parameter", "output": "output"}
Carried = tuple[tuple[int, int], ...]  # an axis of a tensor, and a target of which it holds units


@dataclass(frozen=True)
class Operator:
    """Hold a node of the graph: its kind, where it comes from, and the shape of its result."""

    name: str
    kind: str
    operator: str
    module: str
    source: str
    shape: str


@dataclass(frozen=True)
class Flow:
    """Hold the nodes of a graph in order, and who reads what: places of two nodes."""

    nodes: tuple[Operator, ...]
    reads: tuple[tuple[int, int, Carried], ...]


def flow_of(discovery: Discovery) -> Flow:
    """Return the flow of a graph; tensors that are no parameters of the model are left out."""
    kept = [
        node
        for node in discovery.module.graph.nodes
        if node.op != "get_attr" or str(node.target) in discovery.parameters
    ]
    place = {node: number for number, node in enumerate(kept)}
    owner = _owners(discovery)
    carried: dict[fx.Node, Carried] = {}
    reads = []
    for node in kept:
        for operand in (one for one in node.all_input_nodes if one in place):
            if operand not in carried:
                carried[operand] = tuple(_carried(discovery, operand, owner))
            reads.append((place[operand], place[node], carried[operand]))
    return Flow(tuple(map(_described, kept)), tuple(reads))


def _described(node: fx.Node) -> Operator:
    value = node.meta.get("val")
    return Operator(
        str(node.target) if node.op == "get_attr" else node.name,
        KINDS.get(node.op, "operator"),
        operator_of(node),
        module_of(node),
        source_line(node),
        "×".join(map(str, value.shape)) if isinstance(value, torch.Tensor) else "",
    )


def _owners(discovery: Discovery) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return for each variable the number of the target that it is a unit of, or −1."""
    owner = np.full(discovery.coupling.guards.size, -1, dtype=np.int64)
    for number, target in enumerate(discovery.targets):
        owner[target.units] = number
    return owner


def _carried(discovery: Discovery, node: fx.Node, owner: Any) -> Iterator[tuple[int, int]]:
    """Yield which axis of a tensor holds units of which target."""
    value = discovery.coupling.values.get(node)
    for dim, guard in enumerate(value.dims if isinstance(value, TensorGuard) else ()):
        numbers = np.unique(owner[discovery.coupling.guards.normal(guard)])
        yield from ((dim, int(number)) for number in numbers if number >= 0)
