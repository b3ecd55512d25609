"""Read the calls of a graph by the schemas of their operators."""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import torch
from torch import fx


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names of its operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): arg for i, arg in enumerate(node.args)} | dict(node.kwargs)
    names, defaults = parameters_of(node.target)
    bound = dict(defaults)
    bound.update(zip(names, node.args, strict=False))
    bound.update(node.kwargs)
    return bound


@cache
def parameters_of(operator: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names that an operator's arguments by position have, and all defaults."""
    listed = operator._schema.arguments
    names = tuple(one.name for one in listed if not one.kwarg_only)
    return names, {
        one.name: one.default_value if one.has_default_value() else None for one in listed
    }


def alias_of(node: fx.Node) -> tuple[fx.Node | None, bool]:
    """Return the operand whose storage the result shares, and whether the call writes to it."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0], False
    for place, writes in aliased_by(node.target):
        value = node.args[place] if place < len(node.args) else None
        if isinstance(value, fx.Node):
            return value, writes
    return None, False


@cache
def aliased_by(target: Any) -> tuple[tuple[int, bool], ...]:
    """Return which arguments an operator's result may share storage with, and if it writes."""
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    pairs = enumerate(target._schema.arguments)
    return tuple((k, one.alias_info.is_write) for k, one in pairs if one.alias_info is not None)
