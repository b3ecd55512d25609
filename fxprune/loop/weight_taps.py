"""Show learners the weights that operators read, and their gradients, while a module trains.

A weight that is computed of parameters is no parameter itself: where the module computes it, a
module that hands it on takes hold of its gradient for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import fx, nn

from fxprune.graphs import free_name
from fxprune.metrics.reads import numbered

Observe = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]  # of a weight, its gradient


class Tap(nn.Module):
    """Return what it is given, and have its gradient observed."""

    def __init__(self, observe: Observe) -> None:
        super().__init__()
        self._observe = observe

    @torch.compiler.disable(reason="a hook on a tensor inside the graph")  # type: ignore[untyped-decorator]
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and weight.requires_grad:
            value = weight.detach()
            weight.register_hook(lambda gradient: self._observe(value, gradient))
        return weight


@contextmanager
def tapped(
    module: nn.Module, computed: Mapping[fx.Node, str], observers: Mapping[str, Observe]
) -> Iterator[None]:
    """Tap the computed weights of a module while the body runs: nodes of its graph by what they do.

    `computed` names nodes of the graph that was captured of it.
    """
    if not isinstance(module, fx.GraphModule) or not computed:
        yield
        return
    known: dict[str, int] = {}
    numbers = numbered(_computed(next(iter(computed)).graph), _target, known)
    named = {numbers[node]: name for node, name in computed.items() if name in observers}
    here = numbered(_computed(module.graph), _target, known)
    taps = [
        _tap(module, node, observers[named[number]])
        for node, number in here.items()
        if number in named
    ]
    module.recompile()
    try:
        yield
    finally:
        for tap in taps:
            tap.replace_all_uses_with(tap.args[0])  # type: ignore[arg-type]
            module.graph.erase_node(tap)
            module.delete_submodule(str(tap.target))
        module.recompile()


def _tap(module: fx.GraphModule, node: fx.Node, observe: Observe) -> fx.Node:
    name = free_name("weight_tap", {name for name, _ in module.named_children()})
    module.add_module(name, Tap(observe))
    with module.graph.inserting_after(node):
        tap = module.graph.call_module(name, (node,))
    node.replace_all_uses_with(tap, lambda user: user is not tap)
    return tap


def _computed(graph: fx.Graph) -> list[fx.Node]:
    """Return the calls that are made of parameters and buffers alone."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        ins = node.all_input_nodes
        made = all(one in found or one.op == "get_attr" for one in ins)
        if node.op == "call_function" and ins and made:
            found[node] = None
    return [*found]


def _target(read: fx.Node) -> str:
    return str(read.target)
