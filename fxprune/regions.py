"""Put the bodies of no-grad and autocast regions in place of the calls that run them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune.program import attribute, set_tensor

REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def inline_regions(module: fx.GraphModule) -> None:
    """Put the body of every no-grad and autocast region in place of the call.

    Results of a no-grad region are detached, so that gradients stop where they did.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if getattr(node.target, "__name__", "") not in REGIONS:
            continue
        body_at = next(
            k
            for k, arg in enumerate(node.args)
            if isinstance(arg, fx.Node) and arg.op == "get_attr"
        )
        read = node.args[body_at]
        body = attribute(module, str(read.target))
        inline_regions(body)
        detach = "set_grad" in node.target.__name__ and node.args[0] is False
        values = dict(
            zip(
                (n for n in body.graph.nodes if n.op == "placeholder"),
                node.args[body_at + 1 :],
                strict=True,
            )
        )
        with graph.inserting_before(node):
            results = _inlined(module, body, graph, values, detach)
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)


def _inlined(
    module: fx.GraphModule,
    body: fx.GraphModule,
    graph: fx.Graph,
    values: dict[fx.Node, Any],
    detach: bool,
) -> list[Any]:
    for inner in body.graph.nodes:
        if inner.op == "placeholder":
            continue
        if inner.op == "output":
            results = [values[one] if isinstance(one, fx.Node) else one for one in inner.args[0]]
            return [_detached(graph, one) if detach else one for one in results]
        if inner.op == "get_attr" and attribute(module, str(inner.target)) is None:
            set_tensor(module, str(inner.target), attribute(body, str(inner.target)))
        values[inner] = graph.node_copy(inner, lambda n: values[n])
        values[inner].meta = dict(inner.meta)
    return []


def _detached(graph: fx.Graph, value: Any) -> Any:
    if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), torch.Tensor):
        return value
    node = graph.call_function(torch.ops.aten.detach.default, (value,))
    node.meta = {k: v for k, v in value.meta.items() if k in ("val", "stack_trace")}
    return node
