"""Find the constants of a captured graph: what no input can change, in evaluation mode.

The graph is run once on what is known of each tensor. An operator belongs to a family: it moves
entries, treats each alone, multiplies and adds, averages, picks the largest. What has no rule, or
is written to, is not constant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxprune.capture.marker import NAMESPACE
from fxprune.elimination.constant_products import RULES
from fxprune.elimination.constant_values import (
    REFUSALS,
    Call,
    ConstantValue,
    ConstantValues,
    averaged,
    called,
    evaluated,
    filled,
    largest,
    moved,
    number,
    plain,
    pointwise,
    unknown,
)
from fxprune.graphs import alias_of, attribute, changed_later
from fxprune.rules import is_pointwise, name_of
from fxprune.rules.movements import MOVES
from fxprune.signature import Signature

KNOWN = ("aten", NAMESPACE)  # where a name says what an operator does
AVERAGES = frozenset(
    [
        "mean",
        "sum",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "upsample_linear1d",
        "upsample_bilinear2d",
        "upsample_trilinear3d",
    ]
)
LARGEST = frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool1d_with_indices",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "amax",
    ]
)
FILLS = frozenset(
    [
        "zeros",
        "ones",
        "full",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_full",
    ]
)


def constants(module: fx.GraphModule, signature: Signature) -> ConstantValues:
    """Return what is known of the result of every node: constants, numbers, tuples of them."""
    with torch.no_grad():
        return Reader(module).read(signature)


def rule_of(target: Any) -> Callable[[Call], Any]:
    """Return the rule of an operator: its own, or that of its family."""
    if target in RULES:
        return RULES[target]
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in KNOWN:
        return evaluated
    name = name_of(target)
    first = target._schema.arguments[0].name if target._schema.arguments else ""
    if name in MOVES:
        return moved
    if is_pointwise(target):
        return pointwise
    if name in AVERAGES:
        return averaged(first)
    if name in LARGEST:
        return largest(first)
    return filled if name in FILLS else evaluated


class Reader:
    """Run a graph on what is known of its tensors."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._changed = changed_later(module.graph)
        self._written = {id(attribute(module, name)) for name in written(module.graph)}
        self._parameters: dict[int, ConstantValue] = {}
        self.facts: dict[fx.Node, Any] = {}

    def read(self, signature: Signature) -> ConstantValues:
        """Run the graph; where two examples of the inputs will not do, on all of them."""
        args, kwargs = signature.args, signature.kwargs
        if (signature.batch or 0) > 2:
            args, kwargs = signature.resized(2)
        leaves = pytree.tree_leaves((args, kwargs))
        places = [node for node in self._module.graph.nodes if node.op == "placeholder"]
        self.facts |= dict(zip(places[-len(leaves) :], map(_input, leaves), strict=True))
        for node in self._module.graph.nodes:
            if node.op == "get_attr":
                self.facts[node] = self._tensor(node)
            elif node.op == "call_function":
                self.facts[node] = self._forgotten(node, self._call(node))
        return self.facts

    def _tensor(self, node: fx.Node) -> Any:
        tensor = attribute(self._module, str(node.target))
        if not isinstance(tensor, Tensor):
            return None
        if id(tensor) in self._written or tensor.is_complex() or tensor.is_quantized:
            return ConstantValue.nothing(tensor.shape, tensor.dtype)
        if id(tensor) not in self._parameters:
            self._parameters[id(tensor)] = ConstantValue.constant(tensor)
        return self._parameters[id(tensor)]

    def _forgotten(self, node: fx.Node, fact: Any) -> Any:
        """Treat as unknown what is changed in place before it is read."""
        if node not in self._changed:
            return fact
        return pytree.tree_map(
            lambda one: (
                ConstantValue.nothing(one.value.shape, one.value.dtype)
                if isinstance(one, ConstantValue)
                else one
            ),
            fact,
            is_leaf=lambda one: isinstance(one, ConstantValue),
        )

    def _call(self, node: fx.Node) -> Any:
        made = node.meta.get("val")
        tensors = [one for one in pytree.tree_leaves(made) if isinstance(one, Tensor)]
        if node.target is operator.getitem:
            value = self.facts.get(node.args[0])  # type: ignore[arg-type]
            return value[node.args[1]] if isinstance(value, tuple) else None  # type: ignore[index]
        if not tensors:
            return self._number(node)
        if any(one.is_complex() for one in tensors) or _missing(node, self.facts):
            return unknown(made)
        try:
            return rule_of(node.target)(called(node, self.facts))
        except REFUSALS:
            return unknown(made)

    def _number(self, node: fx.Node) -> Any:
        """Compute a size from sizes."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: plain(self.facts.get(n)))
        try:
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except (*REFUSALS, AssertionError, ZeroDivisionError):
            return number(node.meta.get("val"))


def _input(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return ConstantValue(
        leaf.detach().cpu().to(torch.float64) if leaf.is_floating_point() else leaf.detach().cpu(),
        torch.ones((), dtype=torch.bool).expand(leaf.shape),
    )


def _missing(node: fx.Node, facts: ConstantValues) -> bool:
    return any(facts.get(one) is None for one in node.all_input_nodes)


def written(graph: fx.Graph) -> set[str]:
    """Return the names of the parameters and buffers that the graph itself writes to."""
    roots: dict[fx.Node, fx.Node] = {}
    names: set[str] = set()
    for node in graph.nodes:
        source, writes = alias_of(node)
        roots[node] = roots.get(source, source) if source is not None else node
        if writes and roots[node].op == "get_attr":
            names.add(str(roots[node].target))
    return names
