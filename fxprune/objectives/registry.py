"""Keep the table of objectives by name, and what an objective says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from pydantic import Field

from fxprune.cost import Cost, Term
from fxprune.guards import Mask
from fxprune.registry import Registry

ROUNDINGS = (8, 4, 2, 1)
Share = Annotated[float, Field(gt=0.0, le=1.0)]
O = TypeVar("O", bound="Objective")  # noqa: E741


@dataclass(frozen=True)
class Objective(ABC):
    """Say how much of a cost of the original model is to be kept: the share `goal`, 1 the whole.

    A new objective is a frozen dataclass with `count` and a name: `@objective("latency")`. Other
    fields are its options, which stand beside its name in the specification.
    """

    goal: Share
    unit: ClassVar[str] = ""  # what `count` counts, for people to read

    @abstractmethod
    def count(self, cost: Cost, alive: Mask) -> float:
        """Return the cost of what is alive."""

    def whole(self, cost: Cost) -> float:
        """Return the cost of the whole model."""
        return self.count(cost, cost.whole())

    def terms(self, cost: Cost) -> Sequence[Term] | None:
        """Return the addends of `count`, each a function of the sizes of a few axes; None, if none.

        They must sum to `count` whatever is alive: for a latency, say, a table for every kernel
        over the widths that it reads and makes. Without them `optimal` asks `count` for one target
        after the other, and sees what two cost together only by asking again.
        """
        return None

    @property
    def roundings(self) -> tuple[int, ...]:
        """Return what widths are rounded to where `round_to` is "auto", the coarsest first.

        Kernels work on blocks of channels: widths that are no multiples of them run on slower
        paths, so that a narrower layer can be slower. The first at which the goal is met is taken.
        """
        return ROUNDINGS

    @property
    def options(self) -> dict[str, Any]:
        """Return what stands beside the goal in a specification."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "goal"}

    @property
    def sparsity(self) -> float:
        """Return the share to remove."""
        return 1.0 - self.goal

    def at(self: O, sparsity: float) -> O:
        """Return the same objective at another sparsity, as a step of a schedule asks."""
        return replace(self, goal=1.0 - sparsity)


OBJECTIVES = Registry("objective", "fxprune.objectives", ("count",))
objective = OBJECTIVES.register


def goal_type(name: str) -> Any:
    """Return the type that the goal of an objective has."""
    return get_type_hints(OBJECTIVES[name], include_extras=True)["goal"]


def make(name: str, options: Mapping[str, Any]) -> Objective:
    """Return the objective `name` with the options of a specification.

    >>> make("macs", {"goal": 0.5}).sparsity
    0.5
    """
    made: Objective = OBJECTIVES.make(name, options)
    return made
