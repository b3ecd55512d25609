"""One operator alone: what it states of guards when nothing else in the graph says anything.

The solver keeps what follows from all operators together, not which of them said what. Coupled by
itself, with fresh variables for every operand, an operator tells which axes it ties and which it
pins. So a path through the graph can be found on which every step is a statement of one operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from torch import fx

from fxprune.guards import Ids, Reason, true
from fxprune.rules import Coupling, TensorGuard, Value
from fxprune.targets.balancing import settle_balances
from fxprune.targets.coupling import stated

Tensor: TypeAlias = tuple[fx.Node, tuple[int, ...]]  # a node, and the place in what it returns
OUTPUT = "the caller sees this axis"


def tensors_in(node: fx.Node, value: Value) -> Iterator[tuple[Tensor, TensorGuard]]:
    """Yield the tensors of a node's value, each with its place among several results."""
    if isinstance(value, TensorGuard):
        yield (node, ()), value
    for k, one in enumerate(value if isinstance(value, tuple) else ()):
        for (_, path), guard in tensors_in(node, one):
            yield (node, (k, *path)), guard


class Alone:
    """Hold what one node of a coupled graph states of the axes of its operands and its result."""

    def __init__(self, node: fx.Node, coupling: Coupling) -> None:
        self.node = node
        self._coupling = Coupling(
            poisoned=coupling.poisoned, written=coupling.written, loose=coupling.loose
        )
        guards = self._coupling.guards
        for operand in node.all_input_nodes:
            self._coupling.values[operand] = self._fresh(coupling.values.get(operand))
        if node.op == "output":
            for _, guard in self._operands():
                for g in guard.dims:
                    guards.pin(g, Reason(node.name, OUTPUT))
        else:
            self._coupling.values[node] = stated(node, self._coupling)
            settle_balances(self._coupling)
        self.tensors = {
            tensor: tuple(guards.normal(g) for g in guard.dims)
            for tensor, guard in [*self._operands(), *self._results()]
        }

    def _fresh(self, value: Value) -> Value:
        """Return a value with variables of its own where there were any."""
        if isinstance(value, tuple):
            return tuple(self._fresh(one) for one in value)
        if value is None:
            return None
        guards = self._coupling.guards
        dims = (guards.fresh(len(g)) if g.shape[1] else true(len(g)) for g in value.dims)
        numbers = guards.fresh(len(value.numbers)) if value.numbers is not None else None
        return TensorGuard(tuple(dims), value.zero, numbers)

    def _operands(self) -> Iterator[tuple[Tensor, TensorGuard]]:
        for operand in self.node.all_input_nodes:
            yield from tensors_in(operand, self._coupling.values.get(operand))

    def _results(self) -> Iterator[tuple[Tensor, TensorGuard]]:
        yield from tensors_in(self.node, self._coupling.values.get(self.node))

    def reached(self, tensor: Tensor, dim: int, rows: Ids) -> Iterator[tuple[Tensor, int, Ids]]:
        """Yield the axes, and the rows of them, that the operator ties to rows of one axis."""
        mine = self.tensors.get(tensor)
        if mine is None or dim >= len(mine) or not mine[dim].shape[1]:
            return
        ids = mine[dim][rows[rows < len(mine[dim])]]
        ids = np.unique(ids[ids > 0])
        if not len(ids):
            return
        for other, dims in self.tensors.items():
            for d, g in enumerate(dims):
                found = np.flatnonzero(np.isin(g, ids).any(axis=1))
                if len(found) and (other, d) != (tensor, dim):
                    yield other, d, found

    def pins(self, tensor: Tensor, dim: int, rows: Ids) -> Reason | None:
        """Return why the operator by itself pins one of the rows of an axis, or None."""
        value = dict(self._operands()).get(tensor) or dict(self._results()).get(tensor)
        if value is None or dim >= len(value.dims) or not value.dims[dim].shape[1]:
            return None
        whys = [
            reason
            for reason, _, whole in self._coupling.guards.blame(
                value.dims[dim][rows[rows < len(value.dims[dim])]]
            )
            if whole and reason.node
        ]
        return whys[0] if whys else None
