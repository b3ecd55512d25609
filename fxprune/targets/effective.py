"""Effective weights: what an operator reads where parameters reach it through arithmetic.

A weight norm, a spectral norm, a parametrization, a mask or a fake quantization stands between the
parameter that is stored and the operator that reads it. Of such a weight the tensor that is *read*
is what counts: it is scored, it is zero where a unit is dropped, and what is kept of it keeps its
values. That holds where every operator in between acts on entries alone, moves them, or takes sums
over axes that the result has all the same, such as a norm by which it divides.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxprune.graphs import arguments, attribute, changed_later
from fxprune.guards import Ids
from fxprune.rules import RULES, Coupling, TensorGuard, Value, is_pointwise, name_of
from fxprune.rules.movements import PASSIVE
from fxprune.rules.pointwise import at_zero
from fxprune.rules.quantization import OBSERVERS, QUANTIZERS, observes
from fxprune.rules.reduction import NEUTRAL_ZERO, STATISTICS
from fxprune.rules.site import Mark

aten = torch.ops.aten

REDUCTIONS = frozenset([*NEUTRAL_ZERO, *STATISTICS])
NORMED = frozenset([aten._weight_norm.default])  # by the lengths of slices, inside the operator
STATISTIC = "a statistic of a computed weight is read by itself"

Reads = frozenset[fx.Node]


def computed(graph: fx.Graph, changed: frozenset[fx.Node] | None = None) -> dict[fx.Node, Reads]:
    """Return the nodes made of parameters and buffers alone, each with those that it is made of.

    What something changes in place before it is read (`changed`, where that is known), and what is
    random, is not among them.
    """
    found: dict[fx.Node, Reads] = {}
    changed = changed_later(graph) if changed is None else changed
    for node in graph.nodes:
        if node.op != "call_function" or node in changed:
            continue
        ins = node.all_input_nodes
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if not ins or seeded or not isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)):
            continue
        if all(one in found or (one.op == "get_attr" and one not in changed) for one in ins):
            found[node] = frozenset[fx.Node]().union(*(found.get(one, {one}) for one in ins))
    return found


def chosen(node: fx.Node) -> bool:
    """Tell a node that only chooses one of several results."""
    return node.target is operator.getitem


def passive(node: fx.Node) -> bool:
    """Tell an operator that only moves entries, or hands them on."""
    if chosen(node):
        return True
    return isinstance(node.target, torch._ops.OpOverload) and name_of(node.target) in PASSIVE


def works(node: fx.Node) -> bool:
    """Tell whether anything that leads to a node computes, rather than moves entries."""
    return any(not passive(one) for one in leading(node))


def writes(node: fx.Node) -> bool:
    """Tell whether anything that leads to a node writes to what it reads."""
    schemas = (getattr(one.target, "_schema", None) for one in leading(node))
    return any(schema is not None and schema.is_mutable for schema in schemas)


def leading(node: fx.Node) -> set[fx.Node]:
    """Return a node and all calls that lead to it."""
    found, open_ = {node}, [node]
    while open_:
        new = [one for one in open_.pop().all_input_nodes if one.op == "call_function"]
        open_ += [one for one in new if one not in found]
        found.update(new)
    return found


def faithful(node: fx.Node) -> bool:
    """Tell an operator whose result, cut, is that of cut operands but for what it sums over."""
    rule = RULES.get(node.target)
    listed = node.target in REDUCTIONS or node.target in NORMED
    if node.target in OBSERVERS or node.target in QUANTIZERS:
        return not observes(node)
    contracts = rule is not None and rule.macs is not None
    return listed or contracts or passive(node) or is_pointwise(node.target)


class Arithmetic:
    """Follow the parameter arithmetic of a graph while it is coupled."""

    def __init__(self, module: fx.GraphModule, coupling: Coupling) -> None:
        self._coupling = coupling
        self._reads = computed(module.graph, coupling.poisoned)
        self._trained = {
            node
            for node in frozenset[fx.Node]().union(*self._reads.values())
            if isinstance(attribute(module, str(node.target)), torch.nn.Parameter)
        }
        self._working: set[fx.Node] = set()  # in front of which something computes
        self._faithful: set[fx.Node] = set()
        self._whole: set[fx.Node] = set()  # those that lose no unit of what they are made of
        self._weights: set[fx.Node] = set()  # those of them that operators outside read
        self._divisors: set[fx.Node] = set()  # those of them that must not become zero

    def guarded(self, node: fx.Node, value: Value) -> Value:
        """Return the guards of a node's result; an effective weight is zero where it is dropped."""
        reads = self._reads.get(node)
        if reads is None:
            return value
        if not passive(node) or any(one in self._working for one in node.all_input_nodes):
            self._working.add(node)
        made = (one for one in node.all_input_nodes if one in self._reads)
        if not faithful(node) or any(one not in self._faithful for one in made):
            return value
        self._faithful.add(node)
        self._coupling.values[node] = value
        if not whole(self._coupling, node, reads):
            return value
        self._whole.add(node)
        readers = list(self._readers(node))
        if node not in self._working or self._trained.isdisjoint(reads) or not readers:
            return value
        self._weights.add(node)
        if any(map(_undefined, readers)):
            self._divisors.add(node)
        dims = value.dims if isinstance(value, TensorGuard) else ()
        return TensorGuard(dims, (node not in self._divisors,) * len(dims))

    def _readers(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the operators outside of the arithmetic that read a node, perhaps moved."""
        for user in node.users:
            if user not in self._reads and user.op != "output":
                yield user
            elif user in self._reads and passive(user):
                yield from self._readers(user)

    def settle(self) -> None:
        """Say which nodes are effective weights and which make them; marks of those are forgotten.

        Where something else reads a sum over an axis that shrinks, that is approximate.
        """
        inner: set[fx.Node] = set()
        effective: list[fx.Node] = []
        for node in reversed(list(self._reads)):
            if node in self._weights:
                inner.add(node)
            outside = any(user not in inner for user in node.users)
            if node in inner and node in self._whole and node not in self._divisors and outside:
                effective.append(node)
            if node in inner:
                inner.update(one for one in node.all_input_nodes if one in self._reads)
        coupling, names = self._coupling, {node.name for node in inner}
        coupling.effective, coupling.arithmetic = tuple(reversed(effective)), frozenset(inner)
        marks = [mark for mark in coupling.approximate if mark.node not in names]
        for node in inner - self._whole:
            if any(user not in inner for user in node.users):
                marks.append(Mark(lost(coupling, node)[:, None], node.name, STATISTIC))
        coupling.approximate[:] = marks


def _undefined(reader: fx.Node) -> bool:
    """Tell a reader whose result is no number where all that it reads is zero: a division."""
    if not is_pointwise(reader.target):
        return False
    args = arguments(reader)
    tensors = (
        name
        for name, one in args.items()
        if isinstance(one, fx.Node) and isinstance(one.meta.get("val"), torch.Tensor)
    )
    return at_zero(reader, args, frozenset(tensors)) == "undefined"


def whole(coupling: Coupling, node: fx.Node, reads: Reads) -> bool:
    """Tell a single tensor of numbers that has every unit of the tensors that it is made of."""
    made = node.meta["val"]
    if not isinstance(made, torch.Tensor) or not made.is_floating_point():
        return False
    mine = units(coupling, coupling.values.get(node))
    return all(np.isin(units(coupling, coupling.values.get(read)), mine).all() for read in reads)


def lost(coupling: Coupling, node: fx.Node) -> Ids:
    """Return the units of the operands of a node that its result has no more, ascending."""
    found = [units(coupling, coupling.values.get(one)) for one in node.all_input_nodes]
    return np.setdiff1d(np.concatenate(found), units(coupling, coupling.values.get(node)))


def units(coupling: Coupling, value: Value) -> Ids:
    """Return the units in the guards of a value, each once, ascending."""
    if isinstance(value, tuple):
        found = [units(coupling, one) for one in value]
    else:
        dims = value.dims if value is not None else ()
        found = [coupling.guards.normal(g).ravel() for g in dims if g.shape[1]]
    every = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))
    return every[every > 0]


def evaluated(
    module: fx.GraphModule,
    wanted: Iterable[fx.Node],
    read: Callable[[str], torch.Tensor] | None = None,
) -> dict[fx.Node, torch.Tensor]:
    """Return the values of computed nodes as they are now, each a tensor of its own.

    Operators that write, such as observers, get copies of what they would write to. `read` gives
    tensors by name, where those of the module are not the ones to take.
    """
    read = read or partial(attribute, module)
    values: dict[fx.Node, Any] = {}

    def value(node: fx.Node) -> Any:
        if node not in values and node.op == "get_attr":
            values[node] = read(str(node.target))
        elif node not in values:
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.is_mutable:
                args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values[node]

    with torch.no_grad():
        return {node: value(node).detach().clone() for node in wanted}
