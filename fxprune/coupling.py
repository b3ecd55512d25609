"""Walk a captured graph once and collect what its operators state about guards."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune.calls import alias_of
from fxprune.guards import Reason, true
from fxprune.program import attribute
from fxprune.rules import RULES
from fxprune.rules.pointwise import POINTWISE, is_pointwise
from fxprune.rules.registry import Rule
from fxprune.rules.site import Coupling, Site, TensorGuard, Value, shape_of, tensor_meta


def rule_for(target: Any) -> Rule | None:
    """Return the rule of an operator, or None where there is none."""
    rule = RULES.get(target) or RULES.get(str(target))
    if rule is None and is_pointwise(target):
        return POINTWISE
    return rule


def couple(module: fx.GraphModule, *, pin_outputs: bool = True) -> Coupling:
    """Couple the whole graph of `module`, whose parameters are read by `get_attr` nodes."""
    coupling = Coupling(poisoned=changed_later(module.graph))
    owned: dict[int, Value] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            coupling.values[node] = _whole(node.meta.get("val"))
        elif node.op == "get_attr":
            coupling.values[node] = _parameter(module, node, coupling, owned)
        elif node.op == "call_function":
            value = _call(node, coupling)
            coupling.values[node] = _unzero(value) if node in coupling.poisoned else value
        elif node.op == "output" and pin_outputs:
            for result in node.all_input_nodes:
                _pin(coupling, coupling.values.get(result), "output", "the caller sees this axis")
    return coupling


def _whole(value: Any) -> Value:
    if not isinstance(value, torch.Tensor):
        return None
    sizes = shape_of(value)
    return TensorGuard(tuple(true(n) for n in sizes), (False,) * len(sizes))


def _parameter(
    module: fx.GraphModule, node: fx.Node, coupling: Coupling, owned: dict[int, Value]
) -> Value:
    """Give each axis of a parameter or buffer fresh variables, once however often it is read."""
    tensor = attribute(module, str(node.target))
    if not isinstance(tensor, torch.Tensor):
        return None
    if id(tensor) not in owned:
        zero = isinstance(tensor, torch.nn.Parameter)
        dims = tuple(coupling.guards.fresh(n) if n != 1 else true(1) for n in tensor.shape)
        owned[id(tensor)] = TensorGuard(dims, (zero,) * len(dims))
    return owned[id(tensor)]


def _call(node: fx.Node, coupling: Coupling) -> Value:
    if node.target is operator.getitem:
        value = coupling.values.get(node.args[0])  # type: ignore[arg-type]
        return value[node.args[1]] if isinstance(value, tuple) else None  # type: ignore[index]
    produced = node.meta.get("val")
    if tensor_meta(node) is None and not isinstance(produced, (tuple, list)):
        return None  # a number, a symbolic size, an assertion
    rule = rule_for(node.target)
    if rule is not None:
        return rule.couple(Site(node, coupling))
    return _unruled(node, coupling)


def _unruled(node: fx.Node, coupling: Coupling) -> Value:
    """Pin whatever an operator without a rule touches."""
    touched = False
    for operand in node.all_input_nodes:
        text = f"no rule for {node.target}"
        touched |= _pin(coupling, coupling.values.get(operand), node.name, text)
    if touched:
        coupling.unruled[node.name] = str(node.target)
    produced = node.meta["val"]
    if isinstance(produced, torch.Tensor):
        return _whole(produced)
    return tuple(_whole(one) for one in produced)


def _pin(coupling: Coupling, value: Value, node: str, text: str) -> bool:
    """Pin every axis of a value; return whether any was free."""
    touched = False
    if isinstance(value, tuple):
        for one in value:
            touched |= _pin(coupling, one, node, text)
    elif value is not None:
        for g in value.dims:
            touched |= coupling.guards.pin(g, Reason(node, text))
    return touched


def _unzero(value: Value) -> Value:
    if isinstance(value, tuple):
        return tuple(_unzero(one) for one in value)
    return value and TensorGuard(value.dims, (False,) * len(value.zero))


def changed_later(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes that are read after something changed their storage in place."""
    root: dict[fx.Node, fx.Node] = {}
    families: dict[fx.Node, list[fx.Node]] = {}
    place = {node: k for k, node in enumerate(graph.nodes)}
    changed: set[fx.Node] = set()
    for node in graph.nodes:
        source, writes = alias_of(node)
        root[node] = root.get(source, source) if source is not None else node
        if writes and source is not None:
            changed.update(
                other
                for other in families.get(root[node], [])
                if any(place[user] > place[node] for user in other.users)
            )
        families.setdefault(root[node], []).append(node)
    return frozenset(changed)
