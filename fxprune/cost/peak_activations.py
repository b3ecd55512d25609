"""The peak of the bytes of activations that are alive at once, as a function of what is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from fxprune.graphs import alias_of
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, TensorGuard, shape_of


@dataclass(frozen=True)
class Value:
    """Hold a storage: bytes of an element, places of its axes, and the nodes it lives between."""

    size: int
    axes: tuple[int, ...]
    born: int
    dead: int


class PeakActivations:
    """Follow every storage of a graph from the node that makes it to the last that reads it.

    Views share the storage of what they look at; parameters and buffers are no activations.
    """

    def __init__(self, module: fx.GraphModule, coupling: Coupling, batch: int | None) -> None:
        self._batch = batch or 1
        self._coupling = coupling
        self._alike: dict[tuple[tuple[int, ...], bytes], int] = {}
        self._place: dict[int, int] = {}
        self._axes: list[Ids] = []
        values = self._followed(module)
        self._born = np.array([value.born for value in values], dtype=np.int64)
        self._dead = np.array([value.dead for value in values], dtype=np.int64)
        self._sizes = np.array([value.size for value in values], dtype=np.int64)
        rank = max((len(value.axes) for value in values), default=0)
        none = len(self._axes)  # the place of an axis of one index, where there are fewer
        padded = [[*value.axes, *[none] * (rank - len(value.axes))] for value in values]
        self._places = np.array(padded, dtype=np.int64).reshape(len(values), rank)

    def _followed(self, module: fx.GraphModule) -> list[Value]:
        nodes = list(module.graph.nodes)
        place = {node: k for k, node in enumerate(nodes)}
        root: dict[fx.Node, fx.Node] = {}
        last: dict[fx.Node, int] = {}
        for node in nodes:
            root[node] = root.get(source, source) if (source := alias_of(node)[0]) else node
            ends = [place[user] for user in node.users] or [place[node]]
            last[root[node]] = max(last.get(root[node], 0), *ends)
        found: list[Value] = []
        for node in nodes:
            if node.op not in ("call_function", "placeholder") or root[node] is not node:
                continue
            for value, made in _pairs(self._coupling.values.get(node), node.meta.get("val")):
                axes = tuple(map(self._axis, value.dims))
                found.append(Value(made.element_size(), axes, place[node], last[node]))
        return found

    def _axis(self, g: Ids) -> int:
        normal = self._coupling.guards.normal(g)
        if id(normal) not in self._place:  # the guards keep it alive
            key = (normal.shape, normal.tobytes())
            self._place[id(normal)] = self._alike.setdefault(key, len(self._axes))
            if self._place[id(normal)] == len(self._axes):
                self._axes.append(normal)
        return self._place[id(normal)]

    def bytes(self, alive: Mask) -> int:
        """Return the peak for one example of the batch."""
        if not len(self._born):
            return 0
        counts = [*(int(alive[g].all(axis=1).sum()) for g in self._axes), 1]
        sizes = np.array(counts, dtype=np.int64)[self._places].prod(axis=1) * self._sizes
        change = np.zeros(int(self._dead.max()) + 2, dtype=np.int64)
        np.add.at(change, self._born, sizes)
        np.subtract.at(change, self._dead + 1, sizes)
        return int(np.cumsum(change).max()) // self._batch


def _pairs(value: object, made: object) -> list[tuple[TensorGuard, torch.Tensor]]:
    if isinstance(value, TensorGuard) and isinstance(made, torch.Tensor):
        return [(value, made)] if len(value.dims) == len(shape_of(made)) else []
    if isinstance(value, tuple) and isinstance(made, (tuple, list)):
        return [pair for one, of in zip(value, made, strict=False) for pair in _pairs(one, of)]
    return []
