"""What the integers of a model must be: the changed constants of its graph, and who gave them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxprune.graphs import arguments
from fxprune.surgery.own_class.traced import Origin, Traced, numbers
from fxprune.surgery.own_class.watching import OperatorCall

aten = torch.ops.aten
# operators that do the same where their results are of the same shapes
ALIKE = (
    {"view", "reshape", "_unsafe_view"},
    {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"},
)


@dataclass(frozen=True, eq=False)
class Wanted:
    """Ask that an integer be `value` at a node of the original graph, where it was `before`.

    `origin` says of what the model computed it, where that is known.
    """

    node: fx.Node
    before: int
    value: int
    origin: Origin | None


def wanted(
    pairs: Mapping[fx.Node, int], smaller: fx.Graph, calls: Sequence[OperatorCall]
) -> list[Wanted]:
    """Return what the constants of the smaller graph ask of the model that made the calls.

    `pairs` are the nodes of the original graph with the places of their calls.
    """
    twins = {node.name: node for node in smaller.nodes}
    found: list[Wanted] = []
    for node, place in pairs.items():
        twin = twins.get(node.name)
        if twin is not None and alike(twin.target, node.target):
            found += _of(node, twin, calls[place])
    return found


def aligned(graph: fx.Graph, calls: Sequence[OperatorCall]) -> dict[fx.Node, int]:
    """Return the place of the call that made each node of a graph; dead ones have no node."""
    pairs: dict[fx.Node, int] = {}
    places: dict[Any, list[int]] = {}
    for place, call in enumerate(calls):
        places.setdefault(call.operator, []).append(place)
    last = -1
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        after = places.get(node.target, [])
        ahead = (p for p in after[bisect_right(after, last) :] if _same(node, calls[p]))
        if (found := next(ahead, None)) is not None:
            pairs[node] = last = found
    return pairs


def _same(node: fx.Node, call: OperatorCall) -> bool:
    """Tell whether constants and the shape of the result agree, as far as both have them."""
    made = node.meta.get("val")
    if isinstance(made, torch.Tensor) and call.shape is not None:
        if len(made.shape) != len(call.shape):
            return False
        if any(type(a) is int and a != b for a, b in zip(made.shape, call.shape, strict=True)):
            return False
    mine, theirs = arguments(node), call.arguments
    pairs = [
        (a, b)
        for name in mine.keys() & theirs.keys()
        for a, b in zip(numbers(mine[name]), theirs[name], strict=False)
    ]
    return all(a == b for a, b in pairs if type(a) is int and type(b) is int)


def alike(one: Any, other: Any) -> bool:
    """Tell whether two operators do the same, given results of the same shapes."""
    names = {getattr(op, "overloadpacket", op).__name__ for op in (one, other)}
    return len(names) == 1 or any(names <= kind for kind in ALIKE)


def _of(node: fx.Node, twin: fx.Node, call: OperatorCall) -> Iterator[Wanted]:
    was, now = list(arguments(node).values()), list(arguments(twin).values())
    origins = iter(_origins(call))
    for one, other, seen in zip(was, now, call.arguments.values(), strict=False):
        mine = [next(origins) for _ in seen]
        before, after = numbers(one), numbers(other)
        if type(one) is int and isinstance(other, (list, tuple)) and _pieces(after):
            after = after[:1]  # a split by one size
        if len(before) != len(after) or len(before) != len(seen):
            continue
        for old, new, value, origin in zip(before, after, seen, mine, strict=True):
            asked = type(old) is int and type(new) is int and old == value and old >= 2
            if asked and (origin is not None or old != new):
                yield Wanted(node, old, new, origin)


def _pieces(sizes: Sequence[Any]) -> bool:
    """Tell whether all sizes are the same, but the last, which may be less."""
    whole = all(type(size) is int for size in sizes) and len(sizes) > 0
    return whole and all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]


def _origins(call: OperatorCall) -> list[Origin | None]:
    """Return where the integers of an operator come from: equal ones that its caller was given.

    Of several equal ones each stands for one, in their order, if there are as many.
    """
    seen = [one for listed in call.arguments.values() for one in listed]
    found: list[Origin | None] = []
    for place, value in enumerate(seen):
        given = [one for one in call.given if type(value) is int and one == value]
        mine = [k for k, one in enumerate(seen) if type(one) is int and one == value]
        same = {id(one.origin) if isinstance(one, Traced) else 0 for one in given}
        chosen = given[0] if len(same) == 1 else None
        if len(mine) == len(given):
            chosen = given[mine.index(place)] if given else None
        found.append(chosen.origin if isinstance(chosen, Traced) else None)
    return found
