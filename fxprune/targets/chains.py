"""Chains of operators: through which two weights are tied, and from where an axis is held.

A walk over the axes of tensors. Each step is what one operator states by itself, and leads only to
rows that hold the same unit (or are pinned as well), so a chain is no guess: every link is one
operator's own statement.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from linecache import getline

import numpy as np
from torch import fx

from fxprune.graphs import source_line
from fxprune.guards import Ids, Reason
from fxprune.rules import Coupling
from fxprune.targets.alone import Alone, Tensor, tensors_in

NEVER = "it meets an axis that never changes"
Axis = tuple[Tensor, int]
Rows = Callable[[Axis, Ids], Ids]


@dataclass(frozen=True)
class Link:
    """Say through which operator, at which line of code, which axis of what is tied next."""

    operator: str
    node: str
    source: str
    tensor: str
    dim: int

    def __str__(self) -> str:
        return f"{self.operator} ties it to axis {self.dim} of {self.tensor}{placed(self.source)}"


def placed(source: str) -> str:
    """Return where a line of code is and what it says, as the end of a sentence, or nothing.

    >>> placed("")
    ''
    """
    file, _, line = source.rpartition(":")
    code = getline(file, int(line)).strip() if file else ""
    return f", at {source}" + (f": {code}" if code else "") if source else ""


@dataclass(frozen=True)
class Cause:
    """Say which operator pins an axis first, why, and through which links it reaches the axis."""

    node: str
    operator: str
    reason: str
    source: str
    links: tuple[Link, ...]


class Chains:
    """Find chains in one coupled graph; an operator is asked once however often it is met."""

    def __init__(self, module: fx.GraphModule, coupling: Coupling) -> None:
        self._coupling = coupling
        self._graph = module.graph
        self._alone: dict[fx.Node, Alone | None] = {}
        reads = module.graph.find_nodes(op="get_attr")
        self._named = {str(node.target): node for node in reversed(reads)}
        self.guards = {
            tensor: guard.dims
            for node, value in coupling.values.items()
            for tensor, guard in tensors_in(node, value)
        }

    def asked(self, node: fx.Node) -> Alone | None:
        """Return what an operator states alone; None where its rule needs the rest of the graph."""
        if node not in self._alone:
            try:
                self._alone[node] = Alone(node, self._coupling)
            except Exception:  # a rule may raise anything, here where it did not before
                self._alone[node] = None
        return self._alone[node]

    def parameter(self, name: str, dim: int) -> Axis:
        """Return an axis of a parameter that the graph reads."""
        return (self._named[name], ()), dim

    def between(
        self, starts: Sequence[Axis], ends: Sequence[Axis], unit: int
    ) -> dict[Axis, tuple[Link, ...]]:
        """Return for `ends` that a unit ties to one of `starts` the shortest chain there."""
        wanted, found = set(ends), dict[Axis, tuple[Link, ...]]()
        walk = Walk(self, lambda axis, rows: self._holding(axis, rows, unit))
        for axis, _ in walk.from_(starts):
            if axis in wanted:
                found[axis] = walk.links(axis)
            if len(found) == len(wanted):
                break
        return found

    def cause(self, start: Axis, rows: Ids) -> Cause | None:
        """Return the nearest operator that by itself pins what rows of an axis are tied to."""
        walk = Walk(self, self._pinned)
        for axis, held in walk.from_([start], rows):
            for node in self._touching(axis):
                alone = self.asked(node)
                reason = alone.pins(*axis, held) if alone is not None else None
                if reason is not None:
                    return self._first(node, reason, walk.links(axis))
        return None

    def _first(self, node: fx.Node, reason: Reason, links: tuple[Link, ...]) -> Cause:
        """Return a cause; of an axis that never changes, what made it so further up."""
        made = self._unruled_above(node) if reason.text.startswith(NEVER) else None
        if made is not None:
            reason = Reason(made.name, f"no rule for {made.target}")
            links = (*links, link(node, (made, ()), 0))
            node = made
        return Cause(node.name, operator_of(node), reason.text, source_line(node), links)

    def _unruled_above(self, node: fx.Node) -> fx.Node | None:
        """Return the nearest operator without a rule above a node, through what never changes."""
        open_, seen = deque(node.all_input_nodes), set[fx.Node]()
        while open_:
            one = open_.popleft()
            fixed = all(not g.shape[1] for g in self.guards.get((one, ()), ()))
            if one in seen or not fixed:
                continue
            seen.add(one)
            if one.name in self._coupling.unruled:
                return one
            open_ += one.all_input_nodes
        return None

    def _holding(self, axis: Axis, rows: Ids, unit: int) -> Ids:
        guard = self._normal(axis)
        return rows[(guard[rows] == unit).any(axis=1)] if guard.shape[1] else rows[:0]

    def _pinned(self, axis: Axis, rows: Ids) -> Ids:
        guard = self._normal(axis)
        return rows[(guard[rows] == 0).all(axis=1)] if guard.shape[1] else rows

    def _normal(self, axis: Axis) -> Ids:
        (tensor, dim) = axis
        return self._coupling.guards.normal(self.guards[tensor][dim])

    def _touching(self, axis: Axis) -> Iterator[fx.Node]:
        node = axis[0][0]
        if node.op == "call_function":
            yield node
        yield from node.users

    def steps(self, axis: Axis, rows: Ids) -> Iterator[tuple[fx.Node, Axis, Ids]]:
        """Yield the axes that the operators around a tensor tie to rows of one of its axes."""
        for node in self._touching(axis):
            alone = self.asked(node)
            if alone is None:
                continue
            for tensor, dim, found in alone.reached(*axis, rows):
                if tensor in self.guards:
                    yield node, (tensor, dim), found


class Walk:
    """Walk breadth first over axes, and remember how each was reached."""

    def __init__(self, chains: Chains, keep: Rows) -> None:
        self._chains, self._keep = chains, keep
        self._before: dict[Axis, tuple[Axis, fx.Node] | None] = {}

    def from_(self, starts: Sequence[Axis], rows: Ids | None = None) -> Iterator[tuple[Axis, Ids]]:
        """Yield axes and the rows that count, the nearest first."""
        open_: deque[tuple[Axis, Ids]] = deque()
        for axis in starts:
            (tensor, dim) = axis
            every = np.arange(len(self._chains.guards[tensor][dim])) if rows is None else rows
            if len(held := self._keep(axis, every)):
                self._before[axis] = None
                open_.append((axis, held))
        while open_:
            axis, held = open_.popleft()
            yield axis, held
            for node, other, found in self._chains.steps(axis, held):
                if other not in self._before and len(kept := self._keep(other, found)):
                    self._before[other] = (axis, node)
                    open_.append((other, kept))

    def links(self, axis: Axis) -> tuple[Link, ...]:
        """Return how an axis was reached, from where the walk began."""
        found: list[Link] = []
        while (came := self._before[axis]) is not None:
            found.append(link(came[1], *axis))
            axis = came[0]
        return tuple(reversed(found))


def link(node: fx.Node, tensor: Tensor, dim: int) -> Link:
    """Return the link over an operator to an axis of a tensor."""
    made, _ = tensor
    name = str(made.target) if made.op == "get_attr" else made.name
    return Link(operator_of(node), node.name, source_line(node), name, dim)


def operator_of(node: fx.Node) -> str:
    """Return what a node calls, or what it is."""
    if node.op != "call_function":
        return node.op
    return "getitem" if node.target is operator.getitem else str(node.target)
