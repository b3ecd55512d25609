"""Zero effective weights where operators read them, instead of what they are computed of."""

from __future__ import annotations

import torch
from torch import fx

from fxprune.graphs import attribute, emptied, free_name, set_tensor, tensors_of
from fxprune.guards import Mask
from fxprune.rules import Coupling, Kept, TensorGuard


def zeroed_reads(
    module: fx.GraphModule, coupling: Coupling, alive: Mask, before: Mask | None = None
) -> tuple[fx.GraphModule, frozenset[str]]:
    """Return a graph whose effective weights are zero where what is dropped of them is read.

    It shares the tensors of `module`, whose nodes have the names of those that were coupled, and of
    which only what `before` kept is left. What the weights are computed of must stay whole: its
    names are returned too. What something else reads as well has another name for the arithmetic.
    """
    if not coupling.effective:
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
