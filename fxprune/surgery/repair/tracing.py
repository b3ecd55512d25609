"""Which results of a contraction are read where, as long as nothing but movement lies between."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxprune.graphs import arguments
from fxprune.rules import hint, tensor_meta
from fxprune.surgery.repair.contractions import Contraction, contraction_of

LONGEST = 64  # nodes between a contraction and what reads it
aten = torch.ops.aten
SCALES = {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}


@dataclass(frozen=True, eq=False)
class Flow:
    """Hold where the results of a contraction go.

    `columns` say of each entry of the nodes that only move them which result it is, numbered over
    the axes `dims` of the contraction's own, int64.
    """

    source: Contraction
    dims: tuple[int, ...]
    columns: dict[fx.Node, Tensor]
    movements: frozenset[fx.Node]  # those with several results too

    def strangers(self, columns: Tensor, but: fx.Node) -> list[fx.Node]:
        """Return the nodes that compute with some of the results, except for one."""
        return [
            user
            for node, held in self.columns.items()
            for user in node.users
            if user not in self.movements
            and user is not but
            and _tensors(user)
            and bool(torch.isin(held, columns).any())
        ]


def source_of(module: fx.GraphModule, operand: fx.Node) -> Contraction | str:
    """Return the contraction that an activation comes from, or what lies between."""
    node = operand
    for _ in range(LONGEST):
        found = contraction_of(module, node)
        if isinstance(found, Contraction):
            return found
        reads = _moved_by(module, node)
        if len(reads) != 1:
            break
        node = reads[0]
    return f"{node.name} lies between {operand.name} and a weight, and is no mere movement"


def flow_of(module: fx.GraphModule, source: Contraction) -> Flow | str:
    """Follow the results of a contraction, or say why they cannot be numbered.

    What moves them is run on numbers and on noise of both signs, as it is for weights; factors
    that are one number for all entries are passed over.
    """
    made = tensor_meta(source.node)
    if made is None or len(source.places) != 1:
        return f"{source.node.name} gives several blocks of results"
    shape = [hint(n) for n in made.shape]
    numbers = torch.arange(prod(shape)).reshape(shape)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held: dict[fx.Node, tuple[Any, Any]] = {source.node: (numbers, 2.0 * noise - 1.0)}
    for node in source.node.graph.nodes:
        reads = _moved_by(module, node)
        if len(reads) == 1 and reads[0] in held and node is not source.node:
            moved = _moved(node, reads[0], held[reads[0]], held[source.node][1])
            if moved is not None:
                held[node] = moved
    results, column = source.form.results(numbers)[0], torch.empty(prod(shape), dtype=torch.int64)
    column[results] = torch.arange(results.shape[1]).expand_as(results)
    whole = column.reshape(shape)
    dims = tuple(d for d in range(len(shape)) if bool((whole != whole.narrow(d, 0, 1)).any()))
    last = whole.movedim(dims, tuple(range(-len(dims), 0)))
    if not dims or bool((last.flatten(-len(dims)) != torch.arange(results.shape[1])).any()):
        return f"the results of {source.node.name} are in no order that can be told"
    moved_to = {n: column[i] for n, (i, _) in held.items() if isinstance(i, Tensor)}
    return Flow(source, dims, moved_to, frozenset(held))


def _moved_by(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Return the activations that a call reads."""
    if node.op != "call_function":
        return []
    reads = [one for one in node.all_input_nodes if _tensors(one)]
    if node.target in SCALES and _number(arguments(node).get("other")):
        reads = reads[:1]
    return reads


def _tensors(node: fx.Node) -> bool:
    return any(isinstance(one, Tensor) for one in pytree.tree_leaves(node.meta.get("val")))


def _number(given: Any) -> bool:
    """Tell a plain number, or a constant tensor of one."""
    if not isinstance(given, fx.Node):
        return True
    made = tensor_meta(given)
    return given.op == "get_attr" and made is not None and made.ndim == 0


def _moved(node: fx.Node, read: fx.Node, held: tuple[Any, Any], noise: Tensor) -> Any:
    """Return numbers and noise behind a call, None where it does more than move them."""
    if node.target in SCALES:
        return held

    def of(value: Any) -> Any:
        def given(one: fx.Node) -> Any:
            size = one.meta.get("val")
            return value if one is read else hint(size) if isinstance(size, torch.SymInt) else size

        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), given)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    try:
        index, values = of(held[0]), of(held[1])
    except Exception:  # operators raise what they like of numbers that are no activations
        return None
    pairs = list(zip(pytree.tree_leaves(index), pytree.tree_leaves(values), strict=True))
    for numbers, other in pairs:
        if not isinstance(numbers, Tensor) or numbers.dtype != torch.int64:
            return None
        if numbers.numel() and not (0 <= int(numbers.min()) <= int(numbers.max()) < noise.numel()):
            return None
        if numbers.shape != other.shape or not torch.equal(noise.flatten()[numbers], other):
            return None
    return (index, values) if pairs else None
