"""What flows through a unit, streamed over batches: magnitude, mean, zeros, spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from fxprune import ranks
from fxprune.blocks import BlockTarget
from fxprune.calibration import detached, leaves_of
from fxprune.errors import CalibrationError
from fxprune.guards import Ids
from fxprune.metrics.footprint import Part, of_targets, reduced, scattered
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric
from fxprune.metrics.taps import Taps


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold means over all entries of a unit, of x, of x² and of [x = 0], each `[units]`."""

    mean: Scores
    square: Scores
    zero: Scores


EVERY = -1  # in place of a dimension: every entry by itself, of each example
Statistic = Callable[[Moments], Scores]


@metric("activation")
@dataclass(frozen=True)
class Activation:
    """Take √E[x²] over the entries of the unit's activation: its L2 magnitude, an entry."""

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches"
    grain: ClassVar[tuple[str, ...]] = ("units", "activations")

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return √E[x²] reduced over the places it is seen at, one array `[units]` a target."""
        return observed(evidence, self.reduction, lambda m: np.sqrt(m.square))


@metric("mean-activation")
@dataclass(frozen=True)
class MeanActivation:
    """Take E[x] over the entries of the unit's activation (Molchanov et al., arXiv:1611.06440)."""

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches"
    grain: ClassVar[tuple[str, ...]] = ("units", "activations")

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return E[x] reduced over the places it is seen at, one array `[units]` a target."""
        return observed(evidence, self.reduction, lambda m: m.mean)


@metric("apoz")
@dataclass(frozen=True)
class Apoz:
    """Take 1 − the average percentage of zeros of the activation (Hu et al., arXiv:1607.03250)."""

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches"
    grain: ClassVar[tuple[str, ...]] = ("units", "activations")

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return 1 − E[x = 0] reduced over the places, one array `[units]` a target."""
        return observed(evidence, self.reduction, lambda m: 1.0 - m.zero)


@metric("activation-std")
@dataclass(frozen=True)
class ActivationStd:
    """Take √(E[x²] − E[x]²): what is constant can be folded into the next bias."""

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches"
    grain: ClassVar[tuple[str, ...]] = ("units", "activations")

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return the deviation reduced over the places, one array `[units]` a target."""
        spread: Statistic = lambda m: np.sqrt(np.maximum(m.square - m.mean**2, 0.0))  # noqa: E731
        return observed(evidence, self.reduction, spread)


def observed(evidence: Evidence, reduction: Reduction, statistic: Statistic) -> list[Scores]:
    """Run the batches and return a statistic of every unit, one array `[units]` a target.

    Raises CalibrationError where there is no batch, the model refuses one, or a target's units are
    seen nowhere in the graph.
    """
    places = {node: dict(dims) for node, dims in Taps(evidence).places.items()}
    for node, owners in sites_of(evidence).items():
        places.setdefault(node, {})[EVERY] = owners
    reader = _Reader(evidence, places)

    def stream() -> None:
        for number, batch in evidence.calibration.each():
            leaves = leaves_of(evidence.module, evidence.signature, number, batch)
            reader.read(number, leaves)

    with torch.no_grad():
        ranks.together(stream)
    sums = dict(zip(reader.sums, ranks.totals([*reader.sums.values()]), strict=True))
    found = [
        Part(node.name, dim, False, *_of_units(node.name, g, sums[node, dim], statistic))
        for node, dims in reader.places.items()
        for dim, g in dims.items()
    ]
    return of_places(evidence, found, reduction)


def sites_of(evidence: Evidence) -> dict[fx.Node, Ids]:
    """Return the nodes whose entries are masked, each with the unit of every entry, `[n, 1]`."""
    nodes = {node.name: node for node in evidence.module.graph.nodes}
    blocks = [t for t in evidence.targets if isinstance(t, BlockTarget) and t.site]
    return {nodes[target.site]: target.owners()[:, None] for target in blocks}


def of_places(evidence: Evidence, found: list[Part], reduction: Reduction) -> list[Scores]:
    """Return numbers reduced over the places they were seen at, one array `[units]` a target.

    Raises CalibrationError where a target's units are seen nowhere in the graph.
    """
    total, count = reduced(found, reduction, evidence.coupling.guards.size)
    for target in evidence.targets:
        if not count[target.units].all():
            raise CalibrationError(
                f"metric: no activation of {target.name} is seen in the graph; exclude it, or "
                "choose a metric of weights"
            )
    return of_targets(evidence, total)


def _of_units(name: str, g: Ids, sums: Scores, statistic: Statistic) -> tuple[Ids, Scores]:
    """Gather sums over indices, `[4, n]`, to their units, and return those and the statistic."""
    units, entries = scattered(g, sums[0])
    if not entries.all():
        raise CalibrationError(f"calibrate: no example of the batches gets to {name}; give some")
    mean, square, zero = (scattered(g, row)[1] / entries for row in sums[1:])
    if np.isnan(mean).any():
        raise CalibrationError(
            f"calibrate: activations at {name} are not numbers; look at the batches and the weights"
        )
    return units, statistic(Moments(mean, square, zero))


class _Reader(fx.Interpreter):
    """Run the graph and add up count, Σx, Σx², Σ[x = 0] of each index at each place, in float64."""

    def __init__(self, evidence: Evidence, places: Mapping[fx.Node, Mapping[int, Ids]]) -> None:
        module = detached(evidence.module, gradients=False)
        super().__init__(module, graph=evidence.module.graph)
        order = {node: k for k, node in enumerate(evidence.module.graph.nodes)}
        self.places = {node: places[node] for node in sorted(places, key=order.__getitem__)}
        self.sums = {
            (node, dim): np.zeros((4, len(g)))
            for node, dims in self.places.items()
            for dim, g in dims.items()
        }

    def read(self, number: int, leaves: list[Any]) -> None:
        """Run one batch, given as the graph's inputs."""
        try:
            self.run(*leaves, enable_io_processing=False)
        except Exception as error:  # the operators raise what they like
            shapes = [str(tuple(one.shape)) for one in leaves if isinstance(one, torch.Tensor)]
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CalibrationError(
                f"calibrate: batch {number}: the model refuses {', '.join(shapes)}: {line}"
            ) from error

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and look at its result where it is tapped."""
        result = super().run_node(n)
        for dim in self.places.get(n, ()):
            self.sums[n, dim] += _sums(result, dim)
        return result


def _sums(x: torch.Tensor, dim: int) -> Scores:
    x = (x.abs() if x.is_complex() else x).detach()
    rows = x.flatten(1).T.double() if dim == EVERY else x.movedim(dim, 0).flatten(1).double()
    count = torch.full_like(rows[:, :1], rows.shape[1]).sum(1)
    found = [count, rows.sum(1), rows.square().sum(1), (rows == 0).sum(1).double()]
    return torch.stack(found).cpu().numpy()
