"""What operators are given: the second moments of their features, streamed over batches.

A consumer is a contraction of data with a weight, `Y[b] = X[b] · W[b]`, or a product of queries
and keys, whose features are the products of their entries. From the moments follows what its
results lose when features go and the rest is refitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune import distributed
from fxprune.errors import CalibrationError
from fxprune.graphs import arguments, attribute
from fxprune.guards import Ids
from fxprune.rules import Coupling, TensorGuard
from fxprune.surgery.repair import convolutions, products
from fxprune.surgery.repair.activations import Memory
from fxprune.surgery.repair.contractions import Contraction
from fxprune.surgery.repair.lockstep import Side
from fxprune.surgery.repair.norms import NORMS, statistics_of
from fxprune.surgery.repair.planning import planned
from fxprune.surgery.repair.walk import Terms

FORMS = (convolutions, products)  # loaded: they register what they read
PIECE = 1 << 22  # entries of features that are looked at at a time
aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
NOT_FINITE = (
    "calibrate: batch {}: what {} is given is not finite; look at the batch, or choose a metric "
    "of weights"
)


@dataclass(frozen=True, eq=False)
class Consumer:
    """Hold the calls of a weight, or of a product of two activations, and who its features are.

    `features` and `outputs` are the variables in the guards of each feature `[B, K, factors]` and
    each result `[B, N, factors]`, 0 where there are fewer. `weights` are `[B, K, N]`; of a product
    of activations, ones. `halves` are `E[x xᵀ]` `[B, K, K]` over the rows of the first and of the
    last examples, float64, about their means where a constant can be added to the results.
    `scales` `[B, N]` are those by which a norm that reads the results multiplies them, or ones: it
    makes small results as large as others.
    """

    nodes: tuple[fx.Node, ...]
    weights: Tensor
    features: Ids
    outputs: Ids
    centred: bool
    scales: Tensor
    calls: tuple[Contraction, ...] = ()
    halves: tuple[Tensor, ...] = ()

    @property
    def moments(self) -> Tensor:
        """Return the moments over all rows."""
        return torch.stack(self.halves).mean(0)

    @property
    def pairs(self) -> bool:
        """Tell a product of two activations."""
        return not self.calls

    @property
    def tapped(self) -> tuple[fx.Node, ...]:
        """Return the nodes at which gradients say how much errors matter."""
        return self.nodes if self.calls else (_operands(self.nodes[0])[0],)


def consumers(module: fx.GraphModule, coupling: Coupling) -> list[Consumer]:
    """Return all consumers of a graph whose features have guards, in the order of their calls."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    found: list[Consumer] = []
    for group in planned(module, nodes, {}).groups:
        one = _weighted(module, coupling, group.calls, group.biased)
        if one is not None:
            found.append(one)
    for node in nodes:
        pair = _pair(coupling, node)
        if pair is not None:
            found.append(pair)
    order = {node: k for k, node in enumerate(nodes)}
    return sorted(found, key=lambda one: order[one.nodes[-1]])


def _weighted(
    module: fx.GraphModule, coupling: Coupling, calls: Sequence[Contraction], biased: bool
) -> Consumer | None:
    first = calls[0]
    guard = coupling.values.get(first.weight.chain[0])
    if not isinstance(guard, TensorGuard):
        return None
    tensor = attribute(module, first.weight.name)
    places = np.unravel_index(first.places.cpu().numpy(), tuple(tensor.shape))
    features, outputs = list[Ids](), list[Ids]()
    for dim, at in enumerate(places):
        g = coupling.guards.normal(guard.dims[dim])
        if not g.shape[1]:
            continue
        if (at == at[..., :1]).all():
            features.append(g[at[..., 0]])
        if (at == at[:, :1]).all():
            outputs.append(g[at[:, 0]])
    if not features:
        return None
    weights = tensor.detach().reshape(-1)[first.places].double()
    blocks, _, width = weights.shape
    free = biased or all(
        user.target in NORMS and user.args[0] is call.node
        for call in calls
        for user in call.node.users
    )
    return Consumer(
        tuple(call.node for call in calls),
        weights,
        np.concatenate(features, 2),
        np.concatenate([np.zeros((blocks, width, 0), dtype=np.int64), *outputs], 2),
        free,
        _scales(module, calls[0], (blocks, width)),
        tuple(calls),
    )


def _scales(module: fx.GraphModule, call: Contraction, sizes: tuple[int, int]) -> Tensor:
    """Return by what the norms behind a call multiply its results: `γ/√(σ² + ε)`, else 1."""
    found = torch.ones(sizes, dtype=torch.float64, device=call.places.device)
    for user in call.node.users:
        if (names := statistics_of(module, user)) is None or user.args[0] is not call.node:
            continue
        given = arguments(user)
        variance, gain = attribute(module, names[1]).double(), given["weight"]
        scale: Tensor = (variance + float(given["eps"])).rsqrt()
        if isinstance(gain, fx.Node) and gain.op == "get_attr":
            scale = scale * attribute(module, str(gain.target)).detach().double()
        if scale.numel() == found.numel():
            return scale.reshape(sizes)
    return found


def _operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    given = arguments(node)
    if node.target is ATTENTION:
        return given["query"], given["key"]
    return given["self"], given["mat2" if node.target is aten.bmm.default else "other"]


def _pair(coupling: Coupling, node: fx.Node) -> Consumer | None:
    """Return a product of queries and keys, summed over an axis that has guards."""
    if node.target not in (ATTENTION, aten.matmul.default, aten.bmm.default):
        return None
    first, second = _operands(node)
    sides = [coupling.values.get(one) for one in (first, second)]
    metas = [one.meta["val"] if isinstance(one, fx.Node) else None for one in (first, second)]
    if not all(isinstance(one, TensorGuard) for one in sides) or any(
        not isinstance(one, Tensor) or one.ndim < 3 for one in metas
    ):
        return None
    if any(one.op == "get_attr" for one in (first, second)):
        return None
    dims: Any = sides[0].dims  # type: ignore[union-attr]
    g = coupling.guards.normal(dims[-1])
    lead = metas[0].shape[1:-2]
    alike = list(metas[1].shape[1:-2]) == list(lead)
    if not g.shape[1] or any(not isinstance(n, int) for n in lead):
        return None
    blocks = int(np.prod([int(n) for n in lead])) if alike else 1
    if blocks == 0 or not len(g):
        return None
    weights = torch.ones(blocks, len(g), 1, dtype=torch.float64)
    features = np.broadcast_to(g, (blocks, *g.shape)).copy()
    outputs, scales = np.zeros((blocks, 1, 0), dtype=np.int64), torch.ones_like(weights[:, 0])
    return Consumer((node,), weights, features, outputs, False, scales)


def measured(
    module: fx.GraphModule,
    found: Sequence[Consumer],
    batches: Sequence[Sequence[Any]],
    terms: Terms,
) -> Iterator[Consumer]:
    """Yield the consumers with their moments, one after the other, while the graph is run.

    Raises CalibrationError where what they are given is not finite.
    """
    memory = Memory(terms.memory)
    draw = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            side = Side(module, batches, memory)
            open_: dict[int, _Sums] = {}
            places = {node: k for k, one in enumerate(found) for node in one.nodes}
            for node in sorted(places, key=side.places.__getitem__):
                one = found[places[node]]
                side.advance(node, inclusive=False)  # so what the call reads is there still
                sums = open_.setdefault(places[node], _Sums(one, terms, draw))
                sums.add(node, side)
                if node is one.nodes[-1]:
                    yield replace(one, halves=open_.pop(places[node]).means())
    finally:
        memory.close()


class _Sums:
    """Add up the products of features over some rows of every batch."""

    def __init__(self, one: Consumer, terms: Terms, draw: torch.Generator) -> None:
        self._one, self._terms, self._draw = one, terms, draw
        blocks, many, _ = one.weights.shape
        device = one.weights.device
        self._xx = torch.zeros(2, blocks, many, many, dtype=torch.float64, device=device)
        self._x = torch.zeros(2, blocks, many, dtype=torch.float64, device=device)
        self._rows = [0.0, 0.0]

    def add(self, node: fx.Node, side: Side) -> None:
        """Look at what a call is given on all batches."""
        for number, one in enumerate(side.values):
            if self._one.pairs:
                first, second = (one[read] for read in _operands(node))
                self._pairs(first, second, side.nodes[side.at].target is ATTENTION)
            else:
                call = next(call for call in self._one.calls if call.node is node)
                self._table(call, one[call.data], len(side.values) * len(self._one.calls))
            if not bool(self._xx.sum().isfinite()):
                raise CalibrationError(NOT_FINITE.format(number, node.name))

    def _table(self, call: Contraction, data: Tensor, parts: int) -> None:
        blocks, many, _ = self._one.weights.shape
        table = call.form.table(data)
        total = _count(call, data)
        wanted = max(self._terms.samples, self._terms.each * many) // parts + 1
        rows = torch.randperm(total, generator=self._draw)[:wanted].sort().values
        for piece in rows.split(max(1, PIECE // (blocks * many))):
            x = call.form.features(table, piece.to(data.device)).double()
            ahead = int((2 * piece < total).sum())  # first examples to the first half
            for half, some in enumerate((x[:, :ahead], x[:, ahead:])):
                self._xx[half] += some.transpose(1, 2) @ some
                self._x[half] += some.sum(1)
                self._rows[half] += some.shape[1]

    def _pairs(self, first: Tensor, second: Tensor, attention: bool) -> None:
        """Add `(QᵀQ) ∘ (KᵀK)`, the products of the products of entries over all pairs."""
        second = second if attention else second.transpose(-1, -2)
        blocks, many, _ = self._one.weights.shape
        mine, yours = (one.double().transpose(-1, -2) @ one.double() for one in (first, second))
        both = mine * yours if mine.shape == yours.shape else _spread(mine, yours)
        both = both.reshape(-1, blocks, many, many)
        for half, some in enumerate(both.tensor_split(2)):
            self._xx[half] += some.sum(0)
            self._rows[half] += len(some) * first.shape[-2] * second.shape[-2]

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the moments of both halves over the rows of all processes, the same if one is."""
        rows = distributed.summed(torch.tensor(self._rows, dtype=torch.float64))
        whole = distributed.summed(self._xx), distributed.summed(self._x)
        found = list[Tensor]()
        for half in (0, 1):
            mine = [half] if rows.min() > 0 else [0, 1]
            count = rows[mine].sum().clamp(min=1.0).to(whole[0].device)
            xx, x = (one[mine].sum(0) / count for one in whole)
            found.append(xx - x[:, :, None] * x[:, None, :] if self._one.centred else xx)
        return found[0], found[1]


def _spread(mine: Tensor, yours: Tensor) -> Tensor:
    """Multiply the products of many query heads with those of fewer key heads."""
    if mine.ndim == yours.ndim and mine.shape[1] % max(1, yours.shape[1]) == 0:
        yours = yours.repeat_interleave(mine.shape[1] // yours.shape[1], 1)
    return mine * yours


def _count(call: Contraction, data: Tensor) -> int:
    """Return how many rows a call's table has."""
    if isinstance(call.form, convolutions.Patches):
        table = call.form.table(data)
        rank = len(call.form.kernel)
        return int(np.prod([len(table), *table.shape[2 : 2 + rank]]))
    return int(call.form.table(data).shape[1])
