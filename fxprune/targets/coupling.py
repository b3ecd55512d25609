"""Walk a captured graph once and collect what its operators state about guards."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune.errors import root_cause
from fxprune.graphs import arguments, attribute, later_writes
from fxprune.guards import Reason, true
from fxprune.plugins import load_all
from fxprune.rules import (
    RULES,
    Coupling,
    Rule,
    Site,
    TensorGuard,
    Value,
    is_pointwise,
    operands_of,
    shape_of,
    tensor_meta,
    with_numbers,
)
from fxprune.rules.pointwise import POINTWISE
from fxprune.targets.balancing import settle_balances, units, unmatched
from fxprune.targets.effective import Arithmetic

LONGEST = 200  # characters of what a rule raised
ROUNDS = 4  # of coupling again with more loose convolutions


def rule_for(target: Any) -> Rule | None:
    """Return the rule of an operator, or None where there is none; plug-ins may bring it.

    Raises PluginError where a plug-in cannot be loaded.
    """
    load_all("fxprune.rules")
    rule = RULES.get(target) or RULES.get(str(target))
    if rule is None and is_pointwise(target):
        return POINTWISE
    return rule


def couple(
    module: fx.GraphModule, *, pin_outputs: bool = True, spared: frozenset[str] = frozenset()
) -> Coupling:
    """Couple the whole graph of `module`, whose parameters are read by `get_attr` nodes.

    Operators without a rule pin what they read, unless `spared` names them: then the coupling tells
    how much a rule could free at the most. Where the outputs of grouped convolutions cannot be
    products of groups and channels, it is coupled again with these loose, and the coupling is
    returned in which more units can leave.
    """
    best = _walked(module, Coupling(spared=spared), pin_outputs)
    loose = unmatched(best)
    for _ in range(ROUNDS if loose else 0):
        found = _walked(module, Coupling(loose=loose, spared=spared), pin_outputs)
        best = max(best, found, key=units)
        if unmatched(found) <= loose:
            break
        loose |= unmatched(found)
    return best


def _walked(module: fx.GraphModule, coupling: Coupling, pin_outputs: bool) -> Coupling:
    """Walk the graph once; the groups of the convolutions that are `loose` are balanced."""
    coupling.poisoned, coupling.written = later_writes(module.graph)
    arithmetic = Arithmetic(module, coupling)
    owned: dict[int, Value] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            coupling.values[node] = _whole(node.meta.get("val"))
        elif node.op == "get_attr":
            coupling.values[node] = _parameter(module, node, coupling, owned)
        elif node.op == "call_function":
            value = arithmetic.guarded(node, stated(node, coupling))
            if node in coupling.poisoned:
                value = _changed(value, node, coupling)
            coupling.values[node] = value
        elif node.op == "output" and pin_outputs:
            for result in node.all_input_nodes:
                value = coupling.values.get(result)
                _pin(coupling, value, "output", "the caller sees this axis")
                _pin_numbers(value, coupling, "output", "the caller sees numbers of this axis")
    settle_balances(coupling)
    arithmetic.settle()
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


def stated(node: fx.Node, coupling: Coupling) -> Value:
    """Let one call state what it does to the guards of what it reads; return its result's."""
    if node.target is operator.getitem:
        value = coupling.values.get(node.args[0])  # type: ignore[arg-type]
        return value[node.args[1]] if isinstance(value, tuple) else None  # type: ignore[index]
    produced = node.meta.get("val")
    if tensor_meta(node) is None and not isinstance(produced, (tuple, list)):
        return None  # a number, a symbolic size, an assertion
    rule = rule_for(node.target)
    if rule is None:
        spared = node.name in coupling.spared
        if not spared and _pin_operands(node, coupling, f"no rule for {node.target}"):
            coupling.unruled[node.name] = str(node.target)
        return _unchanged(produced)
    try:
        return _ruled(rule, node, coupling)
    except Exception as error:  # a rule may raise anything: the rest of the model has rules too
        fact = root_cause(error, LONGEST)
        _pin_operands(node, coupling, f"the rule of {node.target} fails: {fact}")
        coupling.failed[node.name] = f"{node.target}: {fact}"
        return _unchanged(produced)


def _ruled(rule: Rule, node: fx.Node, coupling: Coupling) -> Value:
    """Return what a rule states of the result, which must have the sizes that the result has."""
    site = Site(node, coupling)
    value = with_numbers(site, rule.couple(site))
    _check_sizes(value, node.meta["val"])
    if rule.macs is not None:
        operands = operands_of(node, coupling, value)
        rule.macs(lambda name: tuple(len(g) for g in operands[name].dims), arguments(node))
    return value


def _check_sizes(value: Value, produced: Any) -> None:
    if isinstance(value, TensorGuard) and isinstance(produced, torch.Tensor):
        stated, sizes = tuple(len(g) for g in value.dims), shape_of(produced)
        if stated != sizes or len(value.zero) != len(sizes):
            raise ValueError(f"it states the sizes {stated} of a result of {sizes}")
    elif isinstance(value, tuple) and isinstance(produced, (tuple, list)):
        for one, result in zip(value, produced, strict=False):
            _check_sizes(one, result)


def _pin_operands(node: fx.Node, coupling: Coupling, text: str) -> bool:
    """Pin whatever a node touches; return whether any of it was free."""
    touched = False
    for operand in node.all_input_nodes:
        touched |= _pin(coupling, coupling.values.get(operand), node.name, text)
    return touched


def _unchanged(produced: Any) -> Value:
    """Return guards of a result, or several, that never changes."""
    if isinstance(produced, (tuple, list)):
        return tuple(_whole(one) for one in produced)
    return _whole(produced)


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


def _changed(value: Value, node: fx.Node, coupling: Coupling) -> Value:
    """Return what is known of a tensor that something writes to later."""
    if isinstance(value, tuple):
        return tuple(_changed(one, node, coupling) for one in value)
    if value is None:
        return None
    _pin_numbers(value, coupling, node.name, "numbers of this axis are changed in place")
    return TensorGuard(value.dims, (False,) * len(value.zero))


def _pin_numbers(value: Value, coupling: Coupling, node: str, text: str) -> None:
    """Pin the axis that the values of a tensor number."""
    if isinstance(value, TensorGuard) and value.numbers is not None:
        coupling.guards.pin(value.numbers, Reason(node, text))
