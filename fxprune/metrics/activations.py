"""Activations of units, streamed over batches: magnitude, mean, zeros, spread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from fxprune.errors import CalibrationError
from fxprune.guards import Ids
from fxprune.metrics.calibration import detached, leaves_of, streamed
from fxprune.metrics.footprint import scattered
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric
from fxprune.metrics.taps import EVERY, Taps, of_places


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold means over all entries of a unit, of x, of x² and of [x = 0], each `[units]`."""

    mean: Scores
    square: Scores
    zero: Scores


Statistic = Callable[[Moments], Scores]


@dataclass(frozen=True)
class Observed(ABC):
    """Score units by a statistic of their activations; a metric is a class of this and says which.

    It is taken of all entries at a place, over all batches, and reduced over the places at which
    the unit is seen.
    """

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches"
    grain: ClassVar[tuple[str, ...]] = ("units", "activations")

    def score(self, evidence: Evidence) -> list[Scores]:
        """Run the batches and return the statistic, one array `[units]` a target.

        Raises CalibrationError where there is no batch, the model refuses one, or a target's units
        are seen nowhere in the graph.
        """
        reader = _Reader(evidence, Taps(evidence))
        with torch.no_grad():
            sums, _ = streamed(evidence.calibration.each(), reader.read, [*reader.sums.values()])
        seen = {
            (node, dim): _of_units(node.name, reader.places[node][dim], rows, self.statistic)
            for (node, dim), rows in zip(reader.sums, sums, strict=True)
        }
        return of_places(evidence, seen, self.reduction)

    @abstractmethod
    def statistic(self, moments: Moments) -> Scores:
        """Return a number of every unit, `[units]`."""


@metric("activation")
@dataclass(frozen=True)
class Activation(Observed):
    """Take √E[x²] over the entries of the unit's activation: its L2 magnitude, an entry."""

    def statistic(self, moments: Moments) -> Scores:
        """Return √E[x²]."""
        return np.sqrt(moments.square)


@metric("mean-activation")
@dataclass(frozen=True)
class MeanActivation(Observed):
    """Take E[x] over the entries of the unit's activation (Molchanov et al., arXiv:1611.06440)."""

    def statistic(self, moments: Moments) -> Scores:
        """Return E[x]."""
        return moments.mean


@metric("apoz")
@dataclass(frozen=True)
class Apoz(Observed):
    """Take 1 − the average percentage of zeros of the activation (Hu et al., arXiv:1607.03250)."""

    def statistic(self, moments: Moments) -> Scores:
        """Return 1 − E[x = 0]."""
        return 1.0 - moments.zero


@metric("activation-std")
@dataclass(frozen=True)
class ActivationStd(Observed):
    """Take √(E[x²] − E[x]²): what is constant can be folded into the next bias."""

    def statistic(self, moments: Moments) -> Scores:
        """Return the deviation."""
        return np.sqrt(np.maximum(moments.square - moments.mean**2, 0.0))


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


@contextmanager
def refused(number: int, leaves: Sequence[Any]) -> Iterator[None]:
    """Say which batch the model refuses; raises CalibrationError for what it raises."""
    try:
        yield
    except CalibrationError:
        raise
    except Exception as error:  # the operators raise what they like
        shapes = [str(tuple(one.shape)) for one in leaves if isinstance(one, torch.Tensor)]
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CalibrationError(
            f"calibrate: batch {number}: the model refuses {', '.join(shapes)}: {line}"
        ) from error


class _Reader(fx.Interpreter):
    """Run the graph and add up count, Σx, Σx², Σ[x = 0] of each index at each place, in float64."""

    def __init__(self, evidence: Evidence, taps: Taps) -> None:
        module = detached(evidence.module, gradients=False)
        super().__init__(module, graph=evidence.module.graph)
        self._evidence, self.places = evidence, taps.places
        self.sums = {place: np.zeros((4, len(g))) for place, g in taps}

    def read(self, numbered: tuple[int, Any]) -> None:
        """Run one batch, given with its number."""
        number, batch = numbered
        leaves = leaves_of(self._evidence.module, self._evidence.signature, number, batch)
        with refused(number, leaves):
            self.run(*leaves, enable_io_processing=False)

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
