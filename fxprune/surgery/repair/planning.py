"""Which weights can be refitted, at which calls, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from fxprune.graphs import attribute
from fxprune.surgery.repair.contractions import Contraction, contraction_of
from fxprune.surgery.repair.weights import foreign


@dataclass(frozen=True, eq=False)
class Group:
    """Hold all calls of one weight, in the order of the graph.

    `biased` says that they share a bias, which can be refitted with it.
    """

    calls: tuple[Contraction, ...]
    biased: bool


@dataclass(eq=False)
class Calls:
    """Hold the groups of calls, and why some calls belong to none."""

    groups: list[Group] = field(default_factory=list)
    why: dict[fx.Node, str] = field(default_factory=dict)


def planned(module: fx.GraphModule, nodes: Sequence[fx.Node], spared: Mapping[str, str]) -> Calls:
    """Return which weights some calls read; `spared` says of some tensors why they stay."""
    calls, found = Calls(), list[Contraction]()
    for node in nodes:
        one = contraction_of(module, node)
        if isinstance(one, Contraction):
            found.append(one)
        elif one is not None:
            calls.why[node] = one
    edges = {edge for one in found for edge in one.edges}
    gathered: list[list[Contraction]] = []
    for one in found:
        stranger = foreign(module, one.weight.name, edges)
        why = f"{stranger} reads its weight too" if stranger else spared.get(one.weight.name, "")
        why = why or _overlap(module, gathered, one)
        if why:
            calls.why[one.node] = why
        elif not any(_joined(module, group, one) for group in gathered):
            gathered.append([one])
    calls.groups = [
        Group(tuple(group), _biased(module, group, found, edges, spared)) for group in gathered
    ]
    return calls


def _joined(module: fx.GraphModule, group: list[Contraction], one: Contraction) -> bool:
    """Add a call to a group of the same weight, and return whether it belongs there."""
    if not _same(module, group[0], one):
        return False
    group.append(one)
    return True


def _same(module: fx.GraphModule, first: Contraction, other: Contraction) -> bool:
    mine, yours = (attribute(module, one.weight.name) for one in (first, other))
    return mine is yours and torch.equal(first.places, other.places)


def _overlap(module: fx.GraphModule, groups: list[list[Contraction]], one: Contraction) -> str:
    """Say which group reads some of the entries of a call's weight in another way."""
    tensor = attribute(module, one.weight.name)
    for first, *_ in groups:
        other = attribute(module, first.weight.name) is tensor and not _same(module, first, one)
        if other and _meet(tensor.numel(), first.places, one.places):
            return f"{first.node.name} reads its weight in another way"
    return ""


def _meet(size: int, first: Tensor, second: Tensor) -> bool:
    taken = torch.zeros(size, dtype=torch.bool, device=first.device)
    taken[first.flatten()] = True
    return bool(taken[second.flatten()].any())


def _biased(
    module: fx.GraphModule,
    group: list[Contraction],
    found: list[Contraction],
    edges: set[tuple[fx.Node, fx.Node]],
    spared: Mapping[str, str],
) -> bool:
    """Tell whether all calls of a group, and no others, add the same bias."""
    first = group[0].bias, group[0].shift
    if first[0] is None or first[1] is None:
        return False
    tensor = attribute(module, first[0].name)
    if first[0].name in spared or foreign(module, first[0].name, edges):
        return False
    for one in found:
        theirs = one.bias is not None and attribute(module, one.bias.name) is tensor
        meets = theirs and one.shift is not None and _meet(tensor.numel(), first[1], one.shift)
        if (one in group) != meets or (meets and not torch.equal(first[1], one.shift)):  # type: ignore[arg-type]
            return False
    return True
