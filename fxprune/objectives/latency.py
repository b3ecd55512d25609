"""Latency: a share of the original's, or milliseconds, on a device; measured, not estimated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import AfterValidator, Field

from fxprune.cost import Cost, Term
from fxprune.cost.terms import constant, of_macs
from fxprune.guards import Mask
from fxprune.objectives.registry import Objective, Share, objective

MILLISECONDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|us|µs)\s*")
UNITS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}


def milliseconds(text: str) -> float:
    """Return a time written with its unit in milliseconds; raises ValueError where it is none.

    >>> milliseconds("8 ms"), milliseconds("0.5s")
    (8.0, 500.0)
    """
    found = MILLISECONDS.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise ValueError('a share of the original such as 0.5, or a time such as "8 ms", is needed')
    return float(found[1]) * UNITS[found[2]]


def _time(text: str) -> str:
    milliseconds(text)
    return text


class Model(Protocol):
    """Predict latencies as shares of the original's."""

    @property
    def roundings(self) -> tuple[int, ...]:
        """Return the multiples that widths should be of, the coarsest first."""

    def share(self, cost: Cost, alive: Mask) -> float:
        """Return the share that what is alive takes."""

    def terms(self, cost: Cost, factor: float) -> Sequence[Term]:
        """Return terms whose sum is about the share times a factor."""


@objective("latency")
@dataclass(frozen=True)
class Latency(Objective):
    """Keep the share `goal` of the latency on a `device`, or come down to a time such as "8 ms".

    On `ort-cpu` what is predicted is the sum over the fused kernels of the graph, which are timed
    over a lattice of widths and remembered in a `table`: a file, the one in the user's cache if
    none is named. On other devices, and where the graph does not show its widths, it is the MACs.
    What is built is measured, the prediction corrected, overhead + (1 − overhead) · prediction in
    shares of the original's latency, and the choice made again, until the goal is met.
    """

    goal: Share | Annotated[str, AfterValidator(_time)]  # type: ignore[assignment]
    device: str = "ort-cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    batch: Annotated[int, Field(ge=1, le=2**16)] | None = (
        None  # 1, or what the model was captured with
    )
    overhead: Annotated[float, Field(gt=-4.0, lt=1.0)] = 0.0
    table: str | None = None
    unit: ClassVar[str] = "ms"

    def timed(self, model: Model) -> Timed:
        """Return the objective that predicts by a model of kernels instead of MACs."""
        return Timed(**{f.name: getattr(self, f.name) for f in fields(Latency)}, model=model)

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return the predicted latency, as a share of that of a model of as many MACs."""
        whole = self.whole(cost)
        return self.overhead * whole + (1.0 - self.overhead) * cost.macs(alive)

    def terms(self, cost: Cost) -> Sequence[Term]:
        """Return a term a product, and the overhead."""
        overhead = constant(self.overhead * self.whole(cost))
        return [*of_macs(cost, 1.0 - self.overhead), overhead]

    def whole(self, cost: Cost) -> float:
        """Return the MACs of the whole model, which stand for its latency."""
        return float(cost.macs(cost.whole()))

    @property
    def sparsity(self) -> float:
        """Return the share to remove; of a time, once it is known what the original takes."""
        if isinstance(self.goal, str):
            raise ValueError(f"{self.goal}: not yet related to the original's latency")
        return 1.0 - self.goal

    def related(self, original: float) -> Latency:
        """Return the objective as a share of the original's latency, in milliseconds."""
        if not isinstance(self.goal, str):
            return self
        return replace(self, goal=min(1.0, milliseconds(self.goal) / original))

    def uncorrected(self, predicted: float) -> float:
        """Return the share that is predicted without the correction, given that with it."""
        return (predicted - self.overhead) / (1.0 - self.overhead)

    def corrected(self, seen: Sequence[tuple[float, float]]) -> Latency:
        """Return the objective with the prediction that fits what was measured.

        `seen` are shares as predicted without correction, with those that were measured. Between
        two that lie on both sides of the goal the next is interpolated, else corrected by the
        ratio of goal and measurement.
        """
        goal = self.goal
        assert isinstance(goal, float)
        above = min((point for point in [(1.0, 1.0), *seen] if point[1] >= goal), key=itemgetter(1))
        below = max((p for p in seen if p[1] < goal), key=itemgetter(1), default=None)
        if below is not None and below[0] < above[0]:
            (x0, r0), (x1, r1) = below, above
            share = x0 + (x1 - x0) * (goal - r0) / max(r1 - r0, 1e-6)
        else:
            x, ratio = min(seen) if below is None else below
            share = x * goal / ratio
        if any(abs(share - x) < 0.003 * x for x, _ in seen):  # the same widths would come out
            share *= 0.985 if seen[-1][1] > goal else 1.015
        share = min(0.995, max(0.01, share))
        return replace(self, overhead=max(-3.9, (goal - share) / (1.0 - share)))


@dataclass(frozen=True)
class Timed(Latency):
    """Predict by a model of kernels: see `Latency`."""

    model: Any = None  # a Model

    @property
    def options(self) -> dict[str, Any]:
        """Return what stands beside the goal in a specification."""
        return {f.name: getattr(self, f.name) for f in fields(Latency) if f.name != "goal"}

    @property
    def roundings(self) -> tuple[int, ...]:
        """Return the multiples at which the kernels' staircases have their steps."""
        found: tuple[int, ...] = self.model.roundings
        return found

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return the predicted latency, as a share of the original's."""
        share: float = self.model.share(cost, alive)
        return self.overhead + (1.0 - self.overhead) * share

    def terms(self, cost: Cost) -> Sequence[Term]:
        """Return a term a group of kernels, and the overhead."""
        return [*self.model.terms(cost, 1.0 - self.overhead), constant(self.overhead)]

    def whole(self, cost: Cost) -> float:
        """Return 1: what is counted are shares."""
        return 1.0
