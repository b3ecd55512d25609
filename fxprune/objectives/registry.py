"""Keep the table of objectives by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from fxprune.cost import Cost
from fxprune.guards import Mask


class Objective(Protocol):
    """Measure a choice of units against what was asked: 1 is the whole model."""

    goal: float

    def measure(self, cost: Cost, alive: Mask, gone: float) -> float:
        """Return the share that is left; `gone` is the share of units that leave."""


OBJECTIVES: dict[str, type[Objective]] = {}
T = TypeVar("T", bound=type[Objective])


def objective(name: str) -> Callable[[T], T]:
    """Register a frozen dataclass as the objective `name`."""

    def decorate(cls: T) -> T:
        OBJECTIVES[name] = cls
        return cls

    return decorate
