"""The peak of the bytes of activations that are alive at once, as a function of what is kept."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.guards import Ids, Mask
from fxprune.rules.site import Coupling, TensorGuard, shape_of


@dataclass(frozen=True)
class Value:
    """Hold a storage: bytes of an element, places of its axes, and the nodes it lives between."""

    size: int
    axes: tuple[int, ...]
    born: int
    dead: int


class Peak:
    """Follow every storage of a graph from the node that makes it to the last that reads it.

    Views share the storage of what they look at; parameters and buffers are no activations.
    """

    def __init__(self, module: fx.GraphModule, coupling: Coupling, batch: int | None) -> None:
        self._batch = batch or 1
        self._coupling = coupling
        self._alike: dict[tuple[tuple[int, ...], bytes], int] = {}
        self._places: dict[int, int] = {}
        self._axes: list[Ids] = []
        self._values = self._followed(module)

    def _followed(self, module: fx.GraphModule) -> list[Value]:
        nodes = list(module.graph.nodes)
        place = {node: k for k, node in enumerate(nodes)}
        root: dict[fx.Node, fx.Node] = {}
        last: dict[fx.Node, int] = {}
        for node in nodes:
            root[node] = root.get(source, source) if (source := viewed(node)) else node
            ends = [place[user] for user in node.users] or [place[node]]
            last[root[node]] = max(last.get(root[node], 0), *ends)
        found: list[Value] = []
        for node in nodes:
            if node.op not in ("call_function", "placeholder") or root[node] is not node:
                continue
            for value, made in _pairs(self._coupling.values.get(node), node.meta.get("val")):
                axes = tuple(map(self._place, value.dims))
                found.append(Value(made.element_size(), axes, place[node], last[node]))
        return found

    def _place(self, g: Ids) -> int:
        if id(g) not in self._places:
            normal = self._coupling.guards.normal(g)
            key = (normal.shape, normal.tobytes())
            self._places[id(g)] = self._alike.setdefault(key, len(self._axes))
            if self._places[id(g)] == len(self._axes):
                self._axes.append(normal)
        return self._places[id(g)]

    def bytes(self, alive: Mask) -> int:
        """Return the peak for one example of the batch."""
        if not self._values:
            return 0
        sizes = np.array([int(alive[g].all(axis=1).sum()) for g in self._axes], dtype=np.int64)
        change: NDArray[np.int64] = np.zeros(max(v.dead for v in self._values) + 2, dtype=np.int64)
        for value in self._values:
            size = int(np.prod(sizes[list(value.axes)], dtype=np.int64)) * value.size
            change[value.born] += size
            change[value.dead + 1] -= size
        return int(np.cumsum(change).max()) // self._batch


def _pairs(value: object, made: object) -> list[tuple[TensorGuard, torch.Tensor]]:
    if isinstance(value, TensorGuard) and isinstance(made, torch.Tensor):
        return [(value, made)] if len(value.dims) == len(shape_of(made)) else []
    if isinstance(value, tuple) and isinstance(made, (tuple, list)):
        return [pair for one, of in zip(value, made, strict=False) for pair in _pairs(one, of)]
    return []


def viewed(node: fx.Node) -> fx.Node | None:
    """Return the node whose storage a node's result shares, if any."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0]
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and isinstance(value, fx.Node):
            return value
    return None
