"""What zeroing a unit's activation does to the loss, to first order: |activation · gradient|."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fxprune.metrics.calibration import detached, streamed
from fxprune.metrics.gradients import checked_loss, derived, held
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric
from fxprune.metrics.taps import Taps, of_places
from fxprune.rules import hint, tensor_meta


@metric("act-grad")
@dataclass(frozen=True)
class ActivationGradient:
    """Take E|Σ h·∂L/∂h|, h being the entries of the unit's activation (Michel et al. 2019).

    That is the head importance of arXiv:1905.10650, for every kind of unit: h is seen where metrics
    of activations see it. The sum runs over the entries of one example, the mean over examples and
    batches, where the loss is the mean over its batch. Without `together` it is E Σ|h·∂L/∂h|. A
    graph of one batch size does not tell examples apart: there, one sum runs over the whole batch.
    """

    together: bool = True
    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches and loss"
    additive: ClassVar[bool] = True
    grain: ClassVar[tuple[str, ...]] = ("units",)

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return E|Σ h·g| reduced over the places it is seen at, one array `[units]` a target."""
        probe = _Probe(evidence, Taps(evidence), self.together)
        given = evidence.calibration.each()
        totals, many = streamed(given, probe.read, [*probe.sums.values()])
        seen = {
            place: (units, total / many)
            for (place, units), total in zip(probe.units.items(), totals, strict=True)
        }
        return of_places(evidence, seen, self.reduction)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Hold an activation and the place of its gradient, from one run of the module."""

    tap: _Tap
    value: torch.Tensor
    version: int
    edge: GradientEdge

    @property
    def changed(self) -> bool:
        """Tell whether something has written to the activation since."""
        return self.value._version != self.version


class _Tap(torch.nn.Module):
    """Return what it is given, and note it; a copy of it where something changes it in place."""

    def __init__(self, seen: list[_Seen], node: fx.Node) -> None:
        super().__init__()
        self._seen, self.node, self.copies = seen, node, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return x  # not a run that the loss is differentiated through
        if not x.requires_grad:
            x = x.detach().requires_grad_().clone()
        value = x.detach().clone() if self.copies else x.detach()
        # an edge: the gradient of x as it is here, whatever changes it in place later
        self._seen.append(_Seen(self, value, value._version, get_gradient_edge(x)))
        return x


class _Probe:
    """Run the loss on a tapped copy, batch after batch, and add up a number for each unit."""

    def __init__(self, evidence: Evidence, taps: Taps, together: bool) -> None:
        self._evidence, self._together = evidence, together
        self._places = taps.places
        self._seen: list[_Seen] = []
        self._module = self._tapped()
        self.units = {place: np.unique(g[g > 0]) for place, g in taps}
        self.sums = {place: np.zeros(len(units)) for place, units in self.units.items()}

    def _tapped(self) -> fx.GraphModule:
        given = self._evidence.module
        copy = detached(given, gradients=True)
        for node, twin in zip([*given.graph.nodes], [*copy.graph.nodes], strict=True):
            if node not in self._places:
                continue
            name = f"_tap_of_{node.name}"
            copy.add_module(name, _Tap(self._seen, node))
            with copy.graph.inserting_after(twin):
                tap = copy.graph.call_module(name, (twin,))
            twin.replace_all_uses_with(tap, delete_user_cb=lambda user, tap=tap: user is not tap)
        copy.recompile()
        return copy.eval()

    def read(self, numbered: tuple[int, Any]) -> None:
        """Run one batch, given with its number."""
        loss = self._run(*numbered)
        if changed := [one for one in self._seen if one.changed]:
            for one in changed:
                one.tap.copies = True
            loss = self._run(*numbered)
        edges = [one.edge for one in self._seen]
        found = derived(loss, edges) if edges else ()
        for one, gradient in zip(self._seen, found, strict=True):
            if gradient is not None:  # else the loss does not depend on it
                product = held(torch.mul, one.value, gradient.conj())
                self._add(one.tap.node, product.real if product.is_complex() else product)
        self._seen.clear()

    def _run(self, number: int, batch: Any) -> torch.Tensor:
        self._seen.clear()
        return checked_loss(self._evidence, self._module, number, batch)

    def _add(self, node: fx.Node, product: torch.Tensor) -> None:
        for dim, g in self._places[node].items():
            rows = self._rows(node, dim, product.double())
            units, out = self.units[node, dim], self.sums[node, dim]
            row, column = np.nonzero(g)
            of_units = np.zeros((len(units), rows.shape[1]))
            np.add.at(of_units, np.searchsorted(units, g[row, column]), rows[row])
            out += np.abs(of_units).sum(axis=1)

    def _rows(self, node: fx.Node, dim: int, product: torch.Tensor) -> Scores:
        """Return sums over the entries of each index of `dim` in each example, or of their size."""
        rows = (product if self._together else product.abs()).movedim(dim, 0)
        axis, many = self._examples(node, dim)
        if axis is None:
            rows = rows.flatten(1).sum(1, keepdim=True)
        else:
            rows = rows.movedim(axis + 1 if axis < dim else axis, 1)
            rows = rows.unflatten(1, (rows.shape[1] // many, many)).flatten(2).sum(2)
        found: Scores = rows.cpu().numpy()
        return found

    def _examples(self, node: fx.Node, dim: int) -> tuple[int | None, int]:
        """Return the dimension that examples lie along, and how many entries each takes there."""
        meta, batch = tensor_meta(node), self._evidence.signature.batch or 0
        sizes = list[int | torch.SymInt]() if meta is None else [*meta.shape]
        for axis, size in enumerate(sizes):
            if axis != dim and isinstance(size, torch.SymInt):
                many, rest = divmod(hint(size), max(batch, 1))
                return (axis if batch and many and not rest else None), many
        return None, 1
