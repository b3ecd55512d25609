"""Weights as operators read them: which entries of which parameter, however they are turned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.graphs import attribute

LONGEST = 32  # nodes between a parameter and what reads it


@dataclass(frozen=True, eq=False)
class Entries:
    """Hold the flat places in the parameter `name` of each entry of an operand, int64."""

    name: str
    index: Tensor
    chain: tuple[fx.Node, ...]  # what turns the parameter into the operand, the parameter first


def entries_of(module: fx.GraphModule, arg: Any) -> Entries | str:
    """Return which entries of one parameter an operand holds, or why it cannot be said.

    What turns the parameter is run on numbered entries and on noise: only what moves entries, such
    as a transposition, a view or a slice, gives the same ones of both.
    """
    if not isinstance(arg, fx.Node):
        return "it is no tensor of the graph"
    chain = _chain(arg)
    read = chain[0] if chain else arg
    whole = attribute(module, str(read.target)) if read.op == "get_attr" else None
    if not isinstance(whole, torch.nn.Parameter):
        return "it is computed from data or buffers"
    if not whole.is_floating_point():
        return "its numbers are no real ones"
    numbers = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)
    drawn = torch.rand(whole.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = (2.0 * drawn - 1.0).to(whole.device)  # of both signs, which a ReLU tells apart
    try:
        index, values = _moved(chain, numbers), _moved(chain, drawn)
    except Exception:  # arithmetic of real numbers refuses whole ones, or the other way round
        return "its weight is computed"
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != values.shape:
        return "its weight is computed"
    inside = bool((index >= 0).all()) and bool((index < whole.numel()).all())
    if not inside or not torch.equal(drawn.flatten()[index.flatten()], values.flatten()):
        return "its weight is computed"
    if index.unique().numel() != index.numel():
        return "its weight holds entries of a parameter several times"
    return Entries(str(read.target), index.contiguous(), chain)


def _chain(arg: fx.Node) -> tuple[fx.Node, ...]:
    """Return the nodes from the one tensor that an operand is made of, or none."""
    chain, open_ = [arg], arg
    while open_.op == "call_function" and len(chain) < LONGEST:
        before = open_.all_input_nodes
        if len(before) != 1:
            return ()
        open_ = before[0]
        chain.append(open_)
    return tuple(reversed(chain)) if open_.op == "get_attr" else ()


def _moved(chain: tuple[fx.Node, ...], value: Tensor) -> Any:
    found: Any = value
    for before, node in pairwise(chain):
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), {before: found}.__getitem__)
        found = node.target(*args, **kwargs)  # type: ignore[operator]
    return found


def foreign(module: fx.GraphModule, name: str, known: set[tuple[fx.Node, fx.Node]]) -> str:
    """Return the name of a node that reads a parameter otherwise than along known edges."""
    tensor = attribute(module, name)
    for read in module.graph.find_nodes(op="get_attr"):
        if attribute(module, str(read.target)) is tensor:
            for user in _strangers(read, known):
                return user.name
    return ""


def _strangers(node: fx.Node, known: set[tuple[fx.Node, fx.Node]]) -> Iterator[fx.Node]:
    for user in node.users:
        if (node, user) not in known:
            yield user
        elif any(edge[0] is user for edge in known):
            yield from _strangers(user, known)
