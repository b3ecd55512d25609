"""Operators and the tensors that flow between them, with the units that each tensor carries.

A picture and a graph of networkx are made of these.
"""

from __future__ import annotations

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
    """Hold a node of the graph: its kind, where it comes from, and the shape of its result.

    `carries` says of which targets the result holds units, and along which axis.
    """

    name: str
    kind: str
    operator: str
    module: str
    source: str
    shape: str
    carries: Carried = ()


@dataclass(frozen=True)
class Flow:
    """Hold the nodes of a graph in order, and who reads what: places of two nodes."""

    nodes: tuple[Operator, ...]
    reads: tuple[tuple[int, int], ...]


def flow_of(discovery: Discovery) -> Flow:
    """Return the flow of a graph; tensors that are no parameters of the model are left out."""
    kept = [
        node
        for node in discovery.module.graph.nodes
        if node.op != "get_attr" or str(node.target) in discovery.parameters
    ]
    place = {node: number for number, node in enumerate(kept)}
    carrying = _Carrying(discovery)
    sizes: dict[Any, str] = {}  # sympy takes long to write an expression, and there are few

    def described(node: fx.Node) -> Operator:
        value = node.meta.get("val")
        shape = value.shape if isinstance(value, torch.Tensor) else ()
        return Operator(
            str(node.target) if node.op == "get_attr" else node.name,
            KINDS.get(node.op, "operator"),
            operator_of(node),
            module_of(node),
            source_line(node),
            "×".join(_size(size, sizes) for size in shape),
            carrying.of(node),
        )

    reads = (
        (place[operand], place[node])
        for node in kept
        for operand in node.all_input_nodes
        if operand in place
    )
    return Flow(tuple(map(described, kept)), tuple(reads))


def _size(size: Any, known: dict[Any, str]) -> str:
    """Return a size as text, each expression of symbols written once."""
    if isinstance(size, int):
        return str(size)
    expression = size.node.expr
    if expression not in known:
        known[expression] = str(size)
    return known[expression]


class _Carrying:
    """Tell of which targets a tensor holds units; axes with one guard are looked at once."""

    def __init__(self, discovery: Discovery) -> None:
        self._coupling = discovery.coupling
        self._owner = np.full(self._coupling.guards.size, -1, dtype=np.int64)
        for number, target in enumerate(discovery.targets):
            self._owner[target.units] = number
        self._known: dict[int, tuple[int, ...]] = {}  # by the id of a guard, which the coupling has

    def of(self, node: fx.Node) -> Carried:
        """Return which axis of the result of a node holds units of which targets."""
        value = self._coupling.values.get(node)
        dims = value.dims if isinstance(value, TensorGuard) else ()
        return tuple((dim, k) for dim, guard in enumerate(dims) for k in self._targets(guard))

    def _targets(self, guard: Any) -> tuple[int, ...]:
        if id(guard) not in self._known:
            owners = self._owner[self._coupling.guards.normal(guard)]
            numbers = np.flatnonzero(np.bincount(owners[owners >= 0].ravel()))
            self._known[id(guard)] = tuple(numbers.tolist())
        return self._known[id(guard)]
