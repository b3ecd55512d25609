"""Refit the weights of a smaller graph to what the original computes, operator by operator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune import distributed
from fxprune.errors import CalibrationError
from fxprune.graphs import attribute
from fxprune.surgery.repair.activations import Memory
from fxprune.surgery.repair.contractions import Contraction
from fxprune.surgery.repair.moments import NEVER, Moments, best_damping
from fxprune.surgery.repair.planning import Group, planned
from fxprune.surgery.repair.walk import At, Norms, Pair, Terms, Walk

SAME = 1e-5  # relative difference up to which a result is what it was
PIECE = 1 << 22  # entries of features that are looked at at a time
NOT_FINITE = (
    "repair: {}: what it is given on batch {}, or gives in the original, is not finite; look at "
    'the batch, or set repair to "none"'
)
MISFIT = "its results are not those that are kept of the original's"


@dataclass(frozen=True)
class Refit:
    """Say how far an operator's results are from the original's: squared, relative to these.

    `damping` is None where the kept weights were the best; `why` says what kept an operator from
    being refitted.
    """

    operator: str
    tensor: str
    before: float
    after: float
    damping: float | None = None
    rows: int = 0
    seconds: float = 0.0
    bytes: int = 0
    why: str = ""


@dataclass(frozen=True, eq=False)
class Written:
    """Hold weights `[B, K, N]` and what is added to the results, `[B, N]`."""

    weights: Tensor
    bias: Tensor


class Refitting:
    """Walk through two graphs, and write the best weights into the smaller one, which is owned.

    `spared` says of some tensors why they stay as they are.
    """

    def __init__(
        self,
        original: fx.GraphModule,
        smaller: fx.GraphModule,
        pairs: Mapping[fx.Node, Pair],
        batches: Sequence[tuple[Sequence[Any], Sequence[Any]]],
        terms: Terms,
        spared: Mapping[str, str],
    ) -> None:
        self._module, self._terms, self.memory = smaller, terms, Memory(terms.memory)
        self._norms = Norms(smaller, list(pairs) if terms.norms else [])
        calls = planned(smaller, list(pairs), spared)
        self._groups = {group.calls[0].node: group for group in calls.groups}
        self._why = calls.why
        nodes = {call.node for group in calls.groups for call in group.calls}
        nodes |= {*self._norms.names, *calls.why}
        met = {node: pair for node, pair in pairs.items() if node in nodes}
        self.walk = Walk(original, smaller, met, batches, self.memory)
        self._draw = torch.Generator().manual_seed(0)
        self.refits: list[Refit] = []

    def run(self) -> None:
        """Walk to the end."""
        for node in self.walk:
            if node in self._norms.names:
                self._norms.correct(self.walk, node)
            elif node in self._groups:
                self._refit(self._groups[node])
            elif node in self._why:
                self._leave(node, self._why[node])

    def _refit(self, group: Group) -> None:
        """Fit the weight of a group of calls, the first of which is where the walk is."""
        began, first, free = time.perf_counter(), group.calls[0], self._free(group)
        weight = attribute(self._module, first.weight.name)
        sizes, intercept = first.places.shape, group.biased or free
        empty = [
            Moments.none(sizes, weight.device, intercept=intercept, free=free) for _ in range(2)
        ]
        halves, far = (empty[0], empty[1]), 0.0
        kept, calls = self._written(group), {call.node: call for call in group.calls}
        for number, at in enumerate(self.walk.visits(list(calls), after=True), 1):
            far = max(far, self._distance(at))
            if far == float("inf"):
                return self._leave(first.node, MISFIT)
            if len(calls) == 1 and far <= SAME**2:
                return None
            halves = self._gathered(halves, calls[at.node], at, len(calls), kept)
            if number < len(calls):  # what later calls are given depends on what this one gives
                self._fitted(group, halves, kept)
        if far <= SAME**2:
            return None
        halves = halves[0].gathered(), halves[1].gathered()
        before, after, damping = self._fitted(group, halves, kept)
        seconds, size = time.perf_counter() - began, 3 * halves[0].bytes + self.memory.held
        rows, name = int(halves[0].rows + halves[1].rows), first.weight.name
        self.refits.append(
            Refit(first.node.name, name, before, after, damping, rows, seconds, size)
        )

    def _free(self, group: Group) -> bool:
        """Tell whether norms read all results and no bias is there, so that they make up for it."""
        return not group.biased and all(
            user in self._norms.names and user.args[0] is call.node
            for call in group.calls
            for user in call.node.users
        )

    def _distance(self, at: At) -> float:
        """Return how far a call is from the original's on the first batch: squared, relative."""
        far = 0.0
        if at.ours.values:
            wanted = at.pair.narrowed(at.whole.values[0][at.pair.node])
            far = distance(wanted, at.ours.computed(at.node, 0))
        far = float(distributed.total(np.array([far]))[0])
        if far != far:
            raise CalibrationError(NOT_FINITE.format(at.node.name, 0))
        return far

    def _gathered(
        self, halves: tuple[Moments, Moments], call: Contraction, at: At, calls: int, kept: Written
    ) -> tuple[Moments, Moments]:
        """Add what a call is given, and what it should give but for its bias."""
        blocks, features, outputs = call.places.shape
        wanted = [at.pair.narrowed(one[at.pair.node]) for one in at.whole.values]
        total = sum(one.numel() for one in wanted) // (blocks * outputs) * calls
        share = max(self._terms.samples, self._terms.each * features) / max(1, total)
        first, second = halves
        for number, (one, target) in enumerate(zip(at.ours.values, wanted, strict=True)):
            table, results = call.form.table(one[call.data]), call.form.results(target)
            many = results.shape[1]
            rows = torch.randperm(many, generator=self._draw)
            rows = rows[: max(1, round(share * many))].sort().values
            for piece in rows.split(max(1, PIECE // (blocks * features))):
                x = call.form.features(table, piece.to(results.device))
                y = results.index_select(1, piece.to(results.device)).double() - kept.bias[:, None]
                ahead = int((2 * piece < many).sum())  # first examples to the first half
                first = first.with_rows(x[:, :ahead], y[:, :ahead])
                second = second.with_rows(x[:, ahead:], y[:, ahead:])
            if not (first.finite() and second.finite()):
                raise CalibrationError(NOT_FINITE.format(call.node.name, number))
        return first, second

    def _written(self, group: Group) -> Written:
        """Return what is written down for a group, float64."""
        first = group.calls[0]
        weights = _flat(self._module, first.weight.name)[first.places].double()
        if first.bias is None or first.shift is None:
            return Written(weights, torch.zeros_like(weights[:, 0]))
        return Written(weights, _flat(self._module, first.bias.name)[first.shift].double())

    def _fitted(
        self, group: Group, halves: tuple[Moments, Moments], written: Written
    ) -> tuple[float, float, float | None]:
        """Write the best weights down; return the error before and after, and the damping."""
        first, moments = group.calls[0], halves[0] + halves[1]
        kept, many = written.weights, written.weights.shape[1]
        if moments.intercept:
            kept = torch.cat([kept, kept.new_zeros(len(kept), 1, kept.shape[2])], 1)
        size, before = moments.size(), moments.error(kept)
        given = self._terms.damping
        damping = best_damping(halves, kept) if given is None else given
        weights = moments.solved(kept, damping).clone()
        dtype = attribute(self._module, first.weight.name).dtype
        weights[:, :many] = weights[:, :many].to(dtype).double()
        if group.biased:
            bias = (written.bias + weights[:, -1]).to(dtype).double()
            weights[:, -1] = bias - written.bias
        after = moments.error(weights)
        if damping == NEVER or not after < before:  # such as for their few digits
            self._write(group, written)
            return before / size, before / size, None
        bias = written.bias + weights[:, -1] if group.biased else written.bias
        self._write(group, Written(weights[:, :many], bias))
        return before / size, after / size, damping

    def _write(self, group: Group, new: Written) -> None:
        first = group.calls[0]
        given = [(first.weight.name, first.places, new.weights)]
        if group.biased and first.bias is not None and first.shift is not None:
            given.append((first.bias.name, first.shift, new.bias))
        for name, places, values in given:
            flat, tensor = _flat(self._module, name).clone(), attribute(self._module, name)
            flat[places] = values.to(flat.dtype)
            tensor.data.copy_(flat.reshape(tensor.shape))
        self.walk.ours.refresh([name for name, *_ in given])

    def _leave(self, node: fx.Node, why: str) -> None:
        """Note an operator that stays as it is, where it gives other results."""
        for at in self.walk.visits([node], after=True):
            far = self._distance(at)
            if not far <= SAME**2:
                self.refits.append(Refit(node.name, "", far, far, why=why))


def _flat(module: fx.GraphModule, name: str) -> Tensor:
    found: Tensor = attribute(module, name).detach().reshape(-1)
    return found


def distance(wanted: Tensor, found: Any) -> float:
    """Return `Σ|wanted − found|² / Σ|wanted|²`, infinite where the shapes differ."""
    if not isinstance(found, Tensor) or wanted.shape != found.shape:
        return float("inf")
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    wanted, found = wanted.to(wide), found.to(wide)
    apart = float((wanted - found).abs().square().sum())
    return apart / max(float(wanted.abs().square().sum()), 1e-300)
