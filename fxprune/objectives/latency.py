"""Latency: a share of the original's, or milliseconds, on a device; measured, not estimated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from fxprune.cost import Cost
from fxprune.cost_terms import Term, constant, of_macs
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


@objective("latency")
@dataclass(frozen=True)
class Latency(Objective):
    """Keep the share `goal` of the latency on a `device`, or come down to a time such as "8 ms".

    What is predicted is linear in the MACs: overhead + slope · MACs, both shares of the original's
    latency. The slope is corrected by what the built model is measured to take, and the choice made
    anew, until what was asked is met (`prune` does this).
    """

    goal: Share | Annotated[str, AfterValidator(_time)]  # type: ignore[assignment]
    device: str = "ort-cpu"
    threads: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] | None = None  # 1, or what the model was captured with
    overhead: Annotated[float, Field(gt=-4.0, lt=1.0)] = 0.0
    unit: ClassVar[str] = "ms"

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
        """Return the share that is to go; of a time, once it is known what the original takes."""
        if isinstance(self.goal, str):
            raise ValueError(f"{self.goal}: not yet related to the original's latency")
        return 1.0 - self.goal

    def related(self, original: float) -> Latency:
        """Return the objective as a share of the original's latency, in milliseconds."""
        if not isinstance(self.goal, str):
            return self
        return replace(self, goal=min(1.0, milliseconds(self.goal) / original))

    def macs(self, predicted: float) -> float:
        """Return the share of the MACs at which so much is predicted."""
        return (predicted - self.overhead) / (1.0 - self.overhead)

    def corrected(self, seen: Sequence[tuple[float, float]]) -> Latency:
        """Return the objective with the prediction that fits what was measured.

        `seen` are shares of MACs with the shares of latency that were measured at them. Between
        two that lie on both sides of the goal the next is interpolated, else corrected by the
        ratio of goal and measurement.
        """
        goal = self.goal
        assert isinstance(goal, float)
        above = min((point for point in [(1.0, 1.0), *seen] if point[1] >= goal), key=itemgetter(1))
        below = max((p for p in seen if p[1] < goal), key=itemgetter(1), default=None)
        if below is not None and below[0] < above[0]:
            (x0, r0), (x1, r1) = below, above
            macs = x0 + (x1 - x0) * (goal - r0) / max(r1 - r0, 1e-6)
        else:
            x, ratio = min(seen) if below is None else below
            macs = x * goal / ratio
        if any(abs(macs - x) < 0.003 * x for x, _ in seen):  # the same widths would come out
            macs *= 0.985 if seen[-1][1] > goal else 1.015
        macs = min(0.995, max(0.01, macs))
        return replace(self, overhead=max(-3.9, (goal - macs) / (1.0 - macs)))
