"""Objectives that count: sparsity ratio, parameters, MACs."""

from __future__ import annotations

from dataclasses import dataclass

from fxprune.cost import Cost
from fxprune.guards import Mask
from fxprune.objectives.registry import Objective, objective


@objective("params")
@dataclass(frozen=True)
class Params(Objective):
    """Keep the share `goal` of the parameters."""

    def measure(self, cost: Cost, alive: Mask, gone: float) -> float:
        """Return kept parameters over all parameters of the model."""
        return cost.params(alive) / max(1, cost.every_param())


@objective("macs")
@dataclass(frozen=True)
class Macs(Objective):
    """Keep the share `goal` of the multiply-accumulates."""

    def measure(self, cost: Cost, alive: Mask, gone: float) -> float:
        """Return kept MACs over all MACs."""
        return cost.macs(alive) / max(1, cost.macs(cost.whole()))


@objective("ratio")
@dataclass(frozen=True)
class Ratio(Objective):
    """Remove the share `1 - goal` of the units of the selected targets."""

    def measure(self, cost: Cost, alive: Mask, gone: float) -> float:
        """Return the share of units kept."""
        return 1.0 - gone
