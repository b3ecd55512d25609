"""What a removal must equal where zeroed parameters do not say it: in what operators read.

Effective weights are zero where they are read, instead of what they are computed of; and what is
removed of an axis of which the best are chosen never wins.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import fx

from fxprune.graphs import arguments, attribute, emptied, free_name, set_tensor, tensors_of
from fxprune.guards import Mask
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.rules.site import Ranking


def zeroed_reads(
    module: fx.GraphModule, coupling: Coupling, alive: Mask, before: Mask | None = None
) -> tuple[fx.GraphModule, frozenset[str]]:
    """Return a graph whose effective weights are zero where what is dropped of them is read.

    What is dropped of an axis of which the best are chosen has the worst value there is.

    It shares the tensors of `module`, whose nodes have the names of those that were coupled, and of
    which only what `before` kept is left. What the weights are computed of must stay whole: its
    names are returned too. What something else reads as well has another name for the arithmetic.
    """
    losers = list(outranked(coupling, alive, before))
    if not coupling.effective and not losers:
        return module, frozenset()
    copy, persistent, tensors = emptied(module), set(module.state_dict()), tensors_of(module)
    for name, tensor in tensors.items():
        set_tensor(copy, name, tensor, persistent=name in persistent)
    nodes = {node.name: node for node in copy.graph.nodes}
    inner = {nodes[node.name] for node in coupling.arithmetic}
    for node in coupling.effective:
        mask = _mask(coupling, node, alive, before)
        if not bool(mask.all()):
            _gate(copy, nodes[node.name], mask, inner)
    for ranking, lost in losers:
        _outrank(copy, nodes[ranking.node.name], ranking, lost)
    spared: set[int] = set()
    for read in [node for node in nodes.values() if node.op == "get_attr"]:
        inside = [user for user in read.users if user in inner]
        if inside and len(inside) < len(read.users):
            _part(copy, read, inside)
        elif inside:
            spared.add(id(attribute(copy, str(read.target))))
    copy.recompile()
    return copy, frozenset(name for name, tensor in tensors.items() if id(tensor) in spared)


def _mask(coupling: Coupling, node: fx.Node, alive: Mask, before: Mask | None) -> torch.Tensor:
    """Return what is kept of the entries that there are, of a weight's type."""
    value, made = coupling.values[node], node.meta["val"]
    after, there = Kept(coupling.guards, alive), Kept(coupling.guards, alive | True)
    if before is not None:
        there = Kept(coupling.guards, before)
    mask = torch.ones([1] * made.ndim, dtype=made.dtype, device=made.device)
    for dim, g in enumerate(value.dims if isinstance(value, TensorGuard) else ()):
        along = [-1 if one == dim else 1 for one in range(made.ndim)]
        left = torch.from_numpy(after.mask(g)[there.mask(g)])
        mask = mask * left.to(mask).reshape(along)
    return mask


def _gate(copy: fx.GraphModule, node: fx.Node, mask: torch.Tensor, inner: set[fx.Node]) -> None:
    """Multiply a weight by a mask where anything but arithmetic of weights reads it."""
    name = free_name(f"{node.name}_read", set(tensors_of(copy)))
    set_tensor(copy, name, mask, persistent=False)
    with copy.graph.inserting_after(node):
        read = copy.graph.get_attr(name)
    with copy.graph.inserting_after(read):
        gated = copy.graph.call_function(torch.ops.aten.mul.Tensor, (node, read))
    read.meta |= {"val": mask}
    gated.meta = dict(node.meta)
    node.replace_all_uses_with(gated, lambda user: user not in inner and user is not gated)


def _part(copy: fx.GraphModule, read: fx.Node, inside: list[fx.Node]) -> None:
    """Let arithmetic read a tensor under a name of its own, under which nothing zeroes it."""
    tensor = attribute(copy, str(read.target))
    name = free_name(f"{read.name}_whole", set(tensors_of(copy)))
    set_tensor(copy, name, tensor.detach(), persistent=False)
    with copy.graph.inserting_after(read):
        other = copy.graph.get_attr(name)
    other.meta = dict(read.meta)
    for user in inside:
        user.replace_input_with(read, other)


def outranked(
    coupling: Coupling, alive: Mask, before: Mask | None = None
) -> Iterator[tuple[Ranking, Mask]]:
    """Yield where values are compared, and which of those there are have been dropped, `[n]`."""
    normal = coupling.guards.normal
    after = Kept(coupling.guards, alive)
    there = Kept(coupling.guards, np.ones_like(alive) if before is None else before)
    chosen = np.zeros(len(alive), dtype=bool)
    for one in coupling.rankings:
        chosen[normal(one.guard)] |= one.chosen
    chosen[0] = False
    for one in coupling.rankings:
        g = normal(one.guard)
        lost = ~after.mask(g) & (chosen[g] & ~alive[g]).any(axis=1)
        if (lost := lost[there.mask(g)]).any():
            yield one, lost


def _outrank(copy: fx.GraphModule, node: fx.Node, ranking: Ranking, lost: Mask) -> None:
    """Give what is dropped the worst value before it is compared."""
    given = arguments(node)[ranking.name]
    made = given.meta["val"]
    info = torch.finfo(made.dtype) if made.is_floating_point() else torch.iinfo(made.dtype)
    worst = float("inf") if made.is_floating_point() else info.max
    worst = worst if ranking.smallest else (-worst if made.is_floating_point() else info.min)
    along = [-1 if d == ranking.dim else 1 for d in range(made.ndim)]
    name = free_name(f"{node.name}_dropped", set(tensors_of(copy)))
    where = made.device if not made.is_meta else None
    mask = torch.from_numpy(lost).reshape(along).to(where)
    set_tensor(copy, name, mask, persistent=False)
    with copy.graph.inserting_before(node):
        read = copy.graph.get_attr(name)
        filled = copy.graph.call_function(torch.ops.aten.masked_fill.Scalar, (given, read, worst))
    read.meta |= {"val": mask}
    filled.meta = dict(given.meta)
    node.replace_input_with(given, filled)
