"""Let metrics look at weights as operators read them, whatever they are computed of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from fxprune.elimination import replaced
from fxprune.graphs import arguments, attribute, free_name, tensors_of
from fxprune.rules import Coupling, TensorGuard
from fxprune.targets import Target, effective

Alike = list[fx.Node]  # nodes that compute the same of the same tensors


@dataclass(frozen=True, eq=False)
class AsRead:
    """Hold a graph that reads computed weights as parameters, its coupling, and their names.

    `names` are those by the nodes of the graph that computes them; `module` has them as parameters.
    """

    module: fx.GraphModule
    coupling: Coupling
    names: Mapping[fx.Node, str]


def as_read(
    module: fx.GraphModule, coupling: Coupling, targets: Sequence[Target], *, known: bool
) -> AsRead:
    """Return a graph with the weights that operators read in place of those that are stored.

    Such are computed, of as many entries as a parameter that they are computed of, and with all of
    its units; of those only the ones with units of `targets` are evaluated, once. Each stands under
    the name of that parameter where nothing else reads it and it has its axes; others have a new
    name, and are left as they are stored where only `known` names are.
    """
    names: dict[fx.Node, str] = {}
    taken = set(tensors_of(module))
    wanted = np.concatenate([np.zeros(0, dtype=np.int64), *(one.units for one in targets)])
    for alike, reads in _weights(module, coupling):
        if not np.isin(effective.units(coupling, coupling.values[alike[0]]), wanted).any():
            continue
        name = _standing(coupling, alike, reads)
        if name is not None or not known:
            name = name or free_name(f"{reads[0].target}_read", taken)
            names |= dict.fromkeys(alike, name)
    if not names:
        return AsRead(module, coupling, {})
    copy, twins = replaced(module, names)
    values = {twins[node]: value for node, value in coupling.values.items() if node in twins}
    coupling = replace(coupling, values=values, effective=(), arithmetic=frozenset())
    return AsRead(copy, coupling, names)


def _weights(module: fx.GraphModule, coupling: Coupling) -> Iterator[tuple[Alike, Alike]]:
    """Yield weights, and the parameters of as many entries that each is computed of."""
    reads = effective.computed(module.graph)
    groups: dict[int, Alike] = {}
    numbers = numbered(reads, lambda read: str(id(attribute(module, str(read.target)))), {})
    read = {node for node in reads if any(_outside(user, reads) for user in node.users)}
    for node in {_moved(node, reads) for node in read}:
        groups.setdefault(numbers[node], []).append(node)
    for alike in groups.values():
        node, made = alike[0], alike[0].meta["val"]
        if not (effective.works(node) and effective.whole(coupling, node, reads[node])):
            continue
        found = [
            one
            for one in sorted(reads[node])
            if isinstance(tensor := attribute(module, str(one.target)), torch.nn.Parameter)
            and tensor.numel() == made.numel()
        ]
        if found:
            yield alike, found


def _outside(user: fx.Node, reads: Iterable[fx.Node]) -> bool:
    return user.op != "output" and user not in reads


def _moved(node: fx.Node, reads: Iterable[fx.Node]) -> fx.Node:
    """Go back from a node over what only moves the entries of one computed tensor."""
    while effective.passive(node) and not effective.chosen(node):
        sources = [one for one in node.all_input_nodes if one in reads]
        if len(node.all_input_nodes) != 1 or not sources:
            break
        node = sources[0]
    return node


def numbered(
    nodes: Iterable[fx.Node], called: Callable[[fx.Node], str], known: dict[str, int]
) -> dict[fx.Node, int]:
    """Return a number for every computed node, one for those that compute the same.

    `called` says which tensor a node reads, and `known` holds the numbers of what has been met.
    """
    numbers: dict[fx.Node, int] = {}

    def number(node: fx.Node) -> str:
        return called(node) if node.op == "get_attr" else f"node {numbers[node]}"

    for node in nodes:
        said = repr((node.target, fx.map_arg(arguments(node), number)))
        numbers[node] = known.setdefault(said, len(known))
    return numbers


def _standing(coupling: Coupling, alike: Alike, reads: Alike) -> str | None:
    """Return the name of the parameter that a weight stands for, if it has one's axes."""
    value, normal = coupling.values[alike[0]], coupling.guards.normal
    inside = set[fx.Node]().union(*map(effective.leading, alike))
    for read in reads:
        other = coupling.values[read]
        if not isinstance(value, TensorGuard) or not isinstance(other, TensorGuard):
            continue
        pairs = [*zip(value.dims, other.dims, strict=False)]
        same = len(value.dims) == len(other.dims) and all(
            np.array_equal(normal(a), normal(b)) for a, b in pairs
        )
        if same and inside.issuperset(read.users):
            return str(read.target)
    return None
