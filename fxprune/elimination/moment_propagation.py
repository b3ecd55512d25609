"""Walk through a captured graph once, and tell the mean and the variance of every result."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxprune.elimination.constant_products import PRODUCTS
from fxprune.elimination.constant_values import (
    REFUSALS,
    Call,
    ConstantValue,
    ConstantValues,
    plain,
    symbolic,
)
from fxprune.elimination.moments import NORMS, Moments, rule_of
from fxprune.graphs import alias_of, arguments

MomentValues = Mapping[fx.Node, Any]


def moments(module: fx.GraphModule, facts: ConstantValues) -> MomentValues:
    """Return the moments of every result of which anything is known, given what is constant."""
    found: dict[fx.Node, Any] = {}
    roots: dict[fx.Node, fx.Node] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            made = _made(node, found, facts)
            source, writes = alias_of(node)
            roots[node] = roots.get(source, source) if source is not None else node
            if writes and source is not None:  # what was there before is no more
                for other in [one for one in found if roots.get(one, one) is roots[node]]:
                    del found[other]
                found |= {source: made} if made is not None else {}
            if made is not None:
                found[node] = made
    return found


def _made(node: fx.Node, found: Mapping[fx.Node, Any], facts: ConstantValues) -> Any:
    if node.target is operator.getitem:
        value = found.get(node.args[0])  # type: ignore[arg-type]
        place = node.args[1]
        return value[place] if isinstance(value, tuple) and place < len(value) else None  # type: ignore[operator, index]
    fact, rule = facts.get(node), rule_of(node.target)
    if rule is None or (isinstance(fact, ConstantValue) and fact.whole):
        return None
    if node.target in PRODUCTS and all(user.target in NORMS for user in node.users):
        return None  # norms know better what they are given
    call = call_of(node, found, facts)
    if call is None:
        return None
    try:
        made = rule(call, _shape(node, fact))
    except REFUSALS:
        return None
    return _with_constants(made, fact)


def call_of(node: fx.Node, found: Mapping[fx.Node, Any], facts: ConstantValues) -> Call | None:
    """Return a call with moments in the place of what varies, and known tensors as they are.

    None where an operand is not known that is no floating tensor.
    """
    missing = False

    def read(one: fx.Node) -> Any:
        nonlocal missing
        fact = facts.get(one)
        if isinstance(found.get(one), Moments):
            return found[one]
        if not isinstance(fact, ConstantValue):
            return fact
        if fact.whole:
            return plain(fact)
        missing |= not fact.value.is_floating_point()
        return Moments.nothing(fact.value.shape)

    given = arguments(node)
    args = {name: fx.map_arg(arg, read) for name, arg in given.items()}
    return None if missing else Call(node, args, given, symbolic(node))


def _shape(node: fx.Node, fact: Any) -> tuple[int, ...]:
    first = fact[0] if isinstance(fact, tuple) else fact
    if isinstance(first, ConstantValue):
        return tuple(first.value.shape)
    made = pytree.tree_leaves(node.meta.get("val"))
    return tuple(int(n) for n in made[0].shape) if made and isinstance(made[0], Tensor) else ()


def _with_constants(made: Any, fact: Any) -> Any:
    """Return moments that are exact where entries are known to be constant."""
    if not isinstance(fact, ConstantValue) or fact.unknown or not isinstance(made, Moments | None):
        return made
    mean, variance = (made or Moments.nothing(fact.value.shape)).whole
    known = ~fact.varies
    mean = torch.where(known, fact.value.double(), mean)
    return Moments.of(mean, torch.where(known, 0.0, variance), tuple(fact.value.shape))
