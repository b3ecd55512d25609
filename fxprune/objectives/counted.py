"""Objectives that count: sparsity ratio, parameters, MACs, bytes of weights and of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from fxprune.cost import Cost, Term
from fxprune.cost.terms import of_bytes, of_macs, of_params
from fxprune.guards import Mask
from fxprune.objectives.registry import Objective, objective


@objective("ratio")
@dataclass(frozen=True)
class Ratio(Objective):
    """Remove the share `goal` of the units of the selected targets, and no more than it."""

    goal: Annotated[float, Field(ge=0.0, lt=1.0)]
    unit: ClassVar[str] = "units"

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return nothing: units are counted by the budget, which knows the targets."""
        raise NotImplementedError

    @property
    def sparsity(self) -> float:
        """Return the share to remove."""
        return self.goal

    def at(self, sparsity: float) -> Ratio:
        """Return the ratio at a step of a schedule."""
        return replace(self, goal=sparsity)


@objective("params")
@dataclass(frozen=True)
class Params(Objective):
    """Keep the share `goal` of the parameters; those that a mask keeps at zero are not kept."""

    unit: ClassVar[str] = "parameters"

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return kept parameters."""
        return cost.params(alive) - cost.masked(alive)

    def terms(self, cost: Cost) -> Sequence[Term] | None:
        """Return a term a tensor; what a mask keeps of one is no function of its sizes."""
        return None if cost.blocks else of_params(cost)

    def whole(self, cost: Cost) -> float:
        """Return all parameters of the model, those that nothing reads too."""
        return cost.every_param()


@objective("macs")
@dataclass(frozen=True)
class Macs(Objective):
    """Keep the share `goal` of the multiply-accumulates."""

    unit: ClassVar[str] = "MACs"

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return kept MACs for one example."""
        return cost.macs(alive)

    def terms(self, cost: Cost) -> Sequence[Term]:
        """Return a term a product."""
        return of_macs(cost)


@objective("bytes")
@dataclass(frozen=True)
class Bytes(Objective):
    """Keep the share `goal` of the bytes of all weights and buffers."""

    unit: ClassVar[str] = "bytes"

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return kept bytes of parameters and buffers."""
        return cost.bytes(alive)

    def terms(self, cost: Cost) -> Sequence[Term]:
        """Return a term a tensor."""
        return of_bytes(cost)

    def whole(self, cost: Cost) -> float:
        """Return the bytes of all tensors of the model, those that nothing reads too."""
        return cost.every_byte()


@objective("activations")
@dataclass(frozen=True)
class Activations(Objective):
    """Keep the share `goal` of the peak bytes of activations alive at once, for one example."""

    unit: ClassVar[str] = "bytes of activations"

    def count(self, cost: Cost, alive: Mask) -> float:
        """Return the peak over the nodes of the bytes of values that are still to be read."""
        return cost.peak_activations(alive)
