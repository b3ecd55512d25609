"""Find products of queries and keys whose head dims shrink, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from fxprune.graphs import arguments
from fxprune.surgery.repair.contractions import Contraction, contraction_of
from fxprune.surgery.repair.tracing import Flow, flow_of, source_of
from fxprune.surgery.repair.walk import Pair
from fxprune.surgery.repair.weights import foreign

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
PRODUCTS = (ATTENTION, aten.matmul.default, aten.bmm.default)

Pairs = Mapping[fx.Node, Pair]


@dataclass(frozen=True, eq=False)
class Operand:
    """Hold the queries or the keys of a product: where they come from, and what is kept of them.

    `columns` `[heads, d]`, at first of all examples, are those of the contraction's results, and
    `stays` which of these are kept.
    """

    node: fx.Node
    flow: Flow
    columns: Tensor
    stays: Tensor
    ours: Contraction

    def of_one(self, examples: int) -> Operand | None:
        """Return the operand with the heads of one example, if all have the same."""
        many = len(self.columns) // examples
        columns = self.columns[:many]
        if not torch.equal(columns.repeat(examples, 1), self.columns):
            return None
        return replace(self, columns=columns, stays=self.stays[:many])


@dataclass(frozen=True, eq=False)
class Logits:
    """Hold a product of queries and keys; `groups` are the kept heads that share their keys."""

    node: fx.Node
    queries: Operand
    keys: Operand
    groups: tuple[tuple[int, ...], ...]


def operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Return the two activations that a product multiplies."""
    given = arguments(node)
    if node.target is ATTENTION:
        return given["query"], given["key"]
    return given["self"], given["mat2" if node.target is aten.bmm.default else "other"]


def logits_of(
    original: fx.GraphModule,
    smaller: fx.GraphModule,
    node: fx.Node,
    pairs: Pairs,
    spared: Mapping[str, str],
) -> Logits | str:
    """Return a product whose head dims shrink, why it is left, or "" where nothing is to be done.

    Where the dims that shrink are not those that the product sums over, nothing is.
    """
    twins = {pair.node: ours for ours, pair in pairs.items()}
    sides = list[Operand]()
    for place, operand in enumerate(operands(node)):
        pair = pairs.get(twins.get(operand, operand))
        axis = -2 if place and node.target is not ATTENTION else -1
        if pair is None or len(pair.kept) < 3 or pair.kept[axis] is None:
            return ""
        one = _operand(original, smaller, node, operand, axis, pairs, twins, spared)
        if isinstance(one, str):
            return one
        sides.append(one)
    examples = len(sides[0].columns) // len(sides[0].columns.unique(dim=0))
    queries, keys = (one.of_one(examples) for one in sides)
    if queries is None or keys is None or len(queries.columns) % len(keys.columns):
        return "its heads are not the same for every example"
    share = len(queries.columns) // len(keys.columns)
    if share > 1 and node.target is not ATTENTION:
        return "its heads do not share keys in equal parts"
    keys = replace(
        keys,
        columns=keys.columns.repeat_interleave(share, 0),
        stays=keys.stays.repeat_interleave(share, 0),
    )
    groups: dict[tuple[int, ...], list[int]] = {}
    for head, columns in enumerate(keys.columns.tolist()):
        if bool(queries.stays[head].any()):
            groups.setdefault(tuple(columns), []).append(head)
    heads = [head for group in groups.values() for head in group]
    same = len({tuple(row) for row in queries.columns[heads].tolist()}) == len(heads)
    if not same or not torch.equal(queries.stays[heads], keys.stays[heads]):
        return "its queries and keys keep other dims"
    if not heads or len({int(queries.stays[head].sum()) for head in heads}) != 1:
        return "its heads keep other numbers of dims"
    return Logits(node, queries, keys, tuple(map(tuple, groups.values())))


def _operand(
    original: fx.GraphModule,
    smaller: fx.GraphModule,
    product: fx.Node,
    node: fx.Node,
    axis: int,
    pairs: Pairs,
    twins: Mapping[fx.Node, fx.Node],
    spared: Mapping[str, str],
) -> Operand | str:
    source = source_of(original, node)
    if isinstance(source, str):
        return source
    flow = flow_of(original, source)
    if isinstance(flow, str):
        return flow
    if node not in flow.columns:
        return f"what lies between {source.node.name} and {node.name} is no mere movement"
    ours = twins.get(source.node)
    small = contraction_of(smaller, ours) if ours is not None else None
    if ours is None or not isinstance(small, Contraction):
        return f"{source.node.name} has no counterpart"
    why = _shared(original, source) or spared.get(source.weight.name, "")
    if why:
        return why
    places = flow.columns[node].movedim(axis, -1)
    columns = places[..., 0, :].flatten(0, -2)
    if (places != places[..., :1, :]).any():
        return f"the heads of {node.name} are not the same for every token"
    strangers = flow.strangers(columns, product)
    if strangers:
        return f"{strangers[0].name} reads {node.name} too"
    return Operand(node, flow, columns, _stays(pairs[ours], flow)[columns], small)


def _shared(module: fx.GraphModule, source: Contraction) -> str:
    """Say who else reads the weight or the bias of a contraction."""
    for one in (source.weight, source.bias):
        stranger = foreign(module, one.name, source.edges) if one is not None else ""
        if stranger:
            return f"{stranger} reads its weight too"
    return ""


def _stays(pair: Pair, flow: Flow) -> Tensor:
    """Return which results of a contraction are kept, numbered as in a flow."""
    sizes = [int(pair.node.meta["val"].shape[d]) for d in flow.dims]
    stays = torch.ones(sizes, dtype=torch.bool)
    for at, dim in enumerate(flow.dims):
        index = pair.kept[dim]
        if index is not None:
            mine = torch.zeros(sizes[at], dtype=torch.bool)
            mine[index] = True
            stays &= mine.reshape([-1 if k == at else 1 for k in range(len(sizes))])
    return stays.flatten()
