"""Optimal Brain Surgeon: what a network loses with a unit once everything else is refitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, fx

from fxprune import distributed
from fxprune.guards import Ids
from fxprune.metrics.activations import Activation
from fxprune.metrics.calibration import detached, leaves_of
from fxprune.metrics.elimination import Block, best_damping, eliminated
from fxprune.metrics.registry import Curve, Evidence, Needs, Scores, metric
from fxprune.metrics.sensitivity import Probe
from fxprune.registry import WIDEST
from fxprune.surgery.repair import Terms
from fxprune.surgery.repair.activations import GIBIBYTE
from fxprune.surgery.repair.consumers import Consumer, consumers, measured
from fxprune.targets import Target

Weigh = Literal["outputs", "relative"]
Key = tuple[fx.Node, ...]  # the calls of a consumer
EACH = 4  # rows looked at for each feature, at least
SMALLEST = 1e-300
ALIKE = 0.5  # how much the errors of the rows of one example are taken to be correlated


@metric("obs")
@dataclass(frozen=True)
class Obs:
    """Take what the consumers of a unit lose without it, all that is left being refitted.

    For a consumer with weights W and inputs x, `P = (E[x xᵀ] + λ)⁻¹` and S the unit's inputs, with
    all of their kernel, that is `tr(W_Sᵀ P_SS⁻¹ W_S)`, summed over all consumers; units go
    greedily, P and W following each (ZipLM, arXiv:2302.04089; OBC, arXiv:2208.11580). So
    every target has a curve of loss over width, of which the allocation `optimal` takes the
    values; the others rank by its steps. No labels are needed; with repair after it, the loss is
    what repair cannot mend.

    With `weigh` "outputs", errors count by what they change of the network's outputs, which
    gradients of random sums of the outputs tell; those of the rows (positions, tokens) of one
    example are taken as half correlated: what is pooled later does not average them out. With
    "relative", errors count by their share of what the consumer, or a norm right behind it, gives,
    without gradients. λ is `damping` times the mean of the diagonal of E[x xᵀ]; "auto" takes that
    with which each half of the examples tells best what the other loses. Of each
    consumer `samples` rows are looked at, or 4 for each feature, and activations of more than
    `memory` bytes go to disk. A unit that no weight reads counts by the share of its activation in
    its target.
    """

    weigh: Weigh = "relative"
    damping: float | Literal["auto"] = "auto"
    samples: int = 16384
    memory: int = 2 * GIBIBYTE
    needs: ClassVar[Needs] = "batches"
    additive: ClassVar[bool] = True
    grain: ClassVar[tuple[str, ...]] = ("units",)

    def __post_init__(self) -> None:
        legal = self.damping == "auto" or 0.0 <= self.damping < inf
        if not legal or not 1 <= self.samples <= WIDEST or self.memory < 0:
            raise ValueError(
                f"damping={self.damping} (auto, or 0 or more), samples={self.samples} (1 or more), "
                f"memory={self.memory} (0 or more): one is out of its range"
            )

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return the steps of the curves, one array `[units]` a target."""
        return [curve.scores for curve in self.curves(evidence)]

    def curves(self, evidence: Evidence) -> list[Curve]:
        """Return for each target in which order its units go, and what is lost on the way.

        Raises CalibrationError where there is no batch, the model refuses one, or activations are
        not finite.
        """
        own = _copied(evidence)
        batches = [
            leaves_of(own.module, own.signature, number, batch)
            for number, batch in evidence.calibration.each()
        ]
        places = [_places(own, k) for k in range(len(own.targets))]
        every = consumers(own.module, own.coupling)
        readers = [[one for one in every if _reads(one, place)] for place in places]
        read = {one.nodes: one for one in every if any(one in listed for listed in readers)}
        shares = _shares(own, [*read.values()], batches) if self.weigh == "outputs" else {}
        terms = Terms(samples=self.samples, each=EACH, memory=self.memory)
        ready: dict[Key, Consumer] = {}
        curves: dict[int, Curve] = {}
        for one in measured(own.module, [*read.values()], batches, terms):
            ready[one.nodes] = one
            waiting = [k for k, listed in enumerate(readers) if listed and k not in curves]
            for k in waiting:
                if all(reader.nodes in ready for reader in readers[k]):
                    mine = [ready[reader.nodes] for reader in readers[k]]
                    blocks = [b for m in mine for b in self._blocks(m, places[k], shares)]
                    curves[k] = Curve(*eliminated(blocks, len(own.targets[k])))
            needed = {r.nodes for k in waiting if k not in curves for r in readers[k]}
            ready = {key: one for key, one in ready.items() if key in needed}
        alone = [k for k in range(len(own.targets)) if k not in curves]
        curves |= zip(alone, _unread(evidence, [evidence.targets[k] for k in alone]), strict=True)
        return [curves[k] for k in range(len(own.targets))]

    def _blocks(self, one: Consumer, place: Ids, shares: Mapping[Key, Tensor]) -> list[Block]:
        """Return the matrices of a consumer, their results weighed by how much they matter."""
        moments, weights = one.moments, _weighed(one, shares.get(one.nodes))
        owners, found = _owned(one, place), list[Block]()
        for b, own in enumerate(owners):
            mine = weights[b] * _stays(one, place, own, b).to(weights.device)
            if bool(mine[torch.from_numpy(np.flatnonzero(own >= 0))].any()):
                halves = [half[b] for half in one.halves]
                auto = self.damping == "auto"
                damping = best_damping(halves, mine, own) if auto else float(self.damping)
                found.append(Block(moments[b], mine, own, damping))
        return found


def _copied(evidence: Evidence) -> Evidence:
    """Return evidence whose module may be run without a trace, with the guards of its nodes."""
    module = detached(evidence.module, gradients=False)
    twins = dict(zip(evidence.module.graph.nodes, module.graph.nodes, strict=True))
    values = {twins[n]: v for n, v in evidence.coupling.values.items() if n in twins}
    return replace(evidence, module=module, coupling=replace(evidence.coupling, values=values))


def _places(evidence: Evidence, k: int) -> Ids:
    """Return for every variable which unit of a target it is, −1 for none."""
    place = np.full(evidence.coupling.guards.size, -1, dtype=np.int64)
    units = evidence.targets[k].units
    place[units] = np.arange(len(units))
    return place


def _owned(one: Consumer, place: Ids) -> Ids:
    """Return which unit each feature `[B, K]` belongs to, −1 for none."""
    found: Ids = place[one.features].max(axis=2)
    return found


def _stays(one: Consumer, place: Ids, own: Ids, block: int) -> Tensor:
    """Return which weights `[K, N]` of a block lead to results that stay without their unit."""
    results = place[one.outputs[block]]
    if not (results >= 0).any():
        return torch.ones(1, 1, dtype=torch.float64)
    goes = ((own[:, None, None] == results[None]) & (results[None] >= 0)).any(axis=2)
    return torch.from_numpy(~goes).double()


def _reads(one: Consumer, place: Ids) -> bool:
    """Tell whether results that stay are computed from units of a target."""
    owners = _owned(one, place)
    for block, own in enumerate(owners):
        mine = np.flatnonzero(own >= 0)
        if len(mine) and bool((_stays(one, place, own, block).expand(len(own), -1)[mine]).any()):
            return True
    return False


def _weighed(one: Consumer, share: Tensor | None) -> Tensor:
    """Return weights whose squared errors count as they matter."""
    weights = one.weights if share is not None else one.weights * one.scales[:, None, :]
    energy = (weights * (one.moments @ weights)).sum((1, 2))
    if share is None:
        return weights / energy.sum().clamp(min=SMALLEST).sqrt()
    if one.pairs:
        return weights * (share / energy.clamp(min=SMALLEST)).sqrt()[:, None, None]
    return weights * share.sqrt()[:, None, :]


def _shares(
    evidence: Evidence, read: Sequence[Consumer], batches: Sequence[Sequence[Any]]
) -> dict[Key, Tensor]:
    """Return how much the squared errors of results matter, `[B, N]`, or `[B]` of products."""
    probe = Probe(evidence, {node for one in read for node in one.tapped})
    sums = {
        one.nodes: torch.zeros(
            one.weights.shape[:1] if one.pairs else one.weights[:, 0].shape,
            dtype=torch.float64,
            device=one.weights.device,
        )
        for one in read
    }
    for number, leaves in enumerate(batches):
        seen = probe.of(leaves, number)
        for one in read:
            for node in one.tapped:
                if node in seen:
                    sums[one.nodes] += _felt(one, node, *seen[node])
    count = float(distributed.summed(torch.tensor([float(len(batches))], dtype=torch.float64)))
    return {key: distributed.summed(total) / max(1.0, count) for key, total in sums.items()}


def _felt(one: Consumer, node: fx.Node, value: Tensor, gradient: Tensor) -> Tensor:
    """Return the squared gradients of each result; of a product, that of its whole scale.

    Errors that are alike in all rows of an example add up before they are squared.
    """
    if one.pairs:
        rows = (value.double() * gradient.double()).sum(-1).square().sum(-1)
        return rows.reshape(-1, len(one.weights)).sum(0)
    call = next(call for call in one.calls if call.node is node)
    each: Tensor = call.form.results(gradient).double()
    alone, examples = each.square().sum(1), max(1, len(gradient))
    if each.shape[1] % examples:
        return alone
    sums = each.unflatten(1, (examples, -1)).sum(2)
    found: Tensor = (1.0 - ALIKE) * alone + ALIKE * sums.square().sum(1)
    return found


def _unread(evidence: Evidence, targets: Sequence[Target]) -> list[Curve]:
    """Return curves of units that no weight reads, by the shares of their activations."""
    if not targets:
        return []
    found = list[Curve]()
    for score in Activation().score(replace(evidence, targets=targets)):
        share = np.square(score) / max(float(np.square(score).sum()), SMALLEST)
        order = np.argsort(share, kind="stable")
        found.append(Curve(order, np.cumsum(share[order])))
    return found
