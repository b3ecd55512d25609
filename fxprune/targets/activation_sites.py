"""Sites: where activations of modules are masked, as multiplications in the graph.

A mask of an activation is a buffer of the program and a multiplication by it, so that it is there
in every mode, in the state dict and in every file, and is kept when the module is captured again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import fx

from fxprune.graphs import attribute, set_tensor
from fxprune.guards import Mask
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.targets.blocks import BlockTarget
from fxprune.targets.discovery import Target

BUFFERS = "activation_masks"


def kept_sites(
    module: fx.GraphModule, coupling: Coupling, targets: Sequence[Target], alive: Mask
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return the kept indices of the axes of every activation that has a mask, by its name."""
    kept, nodes = Kept(coupling.guards, alive), {n.name: n for n in module.graph.nodes}
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    for target in targets:
        if isinstance(target, BlockTarget) and target.site:
            value = coupling.values[nodes[target.site]]
            if isinstance(value, TensorGuard):
                found[target.tensor] = tuple(kept.indices(g) for g in value.dims)
    return found


@dataclass(frozen=True)
class Site:
    """Hold where an activation is: its name `module:output`, its node, and who reads it there.

    `known` is the buffer of a mask that it has already.
    """

    name: str
    node: fx.Node
    readers: tuple[fx.Node, ...]
    known: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes of the mask's axes: 1 for the batch and whatever may change in size."""
        sizes = self.node.meta["val"].shape
        return tuple(n if d and isinstance(n, int) else 1 for d, n in enumerate(sizes))


def sites(module: fx.GraphModule, which: str, patterns: Sequence[str]) -> Iterator[Site]:
    """Yield the inputs or outputs of the modules that patterns name, or of nodes of that name."""
    for path in sorted(paths(module)):
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            inside = {node for node in module.graph.nodes if path in scopes(node)}
            found = _outputs(inside) if which == "output" else _inputs(inside)
            yield from _named(f"{path}:{which}", found)
    for node in module.graph.nodes:
        if any(node.name == pattern for pattern in patterns) and _is_activation(node):
            yield Site(f"{node.name}:{which}", node, tuple(node.users))


def masked_sites(module: fx.GraphModule, names: Sequence[str]) -> Iterator[Site]:
    """Yield the sites of these names that have masks already, put there by an earlier step."""
    for node in module.graph.nodes:
        for name in names:
            if node.op == "get_attr" and node.target == buffer_of(name):
                for user in node.users:
                    mask = attribute(module, str(node.target))
                    yield Site(name, user, tuple(user.users), mask)


def paths(module: fx.GraphModule) -> set[str]:
    """Return the paths of all modules that made nodes of the graph."""
    return {path for node in module.graph.nodes for path in scopes(node) if path}


def scopes(node: fx.Node) -> set[str]:
    """Return the paths of the modules in which a node was made."""
    stack = node.meta.get("nn_module_stack") or {}
    return {str(path).partition("@")[0] for path, _ in stack.values()}


def buffer_of(name: str) -> str:
    """Return the name of the buffer that holds the mask of a site.

    >>> buffer_of("layer3.0:output")
    'activation_masks.layer3_0__output'
    """
    plain = name.replace(":", "__").replace("#", "__")
    return f"{BUFFERS}.{plain.replace('.', '_')}"


def impose(
    module: fx.GraphModule, targets: Sequence[BlockTarget], masks: Mapping[str, torch.Tensor]
) -> None:
    """Multiply the activations of targets by masks, bool by the targets' names, in the graph."""
    nodes = {node.name: node for node in module.graph.nodes}
    for target in targets:
        name, node = buffer_of(target.tensor), nodes[target.site]
        made = node.meta["val"]
        mask = masks[target.tensor].to(made.device, made.dtype)
        known = attribute(module, name)
        if isinstance(known, torch.Tensor):
            set_tensor(module, name, mask * known)
            continue
        set_tensor(module, name, mask)
        with module.graph.inserting_after(node):
            read = module.graph.get_attr(name)
        with module.graph.inserting_after(read):
            product = module.graph.call_function(torch.ops.aten.mul.Tensor, (node, read))
        product.meta = {k: node.meta[k] for k in ("val", "stack_trace") if k in node.meta}
        for reader in target.readers:
            nodes[reader].replace_input_with(node, product)
    module.recompile()


def _is_activation(node: fx.Node) -> bool:
    value = node.meta.get("val")
    floating = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1
    return node.op in ("call_function", "placeholder") and floating


def _outputs(inside: set[fx.Node]) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Return the outputs of a module, each with the nodes that read it outside."""
    found: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for node in inside:
        outside = tuple(user for user in node.users if user not in inside)
        if outside and _is_activation(node):
            found[node] = outside
    return found


def _inputs(inside: set[fx.Node]) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Return the inputs of a module, each with the nodes that read it inside."""
    found: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for node in inside:
        for operand in node.all_input_nodes:
            if operand not in inside and _is_activation(operand):
                found[operand] = tuple(user for user in operand.users if user in inside)
    return found


def _named(name: str, found: Mapping[fx.Node, tuple[fx.Node, ...]]) -> Iterator[Site]:
    for number, node in enumerate(sorted(found), start=1):
        yield Site(name if number == 1 else f"{name}#{number}", node, found[node])
