"""Write calls of operators as calls of torch's public functions and methods.

Quantisers look for `torch.add` and `F.relu`, and scripts for `x.view`; an operator with an
overload, such as `aten.add.Tensor`, is none of these to them.
"""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxprune.graphs import arguments
from fxprune.rules import RULES, is_pointwise

aten = torch.ops.aten
END = 2**63 - 1  # of a slice that goes to the end
HOMES = (torch, torch._C._nn)
METHOD = types.MethodDescriptorType
GRID = "quant_min"  # operators that round to a grid are looked for by name
ALONE = {aten.to.dtype_layout}  # operators with a name for an argument that no method takes
HOLES = "List[Optional[Tensor]]"  # which the operators alone take with nothing in some places
Written = tuple[str, Any, dict[str, Any]]  # the kind of node, its target, further arguments


def publish(graph: fx.Graph) -> None:
    """Write what is computed of inputs in public functions; arithmetic of weights stays."""
    of_inputs: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not of_inputs.isdisjoint(node.all_input_nodes):
            of_inputs.add(node)
            if node.target is aten.slice.Tensor:
                _subscribe(node)
            elif (written := _written(node)) is not None:
                node.op, node.target, more = written
                node.kwargs = {**node.kwargs, **more}


def _subscribe(node: fx.Node) -> None:
    """Write a slice as the subscript that it was."""
    x, dim, start, end, step = arguments(node).values()
    if isinstance(dim, int) and dim >= 0:
        bounds = slice(start or None, None if end == END else end, None if step == 1 else step)
        node.target, node.kwargs = operator.getitem, {}
        node.args = (x, (*[slice(None)] * dim, bounds))


def _written(node: fx.Node) -> Written | None:
    target: Any = node.target
    if node.op != "call_function" or getattr(target, "namespace", "") != "aten":
        return None
    return public(target, len(node.args), frozenset(node.kwargs))


@cache
def public(called: Any, count: int, keywords: frozenset[str]) -> Written | None:
    """Return the public function or method for a call with `count` arguments and some by name.

    None where torch has none that takes them alike, or no rule says what the operator does.
    """
    if called is aten.sym_size.int:
        return "call_method", "size", {}
    if not (called in RULES or is_pointwise(called)) or count == 0:
        return None
    declared = called._schema.arguments
    listed = [one.name for one in declared]
    name = str(called._schema.name).removeprefix("aten::")
    if (
        called in ALONE
        or GRID in listed
        or any(one.is_out or str(one.type) == HOLES for one in declared)
    ):
        return None
    more = _functional(name, listed[:count], keywords)
    if more is not None:
        return "call_function", getattr(F, name.removesuffix("_")), dict(more)
    for home in HOMES:
        if isinstance(found := getattr(home, name, None), types.BuiltinFunctionType):
            return "call_function", found, {}
    if listed[0] == "self" and isinstance(getattr(torch.Tensor, name, None), METHOD):
        return "call_method", name, {}
    return None


def _functional(name: str, given: list[str], keywords: frozenset[str]) -> Mapping[str, Any] | None:
    """Return what else a function of `torch.nn.functional` of those arguments takes for a call."""
    function, writes = getattr(F, name.removesuffix("_"), None), name.endswith("_")
    if not isinstance(function, types.FunctionType):
        return None
    names = list(inspect.signature(function).parameters)
    wanted = ["input" if one == "self" else one for one in given]
    if names[: len(wanted)] != wanted or not keywords <= set(names):
        return None
    if not writes:
        return {}
    return {"inplace": True} if "inplace" in names[len(wanted) :] else None
