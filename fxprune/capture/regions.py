"""Put the bodies of no-grad and autocast regions in place of the calls that run them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune.graphs import attribute, set_tensor

REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")

# what autocast runs in the lower precision, by the name of the ATen operator
LOWERED = frozenset(
    [
        *("linear", "matmul", "mm", "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm", "addr"),
        *("einsum", "convolution", "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "prelu"),
        *("scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu"),
        *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    ]
)
# what keeps the types of its operands apart by itself
MIXED = frozenset(("to", "_to_copy", "type_as", "_assert_tensor_metadata", "batch_norm", "copy_"))


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
        if inner.op == "call_function":
            _cast(graph, values[inner])
    return []


def _cast(graph: fx.Graph, node: fx.Node) -> None:
    """Put the casts of autocast before an operator, read off the type of its result.

    Operators that multiply take everything in the lower precision, and those that autocast keeps in
    float32, or that promote, take everything in that. Outside autocast nothing differs.
    """
    wanted = _float(node)
    if not isinstance(node.target, torch._ops.OpOverload) or wanted is None:
        return
    name = node.target._schema.name.removeprefix("aten::")
    if name in MIXED or (wanted != torch.float32 and name not in LOWERED):
        return
    for operand in node.all_input_nodes:
        if _float(operand) not in (None, wanted):
            with graph.inserting_before(node):
                cast = graph.call_function(torch.ops.aten.to.dtype, (operand, wanted))
            cast.meta = {k: v for k, v in node.meta.items() if k == "stack_trace"}
            cast.meta["val"] = operand.meta["val"].to(wanted)
            node.replace_input_with(operand, cast)


def _float(node: fx.Node) -> torch.dtype | None:
    """Return the floating-point type of a node's (first) result."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value.dtype if isinstance(value, torch.Tensor) and value.is_floating_point() else None


def _detached(graph: fx.Graph, value: Any) -> Any:
    if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), torch.Tensor):
        return value
    node = graph.call_function(torch.ops.aten.detach.default, (value,))
    node.meta = {k: v for k, v in value.meta.items() if k in ("val", "stack_trace")}
    return node
